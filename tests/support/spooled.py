"""A pipeline with a spool, as one process has it."""

from pathlib import Path

from accesslog.pipeline import Pipeline
from accesslog.records.counters import EntryCounters, LogCounters
from accesslog.sinks.queue import Bounds, SinkQueue
from accesslog.sinks.spooling import SinkSpool, SpoolBounds
from tests.support.sinks import PATIENT, Clock, Mood, MoodySink, Observed, line_batch, until

QUICK = SpoolBounds(sync_seconds=0.02)


class Spooled:
    """A pipeline to one sink with a spool in `folder`, as one process has it."""

    def __init__(
        self,
        folder: Path,
        mood: Mood = Mood.GOOD,
        *,
        bounds: Bounds = PATIENT,
        spool_bounds: SpoolBounds = QUICK,
        segment_bytes: int = 1000,
    ) -> None:
        self.counters = EntryCounters()
        self.log: LogCounters = self.counters.log("edge", "http")
        self.sink = MoodySink(mood=mood)
        self.clock = Clock()
        self.spool = SinkSpool(
            folder, "moody", self.counters.log, self.clock, spool_bounds, segment_bytes=segment_bytes
        )
        self.queue = SinkQueue(self.sink, bounds, self.clock, Observed(), spool=self.spool)
        self.other = MoodySink("other")
        self.line = Pipeline([self.queue, SinkQueue(self.other, bounds, self.clock, Observed())])
        self.sent: list[bytes] = []

    async def start(self) -> None:
        await self.line.start()
        await until(lambda: self.spool.is_open or self.spool.failing)

    async def send(self, count: int = 1) -> None:
        batch = line_batch(self.log, count)
        self.sent += batch.lines
        await self.line.submit(batch)

    async def on_disk(self, entries: int) -> None:
        await until(lambda: self.spool.entries == entries and not self.queue.entries)

    def check(self) -> None:
        """At rest: what is in flight is in memory or on disk."""
        in_flight = sum(log.in_flight("moody") for log in self.counters)
        assert in_flight == self.queue.entries + self.spool.entries


def segments(folder: Path) -> list[Path]:
    """Return the segments of a spool."""
    return sorted(folder.glob("*.spool"))
