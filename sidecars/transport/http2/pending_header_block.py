"""A header block on its way: HEADERS and the CONTINUATION behind it (RFC 9113 sections 4.3, 6.2 and 6.10)."""

from sidecars.transport.api.limits import Limits
from sidecars.transport.http2.errors import (
    GoAwayError,
    Reason,
    StreamResetError,
    frame_size_error,
    protocol_error,
)
from sidecars.transport.http2.frames import END_STREAM, PADDED, PRIORITY_FLAG, R_BIT, ErrorCode, parse_uint32


class PendingHeaderBlock:
    """A header block that may not be complete."""

    __slots__ = ("_continuations", "_self_dependent", "_size", "began", "ended", "fragments", "stream_id")

    def __init__(self, flags: int, stream_id: int, payload: bytes, now: float) -> None:
        if not stream_id & 1:
            raise protocol_error(Reason.STREAM_ID, f"HEADERS on stream {stream_id}: clients use odd numbers")
        fragment = without_padding(flags, payload)
        self._self_dependent = False
        if flags & PRIORITY_FLAG:
            if len(fragment) < 5:
                raise frame_size_error("HEADERS too short for their priority")
            self._self_dependent = parse_uint32(fragment[:4]) & ~R_BIT == stream_id
            fragment = fragment[5:]
        self.stream_id = stream_id
        self.began = now
        self.ended = bool(flags & END_STREAM)
        self.fragments = [fragment]
        self._size = len(fragment)
        self._continuations = 0

    def extend(self, fragment: bytes, limits: Limits) -> None:
        """CONTINUATION came. Raises GoAwayError when there are too many."""
        self._continuations += 1
        if self._continuations > limits.max_continuation_frames:
            raise GoAwayError(
                ErrorCode.ENHANCE_YOUR_CALM,
                Reason.CONTINUATION_FLOOD,
                f"more than {limits.max_continuation_frames} CONTINUATION frames",
            )
        self.fragments.append(fragment)
        self._size += len(fragment)

    def check_size(self, limits: Limits) -> None:
        """Raises GoAwayError when the block is too large already."""
        if self._size > limits.max_header_block_bytes:
            raise GoAwayError(
                ErrorCode.ENHANCE_YOUR_CALM,
                Reason.HEADER_LIST_SIZE,
                f"a header block of more than {limits.max_header_block_bytes} bytes",
            )

    def check_dependency(self) -> None:
        """Raises StreamResetError for a stream that depends on itself; asked once the table is in step."""
        if self._self_dependent:
            raise StreamResetError(
                self.stream_id,
                ErrorCode.PROTOCOL_ERROR,
                Reason.SELF_DEPENDENCY,
                "a stream that depends on itself",
            )


def without_padding(flags: int, payload: bytes) -> bytes:
    """What a DATA or HEADERS frame holds besides padding (RFC 9113 section 6.1)."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise frame_size_error("a padded frame without its pad length")
    padding = payload[0]
    if padding >= len(payload):
        raise protocol_error(Reason.PADDING, "more padding than frame")
    return payload[1 : len(payload) - padding]
