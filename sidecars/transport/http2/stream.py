"""One stream: what it holds while its call is not over (RFC 9113 section 5.1)."""

from collections import deque
from typing import Any

from sidecars.transport.http2.call import ServerCall
from sidecars.transport.http2.headers import Request
from sidecars.transport.http2.messages import MessageDeframer


class Stream:
    """The state of a stream. A call that is answered in the read that brought it never gets one."""

    __slots__ = (
        "assembler",
        "call",
        "closed",
        "headers_sent",
        "id",
        "local_closed",
        "message_began",
        "receive_window",
        "received_bytes",
        "remote_closed",
        "request",
        "running",
        "send_window",
        "stalled_since",
        "trailers",
        "unsent",
    )

    def __init__(
        self, stream_id: int, request: Request, call: ServerCall, receive_window: int, send_window: int
    ) -> None:
        self.id = stream_id
        self.request = request
        self.call = call
        self.assembler: MessageDeframer | None = None
        """What of the request no handler has read; None once nobody will."""
        self.receive_window = receive_window
        """What the peer may still send."""
        self.received_bytes = 0
        """DATA without padding, to be compared with content-length."""
        self.message_began = call.arrived
        """When the message that is not whole yet began; for a request of one message, when the call did."""
        self.remote_closed = False
        """Half-closed (remote): END_STREAM came."""
        self.send_window = send_window
        """What we may still send; negative after SETTINGS shrank it (RFC 9113 section 6.9.2)."""
        self.unsent: deque[bytes | memoryview] | None = None
        """DATA that waits for a window."""
        self.stalled_since: float | None = None
        """When `unsent` was seen waiting; None again as soon as some of it leaves."""
        self.headers_sent = False
        self.trailers: bytes | None = None
        """What ends the stream once nothing is unsent."""
        self.local_closed = False
        """Half-closed (local): our END_STREAM is out, or waits behind `unsent`."""
        self.closed = False
        self.running: Any = None
        """What the dispatch keeps here: the task of the handler and what it waits for."""
