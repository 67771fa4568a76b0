"""Who counts what happens on the connections; the transport itself knows no metrics library."""

from typing import Protocol

from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import ErrorCode


class Observer(Protocol):
    """Told of events off the common path; never of a call that went well."""

    def connection_opened(self) -> None:
        """A connection was accepted."""

    def connection_closed(self) -> None:
        """A connection that was opened is gone, for whatever reason."""

    def peer_error(self, reason: Reason) -> None:
        """A peer broke a rule and lost its connection or a stream."""

    def goaway_sent(self, code: ErrorCode) -> None:
        """A connection was told that it ends; of a drain, the second time."""

    def reset_sent(self, code: ErrorCode) -> None:
        """We sent RST_STREAM."""

    def reset_received(self) -> None:
        """The peer sent RST_STREAM."""


class _Nobody:
    def connection_opened(self) -> None: ...

    def connection_closed(self) -> None: ...

    def peer_error(self, reason: Reason) -> None: ...

    def goaway_sent(self, code: ErrorCode) -> None: ...

    def reset_sent(self, code: ErrorCode) -> None: ...

    def reset_received(self) -> None: ...


NO_OBSERVER: Observer = _Nobody()
