"""One stream of a connection, and the call that it carries."""

from collections import deque
from dataclasses import dataclass
from typing import Any

from sidecars.transport.api.service import ClientStreaming, Metadata, Status
from sidecars.transport.http2.headers import RequestHead
from sidecars.transport.http2.messages import MessageDeframer


class ServerCall:
    """One call as its handler sees it: a `service.Call` whose values are computed when they are read."""

    __slots__ = ("_block", "arrived", "cancelled", "peer", "request")

    def __init__(self, request: RequestHead, block: bytes, peer: str, arrived: float) -> None:
        self.request = request
        self._block = b"" if request.template is None else block
        """The header block, if the metadata is in it."""
        self.arrived = arrived
        self.peer = peer
        self.cancelled = False

    @property
    def method(self) -> str:
        """The full path, `/package.Service/Method`."""
        return self.request.path

    @property
    def metadata(self) -> Metadata:
        """The request metadata."""
        return self.request.metadata_of(self._block)

    @property
    def deadline(self) -> float | None:
        """When the caller gives up, on the clock of `time.monotonic`; None: it never does."""
        timeout = self.request.timeout_seconds
        return None if timeout is None else self.arrived + timeout


class Stream:
    """One stream in a state of RFC 9113 section 5.1, and what it holds for its call.

    The states follow from three flags:

    - idle: no Stream exists, and the identifier is above `StreamTable.last_id`.
    - open: neither `remote_closed` nor `local_closed`.
    - half-closed (remote): `remote_closed`. The peer has sent END_STREAM, so the request is complete.
    - half-closed (local): `local_closed`. END_STREAM of the reply is sent or waits after `unsent`.
    - closed: `closed`, by END_STREAM in both directions or by RST_STREAM. The Stream has left the table.

    The reserved states do not exist, because clients do not push. A call that is answered in the read that
    brought it never gets a Stream.
    """

    __slots__ = (
        "assembler",
        "call",
        "closed",
        "headers_sent",
        "id",
        "late",
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

    def __init__(self, stream_id: int, call: ServerCall, receive_window: int, send_window: int) -> None:
        self.id = stream_id
        self.request = call.request
        self.call = call
        self.assembler: MessageDeframer | None = None
        """The part of the request that no handler has read; None once no handler will read it."""
        self.receive_window = receive_window
        """How many bytes the peer may still send."""
        self.received_bytes = 0
        """Bytes of DATA so far without padding, to compare with content-length."""
        self.message_began = call.arrived
        """When the incomplete message began or, for a request of one message, when the call began."""
        self.remote_closed = False
        """Whether END_STREAM has arrived."""
        self.send_window = send_window
        """How many bytes we may still send; negative after SETTINGS reduced it (RFC 9113 section 6.9.2)."""
        self.unsent: deque[bytes | memoryview] | None = None
        """DATA that waits for a window."""
        self.stalled_since: float | None = None
        """When `unsent` was first seen waiting; None again once some of it is sent."""
        self.headers_sent = False
        self.trailers: bytes | None = None
        """The frame that ends the stream once nothing is unsent."""
        self.local_closed = False
        """Whether the reply is decided: END_STREAM is sent, or waits after `unsent`."""
        self.closed = False
        """Whether the stream has left the table."""
        self.running: Any = None
        """The call handler's own data: the task of the handler and what it waits for."""
        method = self.request.method
        self.late = method.after_reply if isinstance(method, ClientStreaming) else None
        """What takes the messages that come after the handler has ended the call."""

    @property
    def reads_on(self) -> bool:
        """Whether the handler has ended the call, and its method takes what still comes."""
        return self.late is not None and self.running is None and not self.closed


@dataclass(slots=True)
class Ending:
    """A call that its handler has ended, while its client sends what it holds."""

    stream: Stream
    outcome: bytes | Status
    give_up_at: float
    received_bytes: int = -1
    """Bytes of DATA until the last PING came back; -1: none has."""
