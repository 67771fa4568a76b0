"""Log lines about entries that a sink lost: the first at once, then a sum every few seconds."""

from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from accesslog.records.counters import DropReason

REPORT_SECONDS: Final = 10.0
"""A sink that is away loses thousands of entries a second; one line for each would fill the disk."""

_log = structlog.get_logger("accesslog")


class DropLog:
    """Says which entries of `sink` were lost, and why."""

    __slots__ = ("_clock", "_reported_at", "_sink", "_unreported")

    def __init__(self, sink: str, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._clock = clock
        self._unreported: Counter[DropReason] = Counter()
        self._reported_at: float | None = None

    def note(self, reason: DropReason, entries: int) -> None:
        """Count `entries` as lost, and say so if that is due."""
        self._unreported[reason] += entries
        now = self._clock()
        if self._reported_at is None or now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            self.report()

    def report(self) -> None:
        """Say now what was not said yet."""
        for reason, entries in self._unreported.items():
            _log.error("entries dropped", sink=self._sink, reason=reason, entries=entries)
        self._unreported.clear()
