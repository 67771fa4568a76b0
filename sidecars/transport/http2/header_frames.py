"""HEADERS and CONTINUATION: a header block is collected, decoded, and begins a call or ends its request."""

from sidecars.transport.api.limits import Limits
from sidecars.transport.http2.control import Control
from sidecars.transport.http2.errors import GoAwayError, Reason, StreamResetError, malformed, protocol_error
from sidecars.transport.http2.frames import END_HEADERS, ErrorCode
from sidecars.transport.http2.header_decoder import HeaderDecoder
from sidecars.transport.http2.headers import MalformedRequestError
from sidecars.transport.http2.pending_header_block import PendingHeaderBlock
from sidecars.transport.http2.stream import ServerCall
from sidecars.transport.http2.streams import Streams


class HeaderFrames:
    """The header blocks of a connection outside the fast path."""

    __slots__ = ("_blocks", "_control", "_limits", "_streams", "open")

    def __init__(self, blocks: HeaderDecoder, streams: Streams, control: Control, limits: Limits) -> None:
        self._blocks = blocks
        self._streams = streams
        self._control = control
        self._limits = limits
        self.open: PendingHeaderBlock | None = None
        """The incomplete block; until it is complete only CONTINUATION may follow."""

    def headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        """HEADERS came (RFC 9113 section 6.2)."""
        self.open = PendingHeaderBlock(flags, stream_id, payload, self._streams.now)
        self._end(self.open, flags)

    def continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        """CONTINUATION came (RFC 9113 section 6.10)."""
        if self.open is None or self.open.stream_id != stream_id:
            raise protocol_error(Reason.FRAME_ORDER, "CONTINUATION of no open header block")
        self.open.extend(payload, self._limits)
        self._end(self.open, flags)

    def _end(self, block: PendingHeaderBlock, flags: int) -> None:
        block.check_size(self._limits)
        if flags & END_HEADERS:
            self.open = None
            self._take(block, b"".join(block.fragments))

    def _take(self, block: PendingHeaderBlock, encoded: bytes) -> None:
        """A complete header block: a new call, or the trailers of one."""
        stream_id = block.stream_id
        streams = self._streams
        if stream_id in streams.table:
            self._trailers(block, encoded)
            return
        if stream_id <= streams.stream_table.last_id:
            self._late(stream_id, encoded)
            return
        if self._control.final_id is not None:
            self._blocks.discard(encoded)
            return
        streams.stream_table.last_id = stream_id
        try:
            request = self._blocks.request(encoded)
        except MalformedRequestError as error:
            raise malformed(stream_id, str(error)) from None
        block.check_dependency()
        streams.open(stream_id, ServerCall(request, encoded, streams.peer, streams.now), ended=block.ended)

    def _trailers(self, block: PendingHeaderBlock, encoded: bytes) -> None:
        try:
            self._blocks.trailers(encoded)
        except MalformedRequestError as error:
            raise malformed(block.stream_id, str(error)) from None
        block.check_dependency()
        if not block.ended:
            raise malformed(block.stream_id, "trailers that do not end the stream")
        self._streams.end_request(self._streams.table[block.stream_id])

    def _late(self, stream_id: int, encoded: bytes) -> None:
        """HEADERS on a closed stream."""
        stream_table = self._streams.stream_table
        if stream_table.was_reset(stream_id):
            self._streams.flood_guard.count(Reason.IDLE_FRAME_FLOOD, self._streams.now)
            self._blocks.discard(encoded)
        elif stream_table.was_reset_by_peer(stream_id):
            self._blocks.discard(encoded)
            raise StreamResetError(
                stream_id, ErrorCode.STREAM_CLOSED, Reason.STREAM_CLOSED, "HEADERS after RST_STREAM"
            )
        elif stream_id == stream_table.last_id:
            raise GoAwayError(
                ErrorCode.STREAM_CLOSED,
                Reason.STREAM_CLOSED,
                f"HEADERS on stream {stream_id}, which is closed",
            )
        else:
            raise protocol_error(Reason.STREAM_ID, f"HEADERS on stream {stream_id}: numbers only rise")
