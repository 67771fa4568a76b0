"""Sinks that fail, hang and recover on demand, and batches of lines to send through them."""

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum, auto

from accesslog.pipeline import Pipeline
from accesslog.records.counters import DropReason, LogCounters
from accesslog.records.line_batch import LineBatch
from accesslog.sinks.queue import Bounds, SinkQueue
from accesslog.sinks.sink import SinkError

PATIENT = Bounds(first_backoff_seconds=0, longest_backoff_seconds=0)


class Mood(Enum):
    """The behaviour of a sink."""

    GOOD = auto()
    HANGS = auto()
    FULL = auto()
    BROKEN = auto()
    DEFECT = auto()


class MoodySink:
    """A sink in memory."""

    def __init__(self, name: str = "moody", mood: Mood = Mood.GOOD) -> None:
        self.name = name
        self.mood = mood
        self.lines: list[bytes] = []
        self.batches: list[int] = []
        self.attempts = 0
        self.closed = False
        self.reopened = 0
        self.checked = 0
        self._changed = asyncio.Event()

    def become(self, mood: Mood) -> None:
        self.mood = mood
        self._changed.set()

    async def open(self) -> None:
        if self.mood is not Mood.GOOD:
            raise SinkError(DropReason.IO_ERROR, "cannot be opened")

    async def write(self, lines: Sequence[bytes]) -> None:
        self.attempts += 1
        while self.mood is Mood.HANGS:
            self._changed.clear()
            await self._changed.wait()
        if self.mood is Mood.FULL:
            raise SinkError(DropReason.DISK_FULL, "no space left")
        if self.mood is Mood.BROKEN:
            raise SinkError(DropReason.BROKEN_PIPE, "no reader", retry=False)
        if self.mood is Mood.DEFECT:
            raise ZeroDivisionError
        self.lines += lines
        self.batches.append(len(lines))

    async def check(self) -> None:
        self.checked += 1
        if self.mood is Mood.DEFECT:
            raise ZeroDivisionError
        if self.mood is not Mood.GOOD:
            raise SinkError(DropReason.IO_ERROR, "would fail")

    async def reopen(self) -> None:
        self.reopened += 1
        if self.mood is Mood.FULL:
            raise SinkError(DropReason.DISK_FULL, "no space left")

    async def close(self) -> None:
        self.closed = True


class Clock:
    """A clock that moves only when the test sets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Observed:
    """Records the reports of the sink queues."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, float]] = []
        self.failures: list[tuple[str, DropReason]] = []

    def wrote(self, sink: str, seconds: float) -> None:
        self.writes.append((sink, seconds))

    def failed(self, sink: str, reason: DropReason) -> None:
        self.failures.append((sink, reason))


def line_batch(log: LogCounters, count: int = 1, line_bytes: int = 10) -> LineBatch:
    """Return `count` lines that count as received."""
    lines = tuple((b"%d-%d" % (log.received, n)).ljust(line_bytes - 1, b".") + b"\n" for n in range(count))
    log.received += count
    return LineBatch(log, lines, sum(map(len, lines)))


def pipeline(
    *sinks: MoodySink,
    bounds: Bounds = PATIENT,
    clock: Clock | None = None,
    observed: Observed | None = None,
    required: Sequence[str] = (),
) -> Pipeline:
    """Return a pipeline to `sinks`."""
    clock = clock or Clock()
    observed = observed or Observed()
    return Pipeline(
        [SinkQueue(sink, bounds, clock, observed, required=sink.name in required) for sink in sinks]
    )


async def until(true: Callable[[], bool]) -> None:
    """Wait, at most half a minute, until `true` returns true."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  # counters and files have no event
            await asyncio.sleep(0.001)


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)
