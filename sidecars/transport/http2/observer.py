"""Counts events on connections; the transport itself uses no metrics library."""

from typing import Protocol

from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import ErrorCode


class Observer(Protocol):
    """Receives events outside the fast path; a successful call causes none."""

    def connection_opened(self) -> None:
        """A connection was accepted."""

    def connection_closed(self) -> None:
        """A connection that was opened has ended, for any reason."""

    def peer_error(self, reason: Reason) -> None:
        """A peer broke a rule and lost its connection or a stream."""

    def goaway_sent(self, code: ErrorCode) -> None:
        """A GOAWAY was sent; in a drain, the second one."""

    def reset_sent(self, code: ErrorCode) -> None:
        """We sent RST_STREAM."""

    def reset_received(self) -> None:
        """The peer sent RST_STREAM."""


class _NullObserver:
    def connection_opened(self) -> None: ...

    def connection_closed(self) -> None: ...

    def peer_error(self, reason: Reason) -> None: ...

    def goaway_sent(self, code: ErrorCode) -> None: ...

    def reset_sent(self, code: ErrorCode) -> None: ...

    def reset_received(self) -> None: ...


NO_OBSERVER: Observer = _NullObserver()
