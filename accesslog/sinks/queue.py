"""A sink with its bounded queue and the task that empties it."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from accesslog.records.counters import DropReason
from accesslog.records.formats import Renderer
from accesslog.records.line_batch import LineBatch
from accesslog.sinks.drops import DropLog
from accesslog.sinks.sink import Sink, SinkError
from accesslog.sinks.spooling import SinkSpool

_log = structlog.get_logger("accesslog")


LONGEST_PAUSE_SECONDS: Final = 60.0
"""A server may ask for a pause, but not for one that outlasts an outage by far."""


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

    `entries` and `size_bytes` count what waits in memory and what is being written. The counters in each
    batch's log change once a batch, when it has been written or is given up.

    With a `spool`, what has waited for longer than the interval of the spool moves there, and so does what
    arrives afterwards, until all of it is delivered. Then nothing is dropped because the sink is away.
    """

    __slots__ = (
        "_arrived",
        "_batches",
        "_clock",
        "_drops",
        "_failing_since",
        "_freed",
        "_mark",
        "_observer",
        "_open_spool_at",
        "_put",
        "_settled",
        "_timer",
        "bounds",
        "memory_bytes",
        "memory_entries",
        "problem",
        "render",
        "required",
        "sink",
        "spool",
    )

    def __init__(
        self,
        sink: Sink,
        bounds: Bounds,
        clock: Callable[[], float],
        observer: SinkObserver,
        *,
        required: bool = False,
        spool: SinkSpool | None = None,
        render: Renderer | None = None,
    ) -> None:
        self.sink = sink
        self.render = render
        """What writes lines in the format of this sink; None where that is the format of the pipeline."""
        self.bounds = bounds
        self.required = required
        self.spool = spool
        self.memory_entries = 0
        self.memory_bytes = 0
        self._clock = clock
        self._observer = observer
        self._drops = DropLog(sink.name, clock)
        self._batches: deque[LineBatch] = deque()
        self._arrived = asyncio.Event()
        self._freed: Callable[[], None] = lambda: None
        self._failing_since: float | None = None
        self.problem = ""
        """Why the last attempt to write failed, in words; empty while the sink works."""
        self._open_spool_at = clock()
        # Batches so far, to see whether one has waited for a whole tick of the timer.
        self._put = self._settled = self._mark = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def entries(self) -> int:
        """Entries in memory."""
        return self.memory_entries + (0 if self.spool is None else self.spool.pending_entries)

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return self.memory_bytes + (0 if self.spool is None else self.spool.pending_bytes)

    @property
    def failing(self) -> bool:
        """Whether the last attempt to open, to write or to see whether writing would work failed."""
        return self._failing_since is not None

    def on_freed(self, freed: Callable[[], None]) -> None:
        """Have `freed` called whenever there is more room."""
        self._freed = freed
        if self.spool is not None:
            self.spool.on_freed(self._spool_changed)

    def has_room(self, line_batch: LineBatch) -> bool:
        """Whether `line_batch` fits. An empty queue takes any: one beyond the bounds would wait forever."""
        spool = self.spool
        if spool is not None and spool.active and not spool.has_room(line_batch):
            return False
        if not self.entries:
            return True
        return (
            self.entries + len(line_batch.lines) <= self.bounds.queue_entries
            and self.size_bytes + line_batch.size_bytes <= self.bounds.queue_bytes
        )

    def put(self, line_batch: LineBatch) -> None:
        """Queue `line_batch`."""
        spool = self.spool
        if spool is not None and spool.active:
            spool.offer(line_batch)
        else:
            self._batches.append(line_batch)
            self._put += 1
            self.memory_entries += len(line_batch.lines)
            self.memory_bytes += line_batch.size_bytes
            if spool is not None and spool.is_open:
                self._spool_in_time(spool)
        self._arrived.set()

    def refuse(self, line_batch: LineBatch) -> None:
        """Count `line_batch` as dropped by this sink, which has no room."""
        full = self.spool is not None and self.spool.active and not self.spool.has_room(line_batch)
        self.drop(line_batch, DropReason.SPOOL_FULL if full else DropReason.QUEUE_FULL)

    def drop(self, line_batch: LineBatch, reason: DropReason) -> None:
        """Count `line_batch` as dropped by this sink."""
        self._count_dropped(line_batch, reason, len(line_batch.lines))

    def _count_dropped(self, line_batch: LineBatch, reason: DropReason, entries: int) -> None:
        if entries:
            line_batch.log.dropped_by[self.sink.name, reason] += entries
            self._drops.note(reason, entries)

    async def run(self) -> None:
        """Write until cancelled."""
        if self.spool is None:
            await self._work()
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.spool.run())
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            await self._deliver(await self._next())

    def not_ready(self, problem: str) -> None:
        """The sink could not be opened, because of `problem`."""
        self.problem = problem
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

    async def finish(self) -> None:
        """Leave all remaining entries in the spool, or count them as dropped, after the last end of `run`."""
        left = list(self._batches)
        if self.spool is not None:
            if self._timer is not None:
                self._timer.cancel()
            if self.spool.is_open:
                self._move_to_spool(self.spool)
                left = []
            left += await self.spool.close()
            if self.spool.entries:
                _log.info("entries left in the spool", sink=self.sink.name, entries=self.spool.entries)
        if left:
            _log.error(
                "entries lost at shutdown",
                sink=self.sink.name,
                entries=sum(len(line_batch.lines) for line_batch in left),
            )
        for line_batch in left:
            line_batch.log.dropped_by[self.sink.name, DropReason.SHUTDOWN] += len(line_batch.lines)
        self._drops.report()
        self._batches.clear()
        self.memory_entries = self.memory_bytes = 0

    async def _next(self) -> list[LineBatch]:
        """The oldest batches, at least one, up to the size of one write. They stay queued until settled."""
        spool = self.spool
        while True:
            if spool is not None and not spool.is_open:
                await self._open_spool(spool)
            self._arrived.clear()
            if self._batches:
                return self._oldest()
            if spool is not None and spool.active:
                if batch := await spool.next(self.bounds.batch_bytes):
                    return batch
                continue
            await self._until_something_arrives()

    def _oldest(self) -> list[LineBatch]:
        batch: list[LineBatch] = []
        size_bytes = 0
        for line_batch in self._batches:
            size_bytes += line_batch.size_bytes
            if batch and size_bytes > self.bounds.batch_bytes:
                break
            batch.append(line_batch)
        return batch

    async def _open_spool(self, spool: SinkSpool) -> None:
        """Open the spool if an attempt is due. What it holds is older than what is in memory."""
        if self._clock() < self._open_spool_at:
            return
        self._open_spool_at = self._clock() + self.bounds.longest_backoff_seconds
        if await spool.open() and self._batches:
            if spool.active:
                self._move_to_spool(spool)
            else:
                self._spool_in_time(spool)

    def _spool_in_time(self, spool: SinkSpool) -> None:
        """Have what is queued move to the spool before it has waited too long, or the memory is full."""
        if self.memory_entries * 2 > self.bounds.queue_entries or (
            self.memory_bytes * 2 > self.bounds.queue_bytes
        ):
            self._move_to_spool(spool)
        elif self._timer is None:
            self._mark = self._put
            self._timer = asyncio.get_running_loop().call_later(spool.bounds.sync_seconds / 2, self._tick)

    def _tick(self) -> None:
        self._timer = None
        spool = self.spool
        if spool is None or not self._batches:
            return
        if self._settled < self._mark:
            self._move_to_spool(spool)
        else:
            self._spool_in_time(spool)

    def _move_to_spool(self, spool: SinkSpool) -> None:
        """Hand over everything, also what is being written: it leaves the spool once it has been written."""
        spool.active = True
        self._settled = self._put
        for line_batch in self._batches:
            spool.offer(line_batch)
        self._batches.clear()
        self.memory_entries = self.memory_bytes = 0

    def _spool_changed(self) -> None:
        self._arrived.set()
        self._freed()

    async def _deliver(self, batch: list[LineBatch]) -> None:
        lines = [line for line_batch in batch for line in line_batch.lines]
        written = 0
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
                await self._settle(batch)
                return
            self._observer.failed(self.sink.name, failure.reason)
            if failure.works:
                self._recovered(self._clock())
            else:
                self._failed(failure)
            written += failure.written
            del lines[: failure.written]
            if not failure.retry or self._patience_is_over():
                await self._settle(batch, failure.reason, written)
                return
            if self.spool is not None and self.spool.is_open and not self.spool.active:
                self._move_to_spool(self.spool)
            await asyncio.sleep(
                min(max(backoff_seconds, failure.retry_after_seconds or 0), LONGEST_PAUSE_SECONDS)
            )
            backoff_seconds = min(backoff_seconds * 2, self.bounds.longest_backoff_seconds)

    def _patience_is_over(self) -> bool:
        """While a sink goes on failing beyond its time, each batch is tried once and not again.

        A spool has no such time: it ends when the spool is full.
        """
        return (
            self._failing_since is not None
            and (self.spool is None or not self.spool.is_open)
            and self._clock() - self._failing_since >= self.bounds.retry_timeout_seconds
        )

    def _failed(self, failure: SinkError) -> None:
        self.problem = str(failure)
        if self._failing_since is None:
            self._failing_since = self._clock()
            _log.error("sink fails", sink=self.sink.name, reason=failure.reason, error=str(failure))

    def _recovered(self, now: float) -> None:
        if self._failing_since is not None:
            self.problem = ""
            _log.warning(
                "sink recovered", sink=self.sink.name, after_seconds=round(now - self._failing_since, 3)
            )
            self._failing_since = None
            self._drops.report()

    async def _settle(
        self, batch: list[LineBatch], reason: DropReason | None = None, written: int = 0
    ) -> None:
        """Count `batch` as written or, after its first `written` lines, as dropped, and forget it."""
        name = self.sink.name
        for line_batch in batch:
            count = len(line_batch.lines)
            arrived = count if reason is None else min(written, count)
            line_batch.log.written_to[name] += arrived
            if reason is not None:
                written -= arrived
                self._count_dropped(line_batch, reason, count - arrived)
        if self.spool is not None and self.spool.active:
            await self.spool.done(batch)
            return
        self._settled += len(batch)
        for line_batch in batch:
            self._batches.popleft()
            self.memory_entries -= len(line_batch.lines)
            self.memory_bytes -= line_batch.size_bytes
        self._freed()
