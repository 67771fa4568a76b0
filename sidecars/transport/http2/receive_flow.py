"""What may still come in: receive windows that open only as the handlers read (RFC 9113 section 5.2)."""

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Bidirectional, ClientStreaming
from sidecars.transport.http2.errors import GoAwayError, Reason, StreamResetError
from sidecars.transport.http2.frames import DEFAULT_WINDOW_BYTES, ErrorCode, window_update
from sidecars.transport.http2.headers import ANY_LENGTH
from sidecars.transport.http2.messages import PREFIX_BYTES, MessageDeframer
from sidecars.transport.http2.stream import Stream


class ReceiveFlow:
    """The windows that we grant: one for the connection, one a stream.

    A window is topped up when half of it is used, which keeps WINDOW_UPDATE rare. Bytes of whole messages
    that no handler has read are left out of it, so a handler that does not read stops its peer.
    """

    __slots__ = ("_limits", "held_bytes", "low", "unread_bytes", "window")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.window = DEFAULT_WINDOW_BYTES
        """What the peer may still send on the connection."""
        self.low = limits.connection_window_bytes // 2
        """Below this the window is topped up."""
        self.held_bytes = 0
        """Bytes of messages that are not whole yet."""
        self.unread_bytes = 0
        """Bytes of whole messages that wait for their handler."""

    def received(self, size: int) -> None:
        """Count a DATA frame. Raises GoAwayError when the peer sent more than it may."""
        self.window -= size
        if self.window < 0:
            raise GoAwayError(
                ErrorCode.FLOW_CONTROL_ERROR, Reason.FLOW_CONTROL, "DATA beyond the connection's window"
            )

    def top_up(self) -> bytes:
        """The WINDOW_UPDATE that opens the connection again; empty where it is open or must stay shut."""
        target = self._limits.connection_window_bytes - self.unread_bytes
        self.low = max(target // 2, 0)
        if self.window > self.low or self.held_bytes >= self._limits.max_held_bytes or target <= self.window:
            return b""
        increment = target - self.window
        self.window = target
        return window_update(0, increment)

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
        """The same for one stream; a message that is not whole never shuts it, as its size has a limit."""
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

        Raises StatusError for one that is too large or no message; all of the stream is to be forgotten then.
        """
        held, whole = assembler.held_bytes, assembler.whole_bytes
        try:
            messages = assembler.feed(payload)
        finally:
            self.held_bytes += assembler.held_bytes - held
            self.unread_bytes += assembler.whole_bytes - whole
        # A request of one message has its time as a whole: else each message too many would start it anew.
        if (messages or not held) and isinstance(stream.request.method, ClientStreaming | Bidirectional):
            stream.message_began = now
        return messages > 0

    def take(self, assembler: MessageDeframer) -> tuple[bytes, bool]:
        """The first of the messages that wait, and whether it is compressed; its bytes may come again."""
        message, compressed = assembler.take()
        self.unread_bytes -= len(message) + PREFIX_BYTES
        return message, compressed

    def forget(self, stream: Stream) -> None:
        """Let go of what no handler will read."""
        if stream.assembler is not None:
            self.held_bytes -= stream.assembler.held_bytes
            self.unread_bytes -= stream.assembler.whole_bytes
            stream.assembler = None


def check_length(stream: Stream, *, ended: bool) -> None:
    """Raises StreamResetError where DATA and content-length cannot agree (RFC 9113 section 8.1.1)."""
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
