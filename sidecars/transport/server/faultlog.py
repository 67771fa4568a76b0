"""One log line a second at most about peers that break rules, however many do."""

from collections.abc import Callable

import structlog

from sidecars.transport.http2.errors import Reason

_log = structlog.get_logger("sidecars.transport")

SECONDS_BETWEEN_LINES = 1.0
"""A flood of faults must not become a flood of log lines; the counter has them all."""


class FaultLog:
    """Logs a fault, unless one was logged within the last second; the next line tells how many were not."""

    __slots__ = ("_clock", "_next", "_suppressed")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = float("-inf")
        self._suppressed = 0

    def fault(self, reason: Reason, detail: str, peer: str) -> None:
        """Log why the connection of `peer` ended."""
        now = self._clock()
        if now < self._next:
            self._suppressed += 1
            return
        self._next = now + SECONDS_BETWEEN_LINES
        _log.warning(
            "connection ended", reason=str(reason), detail=detail, peer=peer, suppressed=self._suppressed
        )
        self._suppressed = 0
