"""What a sink is: where lines go. One sink, one queue, one task that writes."""

from collections.abc import Sequence
from typing import Final, Protocol

from accesslog.records.counters import DropReason

CLOSE_SECONDS: Final = 1.0
"""The longest that closing a sink may take: what hangs must not keep the process from ending."""


class SinkError(Exception):
    """A batch was not written. `retry` says whether trying again may help.

    The first `written` lines of the batch arrived; they are not sent again. `retry_after_seconds` is the
    pause that the server asks for. `works`: the sink does not fail, it refuses these lines alone.
    """

    def __init__(
        self,
        reason: DropReason,
        message: str,
        *,
        retry: bool = True,
        written: int = 0,
        retry_after_seconds: float | None = None,
        works: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry = retry
        self.written = written
        self.retry_after_seconds = retry_after_seconds
        self.works = works


class Sink(Protocol):
    """Somewhere to write. Never called twice at a time; does no I/O on the event loop."""

    @property
    def name(self) -> str:
        """The label `sink` of the metrics; unique among the sinks of a process."""

    async def open(self) -> None:
        """Make ready. Raises SinkError; `write` then opens by itself once that works."""

    async def write(self, lines: Sequence[bytes]) -> None:
        """Write all of `lines`; each ends in a newline. Raises SinkError."""

    async def check(self) -> None:
        """Raises SinkError where a write would fail, as far as that shows without writing."""

    async def reopen(self) -> None:
        """Close what is open, so that the next write opens it again (log rotation). Raises SinkError."""

    async def close(self) -> None:
        """Finish what was begun and close. Returns soon, whatever hangs; raises nothing."""
