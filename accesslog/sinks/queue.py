"""A sink with its bounded queue and the task that empties it."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from accesslog.records.counters import DropReason
from accesslog.records.decoder import LineBatch
from accesslog.sinks.sink import Sink, SinkError

_log = structlog.get_logger("accesslog")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait for a sink, and how it is written."""

    queue_entries: int = 20_000
    queue_bytes: int = 32 * 1024 * 1024
    """Memory for the queue of one sink; about 16,000 records of 2 kB."""
    batch_bytes: int = 256 * 1024
    """A write stops gaining at a few hundred kB; a smaller one frees room sooner."""
    retry_timeout_seconds: float = 30.0
    """How long a sink may fail before what waits for it is dropped, so that Envoy is read again."""
    first_backoff_seconds: float = 0.1
    longest_backoff_seconds: float = 5.0


class SinkObserver(Protocol):
    """The events of a sink that a metrics registry counts."""

    def wrote(self, sink: str, seconds: float) -> None:
        """A batch was written, and how long that took."""

    def failed(self, sink: str, reason: DropReason) -> None:
        """An attempt to write a batch failed."""


class SinkQueue:
    """The batches of lines on their way to one sink.

    `entries` and `size_bytes` count what waits and what is being written. The counters in each batch's log
    change once a batch, when it has been written or is given up.
    """

    __slots__ = (
        "_arrived",
        "_batches",
        "_clock",
        "_failing_since",
        "_freed",
        "_observer",
        "bounds",
        "entries",
        "required",
        "sink",
        "size_bytes",
    )

    def __init__(
        self,
        sink: Sink,
        bounds: Bounds,
        clock: Callable[[], float],
        observer: SinkObserver,
        *,
        required: bool = False,
    ) -> None:
        self.sink = sink
        self.bounds = bounds
        self.required = required
        self.entries = 0
        self.size_bytes = 0
        self._clock = clock
        self._observer = observer
        self._batches: deque[LineBatch] = deque()
        self._arrived = asyncio.Event()
        self._freed: Callable[[], None] = lambda: None
        self._failing_since: float | None = None

    @property
    def failing(self) -> bool:
        """Whether the last attempt to open, to write or to see whether writing would work failed."""
        return self._failing_since is not None

    def on_freed(self, freed: Callable[[], None]) -> None:
        """Have `freed` called whenever there is more room."""
        self._freed = freed

    def has_room(self, line_batch: LineBatch) -> bool:
        """Whether `line_batch` fits. An empty queue takes any: one beyond the bounds would wait forever."""
        if not self.entries:
            return True
        return (
            self.entries + len(line_batch.lines) <= self.bounds.queue_entries
            and self.size_bytes + line_batch.size_bytes <= self.bounds.queue_bytes
        )

    def put(self, line_batch: LineBatch) -> None:
        """Queue `line_batch`."""
        self._batches.append(line_batch)
        self.entries += len(line_batch.lines)
        self.size_bytes += line_batch.size_bytes
        self._arrived.set()

    def refuse(self, line_batch: LineBatch, reason: DropReason) -> None:
        """Count `line_batch` as dropped by this sink without queueing it."""
        line_batch.log.dropped_by[self.sink.name, reason] += len(line_batch.lines)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            while not self._batches:
                self._arrived.clear()
                await self._until_something_arrives()
            await self._deliver(self._next_batch())

    def not_ready(self) -> None:
        """The sink could not be opened."""
        if self._failing_since is None:
            self._failing_since = self._clock()

    async def _until_something_arrives(self) -> None:
        """Wait for a batch. A failing sink is checked until then, so that its recovery is noticed."""
        while self.failing and not self._batches:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.bounds.longest_backoff_seconds):
                    await self._arrived.wait()
                return
            await self._check()
        await self._arrived.wait()

    async def _check(self) -> None:
        try:
            await self.sink.check()
        except SinkError:
            return
        except Exception:  # as in `_deliver`
            _log.exception("sink failed unexpectedly", sink=self.sink.name)
            return
        self._recovered(self._clock())

    def abandon(self) -> None:
        """Count all remaining entries as dropped, after the last end of `run`."""
        for line_batch in self._batches:
            self.refuse(line_batch, DropReason.SHUTDOWN)
        self._batches.clear()
        self.entries = self.size_bytes = 0

    def _next_batch(self) -> list[LineBatch]:
        """The oldest batches, at least one, up to the size of one write. They stay queued until settled."""
        batch: list[LineBatch] = []
        size_bytes = 0
        for line_batch in self._batches:
            size_bytes += line_batch.size_bytes
            if batch and size_bytes > self.bounds.batch_bytes:
                break
            batch.append(line_batch)
        return batch

    async def _deliver(self, batch: list[LineBatch]) -> None:
        lines = [line for line_batch in batch for line in line_batch.lines]
        backoff_seconds = self.bounds.first_backoff_seconds
        while True:
            began = self._clock()
            try:
                await self.sink.write(lines)
            except SinkError as error:
                failure = error
            # A sink with a defect must not end the task that serves it: Envoy would wait forever.
            except Exception as error:
                _log.exception("sink failed unexpectedly", sink=self.sink.name)
                failure = SinkError(DropReason.SINK_DEFECT, repr(error), retry=False)
            else:
                now = self._clock()
                self._observer.wrote(self.sink.name, now - began)
                self._recovered(now)
                self._settle(batch, None)
                return
            self._observer.failed(self.sink.name, failure.reason)
            self._failed(failure)
            if not failure.retry or self._patience_is_over():
                self._settle(batch, failure.reason)
                return
            await asyncio.sleep(backoff_seconds)
            backoff_seconds = min(backoff_seconds * 2, self.bounds.longest_backoff_seconds)

    def _patience_is_over(self) -> bool:
        """While a sink goes on failing beyond its time, each batch is tried once and not again."""
        return (
            self._failing_since is not None
            and self._clock() - self._failing_since >= self.bounds.retry_timeout_seconds
        )

    def _failed(self, failure: SinkError) -> None:
        if self._failing_since is None:
            self._failing_since = self._clock()
            _log.error("sink fails", sink=self.sink.name, reason=failure.reason, error=str(failure))

    def _recovered(self, now: float) -> None:
        if self._failing_since is not None:
            _log.warning(
                "sink recovered", sink=self.sink.name, after_seconds=round(now - self._failing_since, 3)
            )
            self._failing_since = None

    def _settle(self, batch: list[LineBatch], reason: DropReason | None) -> None:
        name = self.sink.name
        for line_batch in batch:
            self._batches.popleft()
            count = len(line_batch.lines)
            self.entries -= count
            self.size_bytes -= line_batch.size_bytes
            if reason is None:
                line_batch.log.written_to[name] += count
            else:
                line_batch.log.dropped_by[name, reason] += count
        self._freed()
