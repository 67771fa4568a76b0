"""The part of a sink's queue that is on disk, so that a sink that is away or slow loses nothing."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

import structlog

from accesslog.records.counters import DropReason, LogCounters
from accesslog.records.line_batch import LineBatch
from accesslog.sinks.descriptor import WriterThread
from accesslog.sinks.sink import CLOSE_SECONDS
from accesslog.spool.files import Opened, SpoolFiles
from accesslog.spool.frames import DamagedError, Frame, overhead_bytes
from common.os_errors import in_words

_log = structlog.get_logger("accesslog")

OPEN_SECONDS: Final = 5.0
"""How long the sink waits for the spool at the start, whose entries come first."""

RETRY_SECONDS: Final = 1.0
"""Between two attempts to write to a folder that refuses."""


@dataclass(frozen=True, slots=True)
class SpoolBounds:
    """How much a spool takes, and how soon."""

    max_bytes: int = 1024 * 1024 * 1024
    """About half a million records of 2 kB."""
    sync_seconds: float = 0.25
    """A killed process loses at most what arrived in this time, a failed machine that of twice this time."""


class SinkSpool:
    """Batches of one sink on disk, and those on their way there, in the order in which they arrived.

    `pending_entries` and `pending_bytes` are in memory, `entries` and `size_bytes` on disk. Once `active`,
    every batch of the sink comes here, until all have been delivered.
    """

    __slots__ = (
        "_changed",
        "_clock",
        "_files",
        "_folder",
        "_freed",
        "_lock",
        "_log_of",
        "_opening",
        "_out",
        "_pending",
        "_pending_disk_bytes",
        "_sink",
        "_synced_at",
        "_thread",
        "_unsynced",
        "active",
        "bounds",
        "cut_bytes",
        "entries",
        "failing",
        "is_open",
        "left_aside",
        "pending_bytes",
        "pending_entries",
        "problem",
        "size_bytes",
    )

    def __init__(
        self,
        folder: Path,
        sink: str,
        log_of: Callable[[str, str], LogCounters],
        clock: Callable[[], float],
        bounds: SpoolBounds = SpoolBounds(),
        *,
        segment_bytes: int | None = None,
    ) -> None:
        self.bounds = bounds
        self._folder = folder
        self._sink = sink
        self._log_of = log_of
        self._clock = clock
        self._files = SpoolFiles(folder) if segment_bytes is None else SpoolFiles(folder, segment_bytes)
        self._thread = WriterThread(f"accesslog {sink} spool")
        self._lock = asyncio.Lock()
        self._pending: deque[LineBatch] = deque()
        self._opening: asyncio.Future[Opened] | None = None
        self._out: list[Frame] = []
        """The frames that were read and are being delivered."""
        self._changed = asyncio.Event()
        self._freed: Callable[[], None] = lambda: None
        self._unsynced = False
        self._synced_at = clock()
        self.is_open = False
        self.active = False
        self.failing = False
        self.problem = ""
        """Why it fails, in words."""
        self.pending_entries = self.pending_bytes = 0
        self._pending_disk_bytes = 0
        """What the pending batches take on disk, where each has a header, too."""
        self.entries = self.size_bytes = 0
        self.cut_bytes = 0
        """Bytes of torn frames that were cut off."""
        self.left_aside = 0
        """Files in the folder that another version wrote."""

    def on_freed(self, freed: Callable[[], None]) -> None:
        """Have `freed` called whenever there is more room, or something more to deliver."""
        self._freed = freed

    async def open(self) -> bool:
        """Lock the folder and find what an earlier process left; whether that worked. Logs what is wrong.

        Called again while a disk that is slow still answers, it waits for the same answer.
        """
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._thread.call(self._files.open))
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                found = await asyncio.shield(self._opening)
        except TimeoutError as error:
            self._fail("spool cannot be opened", error)
            return False
        except OSError as error:
            self._opening = None
            self._fail("spool cannot be opened", error)
            return False
        for path, size_bytes in found.cut:
            self.cut_bytes += size_bytes
            _log.warning(
                "torn end of the spool cut off", sink=self._sink, file=str(path), cut_bytes=size_bytes
            )
        for path, reason in found.left_aside:
            _log.error("spool file left aside", sink=self._sink, file=str(path), reason=reason)
        self.left_aside = len(found.left_aside)
        for (name, kind), count in found.entries.items():
            self._log_of(name, kind).recovered[self._sink] += count
        self.entries = found.entries.total()
        if self.entries:
            self.active = True
            _log.info("entries recovered from the spool", sink=self._sink, entries=self.entries)
        self.size_bytes = self._files.size_bytes
        self.is_open = True
        self._works()
        return True

    def has_room(self, line_batch: LineBatch) -> bool:
        """Whether `line_batch` fits on disk. An empty spool takes any."""
        taken = self.size_bytes + self._pending_disk_bytes
        return not taken or taken + _disk_bytes(line_batch) <= self.bounds.max_bytes

    def offer(self, line_batch: LineBatch) -> None:
        """Take `line_batch` as the last one."""
        self._pending.append(line_batch)
        self.pending_entries += len(line_batch.lines)
        self.pending_bytes += line_batch.size_bytes
        self._pending_disk_bytes += _disk_bytes(line_batch)
        self._changed.set()

    async def run(self) -> None:
        """Write what is offered, and sync it in time, until cancelled."""
        while True:
            self._changed.clear()
            if not self._writable():
                due = self.bounds.sync_seconds if self._unsynced else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due):
                        await self._changed.wait()
            await self._write_pending()
            if self.failing:
                await asyncio.sleep(RETRY_SECONDS)

    async def next(self, max_bytes: int) -> list[LineBatch]:
        """The oldest batches, up to about `max_bytes`, which stay until `done`; none ends `active`."""
        while True:
            async with self._lock:
                if not self.entries:
                    self.active = bool(self._pending)
                    return self._oldest_pending(max_bytes)
                try:
                    self._out = await self._thread.call(self._files.read, max_bytes)
                except DamagedError:
                    await self._drop_damaged()
                    continue
                except OSError as error:
                    self._fail("spool cannot be read", error)
                else:
                    self._works()
                    return [self._line_batch(frame) for frame in self._out]
            await asyncio.sleep(RETRY_SECONDS)

    async def done(self, batches: Sequence[LineBatch]) -> None:
        """Forget `batches`, the oldest, which were delivered or dropped."""
        await asyncio.shield(asyncio.ensure_future(self._forget(batches)))

    def describe(self) -> dict[str, object]:
        """The state for `/config`."""
        return {
            "folder": str(self._folder),
            "open": self.is_open,
            "in_use": self.active,
            "failing": self.failing,
            "problem": self.problem,
            "entries": self.entries,
            "bytes": self.size_bytes,
        }

    async def close(self) -> list[LineBatch]:
        """Write and sync what is pending, and close; the batches that could not be written."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self.is_open:
                    self.failing = False
                    await self._write_pending()
                    await self._call("spool not closed cleanly", self._files.close)
        except TimeoutError:
            _log.error("spool not closed in time", sink=self._sink, folder=str(self._folder))
        finally:
            self._thread.end()
        left = list(self._pending)
        self._pending.clear()
        self.pending_entries = self.pending_bytes = self._pending_disk_bytes = 0
        return left

    def _oldest_pending(self, max_bytes: int) -> list[LineBatch]:
        self._out = []
        result: list[LineBatch] = []
        size_bytes = 0
        for line_batch in self._pending:
            size_bytes += line_batch.size_bytes
            if result and size_bytes > max_bytes:
                break
            result.append(line_batch)
        return result

    def _line_batch(self, frame: Frame) -> LineBatch:
        log = self._log_of(frame.log_name, frame.kind)
        return LineBatch(log, frame.lines, sum(map(len, frame.lines)))

    def _writable(self) -> list[LineBatch]:
        """The oldest pending batches, as many as there is room for on disk."""
        result: list[LineBatch] = []
        size_bytes = self.size_bytes
        for line_batch in self._pending:
            size_bytes += _disk_bytes(line_batch)
            if size_bytes > self.bounds.max_bytes and (result or self.size_bytes):
                break
            result.append(line_batch)
        return result

    async def _write_pending(self) -> None:
        # Shielded: the thread goes on after a cancellation, and the numbers must follow it.
        await asyncio.shield(asyncio.ensure_future(self._append_and_sync()))

    async def _append_and_sync(self) -> None:
        async with self._lock:
            batch = self._writable()
            if batch:
                frames = [_frame(line_batch) for line_batch in batch]
                if not await self._call("spool cannot be written", self._files.append, frames):
                    return
                for line_batch in batch:
                    self._pending_is_shorter(line_batch)
                self.entries += sum(len(line_batch.lines) for line_batch in batch)
                self.size_bytes = self._files.size_bytes
                self._unsynced = True
                self._freed()
            now = self._clock()
            if self._unsynced and now - self._synced_at >= self.bounds.sync_seconds:
                self._synced_at = now
                self._unsynced = not await self._call("spool cannot be synced", self._files.sync)

    async def _forget(self, batches: Sequence[LineBatch]) -> None:
        async with self._lock:
            # What was being written when it moved here may be on disk, or pending, or both in this order.
            first = self._pending[0] if self._pending else None
            written = list(takewhile(lambda line_batch: line_batch is not first, batches))
            if written:
                frames = self._out or [_frame(line_batch) for line_batch in written]
                await self._call("spool cannot be shortened", self._files.commit, frames)
                self.entries -= sum(len(line_batch.lines) for line_batch in written)
                self.size_bytes = self._files.size_bytes
            for line_batch in batches[len(written) :]:
                self._pending_is_shorter(line_batch)
            self._out = []
            self._changed.set()
            if not self.entries and not self._pending:
                self.active = False
            self._freed()

    async def _drop_damaged(self) -> None:
        lost = await self._thread.call(self._files.drop_damaged)
        for (name, kind), count in lost.items():
            self._log_of(name, kind).dropped_by[self._sink, DropReason.SPOOL_DAMAGED] += count
        self.entries -= lost.total()
        self.size_bytes = self._files.size_bytes
        _log.error(
            "spool damaged, entries lost",
            sink=self._sink,
            folder=str(self._folder),
            entries=lost.total(),
        )
        self._freed()

    def _pending_is_shorter(self, line_batch: LineBatch) -> None:
        self._pending.popleft()
        self.pending_entries -= len(line_batch.lines)
        self.pending_bytes -= line_batch.size_bytes
        self._pending_disk_bytes -= _disk_bytes(line_batch)

    async def _call(self, complaint: str, function: Callable[..., object], *arguments: object) -> bool:
        """Call `function` in the thread; whether it worked."""
        try:
            await self._thread.call(function, *arguments)
        except OSError as error:
            self._fail(complaint, error)
            return False
        self._works()
        return True

    def _fail(self, complaint: str, error: OSError) -> None:
        self.problem = in_words(error)
        if not self.failing:
            self.failing = True
            _log.error(complaint, sink=self._sink, folder=str(self._folder), error=in_words(error))

    def _works(self) -> None:
        if self.failing:
            self.failing = False
            self.problem = ""
            _log.warning("spool works again", sink=self._sink, folder=str(self._folder))


def _disk_bytes(line_batch: LineBatch) -> int:
    return line_batch.size_bytes + overhead_bytes(line_batch.log.name, line_batch.log.type)


def _frame(line_batch: LineBatch) -> Frame:
    return Frame(line_batch.log.name, line_batch.log.type, line_batch.lines)
