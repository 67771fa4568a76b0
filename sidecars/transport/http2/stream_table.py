"""Which streams are open, how many more may be opened, and which were reset."""

from collections import deque
from typing import Final

from sidecars.transport.api.limits import Limits
from sidecars.transport.http2.errors import Reason, StreamResetError
from sidecars.transport.http2.frames import ErrorCode
from sidecars.transport.http2.stream import Stream

MAX_REMEMBERED_RESETS: Final = 128
"""How many reset streams are remembered. Frames on a stream that we reset are not an error, because the peer
may not know yet (RFC 9113 section 5.1); frames on a stream that the peer reset are one."""


class StreamTable:
    """The streams of one connection by their numbers."""

    __slots__ = (
        "_limits",
        "_resets",
        "cancels",
        "cut",
        "header_bytes",
        "last_id",
        "most",
        "opened",
        "table",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.header_bytes = 0
        """Memory for the header lists of the open streams."""
        self._resets: deque[int] | None = None
        """Streams that we reset, and those that the peer did as negative numbers."""
        self.table: dict[int, Stream] = {}
        self.last_id = 0
        """The highest stream that the peer opened."""
        self.opened = 0
        """How many streams the peer opened."""
        self.cut = 0
        """How many streams ended with RST_STREAM before their answer."""
        self.cancels = False
        """Whether the peer has ever reset a stream: its next call may be gone by the time it is read."""
        self.most = limits.max_concurrent_streams
        """The most streams that may be open; 0 while their header lists take too much memory."""

    @property
    def finished(self) -> int:
        """Streams that ended with their answer."""
        return self.opened - self.cut - len(self.table)

    def add(self, stream: Stream) -> None:
        """Add an open stream."""
        self.opened += 1
        self.table[stream.id] = stream
        request = stream.request
        self.header_bytes += request.memory_bytes or request.estimate_memory()
        if self.header_bytes > self._limits.max_open_header_bytes:
            self.most = 0

    def remove(self, stream: Stream) -> None:
        """Remove a closed stream, if it is still there."""
        if self.table.pop(stream.id, None) is not None:
            self.header_bytes -= stream.request.memory_bytes
            if self.header_bytes <= self._limits.max_open_header_bytes:
                self.most = self._limits.max_concurrent_streams

    def check_room(self, stream_id: int) -> None:
        """Raises StreamResetError when one stream more is too many; its call may be tried again."""
        if len(self.table) < self.most:
            return
        if self.most:
            reason, detail = Reason.TOO_MANY_STREAMS, f"more than {self.most} streams at once"
        else:
            most_bytes = self._limits.max_open_header_bytes
            reason, detail = Reason.HEADER_LIST_SIZE, f"open header lists of more than {most_bytes} bytes"
        raise StreamResetError(stream_id, ErrorCode.REFUSED_STREAM, reason, detail)

    def remember_reset(self, stream_id: int, *, by_peer: bool) -> None:
        """Remember a stream that ended with RST_STREAM."""
        if self._resets is None:
            self._resets = deque(maxlen=MAX_REMEMBERED_RESETS)
        self._resets.append(-stream_id if by_peer else stream_id)

    def was_reset(self, stream_id: int) -> bool:
        """Whether we reset the stream recently."""
        return self._resets is not None and stream_id in self._resets

    def was_reset_by_peer(self, stream_id: int) -> bool:
        """Whether the peer reset the stream recently."""
        return self._resets is not None and -stream_id in self._resets
