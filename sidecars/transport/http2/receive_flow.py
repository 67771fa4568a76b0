"""Receive windows, which are replenished only as the handlers read (RFC 9113 section 5.2)."""

from collections.abc import Iterable

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Bidirectional, ClientStreaming, Code, Status
from sidecars.transport.http2.errors import GoAwayError, Reason, StreamResetError
from sidecars.transport.http2.frames import DEFAULT_WINDOW_BYTES, MAX_WINDOW_BYTES, ErrorCode, window_update
from sidecars.transport.http2.headers import ANY_LENGTH
from sidecars.transport.http2.held_bytes import HeldBytes
from sidecars.transport.http2.messages import PREFIX_BYTES, MessageDeframer, inflate
from sidecars.transport.http2.stream import Stream


class ReceiveFlow:
    """The windows that we grant to the peer: one for the connection and one for each stream.

    A window is replenished when half of it is used, which keeps WINDOW_UPDATE rare. Complete messages that
    no handler has read are not replenished, so a handler that does not read stops its peer.
    """

    __slots__ = (
        "_held_by_all",
        "_limits",
        "_max_inflated_bytes",
        "first_window",
        "held_bytes",
        "low",
        "unread_bytes",
        "window",
    )

    def __init__(self, limits: Limits, held_by_all: HeldBytes) -> None:
        self._limits = limits
        self._held_by_all = held_by_all
        self._max_inflated_bytes = min(limits.max_inflated_bytes, limits.max_message_bytes)
        self.first_window = max(limits.stream_window_bytes, DEFAULT_WINDOW_BYTES)
        """The window of a new stream: at least the default until the peer has acknowledged our SETTINGS."""
        self.window = DEFAULT_WINDOW_BYTES
        """How many bytes the peer may still send on the connection."""
        self.low = limits.connection_window_bytes // 2
        """The window is replenished when it falls below this."""
        self.held_bytes = 0
        """Bytes of incomplete messages."""
        self.unread_bytes = 0
        """Bytes of complete messages that wait for their handler."""

    @property
    def exceeds_share(self) -> bool:
        """Whether the connection must hold no more unfinished messages, because all hold too many."""
        return self._held_by_all.exceeds_share(self.held_bytes)

    def received(self, size: int) -> None:
        """Count a DATA frame. Raises GoAwayError when the peer sent more than it may."""
        self.window -= size
        if self.window < 0:
            raise GoAwayError(
                ErrorCode.FLOW_CONTROL_ERROR, Reason.FLOW_CONTROL, "DATA beyond the connection's window"
            )

    def top_up(self) -> bytes:
        """The WINDOW_UPDATE that opens the connection again; empty if it is open or must stay closed."""
        target = self._limits.connection_window_bytes - self.unread_bytes
        self.low = max(target // 2, 0)
        if self.window > self.low or target <= self.window:
            return b""
        if self.held_bytes >= self._limits.max_held_bytes or self.exceeds_share:
            return b""
        increment = target - self.window
        self.window = target
        return window_update(0, increment)

    def settings_acknowledged(self, streams: Iterable[Stream]) -> bytes:
        """Apply our stream window to `streams`; the WINDOW_UPDATE frames that open those it closed.

        It counts for streams that were opened before, too (RFC 9113 section 6.9.2).
        """
        change = self._limits.stream_window_bytes - self.first_window
        self.first_window = self._limits.stream_window_bytes
        updates = b""
        if change:
            for stream in streams:
                stream.receive_window += change
                updates += self.top_up_stream(stream)
        return updates

    def received_on(self, stream: Stream, size: int) -> None:
        """Count a DATA frame of `stream`. Raises StreamResetError when the peer sent more than it may."""
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamResetError(
                stream.id,
                ErrorCode.FLOW_CONTROL_ERROR,
                Reason.FLOW_CONTROL,
                "DATA beyond the stream's window",
            )

    def top_up_stream(self, stream: Stream) -> bytes:
        """The WINDOW_UPDATE that opens the window of `stream` again; empty if it is open or must stay closed.

        An incomplete message never closes the window, because its size has a limit.
        """
        if stream.remote_closed or stream.assembler is None:
            return b""
        target = self._limits.stream_window_bytes - stream.assembler.whole_bytes
        if stream.receive_window > target // 2 or target <= stream.receive_window:
            return b""
        increment = target - stream.receive_window
        stream.receive_window = target
        return window_update(stream.id, increment)

    def assemble(self, stream: Stream, assembler: MessageDeframer, payload: bytes, now: float) -> bool:
        """Whether DATA of `stream` completes messages, which then wait for its handler.

        Raises StatusError for a message that is too large or malformed; call `forget` then.
        """
        held, whole = assembler.held_bytes, assembler.whole_bytes
        try:
            messages = assembler.feed(payload)
        finally:
            self._hold(assembler.held_bytes - held)
            self.unread_bytes += assembler.whole_bytes - whole
        # A request of one message has one time limit: otherwise each surplus message would restart it.
        if (messages or not held) and isinstance(stream.request.method, ClientStreaming | Bidirectional):
            stream.message_began = now
        return messages > 0

    def take(self, stream: Stream, assembler: MessageDeframer) -> tuple[bytes | Status, int]:
        """The first waiting message, or why it cannot be inflated; and the number of bytes inflated.

        The bytes of the message no longer count as unread.
        """
        message, compressed = assembler.take()
        self.unread_bytes -= len(message) + PREFIX_BYTES
        if not compressed:
            return message, 0
        if not stream.request.gzip:
            return Status(Code.INTERNAL, "a compressed message, and no grpc-encoding that says how"), 0
        return inflate(message, self._max_inflated_bytes)

    def take_late(self, stream: Stream) -> bytes:
        """Hand over the messages that came after the reply; the WINDOW_UPDATE frames that this earns.

        A compressed one ends that: what inflating costs is bounded for calls that are not over.
        """
        while stream.late and stream.assembler is not None and stream.assembler.whole_messages:
            message, compressed = stream.assembler.take()
            self.unread_bytes -= len(message) + PREFIX_BYTES
            if compressed or not stream.late(message, stream.call):
                stream.late = None
                self.forget(stream)
        return self.top_up_stream(stream) + self.top_up()

    def open_wide(self, stream: Stream) -> bytes:
        """The WINDOW_UPDATE frames by which the client of a call that ends may send all that it holds.

        What other streams hold, and their handlers do not read, comes off: they may use the window, too.
        """
        widest = min(self._limits.max_held_bytes - self.held_bytes - self.unread_bytes, MAX_WINDOW_BYTES)
        updates = b""
        if stream.receive_window < widest:
            updates += window_update(stream.id, widest - stream.receive_window)
            stream.receive_window = widest
        if self.window < widest:
            updates += window_update(0, widest - self.window)
            self.window = widest
        return updates

    def forget(self, stream: Stream) -> None:
        """Release what no handler will read."""
        if stream.assembler is not None:
            self._hold(-stream.assembler.held_bytes)
            self.unread_bytes -= stream.assembler.whole_bytes
            stream.assembler = None

    def _hold(self, more: int) -> None:
        self.held_bytes += more
        self._held_by_all.total += more


def check_length(stream: Stream, *, ended: bool) -> None:
    """Raises StreamResetError if DATA and content-length cannot agree (RFC 9113 section 8.1.1)."""
    expected = stream.request.content_length
    if expected == ANY_LENGTH:
        return
    if stream.received_bytes > expected or (ended and stream.received_bytes != expected):
        raise StreamResetError(
            stream.id,
            ErrorCode.PROTOCOL_ERROR,
            Reason.CONTENT_LENGTH,
            f"content-length {expected}, DATA {stream.received_bytes}",
        )
