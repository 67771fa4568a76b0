"""One call as its handler sees it."""

from sidecars.transport.api.service import Metadata
from sidecars.transport.http2.headers import Request


class ServerCall:
    """A `transport.service.Call`. Nothing is worked out before it is asked for."""

    __slots__ = ("_request", "arrived", "cancelled", "peer")

    def __init__(self, request: Request, peer: str, arrived: float) -> None:
        self._request = request
        self.arrived = arrived
        self.peer = peer
        self.cancelled = False

    @property
    def method(self) -> str:
        """The full path, `/package.Service/Method`."""
        return self._request.path

    @property
    def metadata(self) -> Metadata:
        """The request metadata."""
        return self._request.metadata

    @property
    def deadline(self) -> float | None:
        """When the caller gives up, on the clock of `time.monotonic`; None: it never does."""
        timeout = self._request.timeout_seconds
        return None if timeout is None else self.arrived + timeout
