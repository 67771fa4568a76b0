"""Handles DATA frames off the fast path: counts them and passes them to their streams."""

from sidecars.transport.http2.control import Control
from sidecars.transport.http2.errors import Reason, StreamResetError
from sidecars.transport.http2.frames import END_STREAM, ErrorCode
from sidecars.transport.http2.pending_header_block import without_padding
from sidecars.transport.http2.shedding import refusal
from sidecars.transport.http2.streams import Streams


class Bodies:
    """The request bodies of a connection."""

    __slots__ = ("_control", "_streams")

    def __init__(self, streams: Streams, control: Control) -> None:
        self._streams = streams
        self._control = control

    def data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """DATA came (RFC 9113 section 6.1). Raises GoAwayError or StreamResetError."""
        data = without_padding(flags, payload)
        ended = bool(flags & END_STREAM)
        streams = self._streams
        streams.receive_flow.received(len(payload))
        stream = streams.table.get(stream_id)
        try:
            if not data and not ended:
                streams.flood_guard.count(Reason.EMPTY_FRAME_FLOOD, streams.now)
            if stream is not None:
                streams.data(stream, data, len(payload), ended=ended)
            elif self._control.check_gone(stream_id, "DATA"):
                self._data_after_close(stream_id)
        finally:
            self.top_up()

    def skip(self, stream_id: int, size: int) -> None:
        """DATA came for a call that its caller cancelled before it was read. Raises GoAwayError."""
        streams = self._streams
        streams.receive_flow.received(size)
        self.top_up()
        streams.observer.reset_received()
        streams.flood_guard.count(Reason.RAPID_RESET, streams.now)
        streams.stream_table.remember_reset(stream_id, by_peer=True)

    def refuse(self, stream_id: int, size: int) -> None:
        """The DATA of a whole call came, which is refused unread. Raises GoAwayError."""
        streams = self._streams
        streams.receive_flow.received(size)
        self.top_up()
        streams.send_queue.put(refusal(stream_id))
        streams.stream_table.opened += 1

    def top_up(self) -> None:
        """Open the connection's window again once half of it is used."""
        frame = self._streams.receive_flow.top_up()
        if frame:
            self._streams.send_queue.put(frame)

    def _data_after_close(self, stream_id: int) -> None:
        """A stream error (RFC 9113 section 5.1), which is not counted if the peer has reset the stream.

        grpc-java cancels a call with RST_STREAM and sends the DATA that it had queued before.
        """
        if self._streams.stream_table.was_reset_by_peer(stream_id):
            self._streams.reset(stream_id, ErrorCode.STREAM_CLOSED)
            return
        raise StreamResetError(
            stream_id, ErrorCode.STREAM_CLOSED, Reason.STREAM_CLOSED, "DATA on a stream that is closed"
        )
