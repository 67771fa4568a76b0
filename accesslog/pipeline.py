"""Hands lines from the streams to the sinks: bounded and fair; Envoy is not told when they are full.

A stream that finds no room waits, and so stops reading; HTTP/2 flow control then tells Envoy, which keeps
what it can and counts the rest. Ending the stream instead would lose what is on its way (the logger clears a
batch once it is handed over, envoy grpc_access_logger.h).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Final

import structlog

from accesslog.records.counters import DropReason
from accesslog.records.formats import Renderer
from accesslog.records.line_batch import LineBatch
from accesslog.sinks.queue import SinkQueue
from accesslog.sinks.sink import SinkError
from common.tasks import cancel_and_wait

_log = structlog.get_logger("accesslog")

OPEN_SECONDS: Final = 5.0
"""A file system that does not answer must not keep the process from starting; writing tries again."""


class Pipeline:
    """Gives every batch of lines to every sink.

    A stream waits while no sink has room, or while one that is `required` has none. A sink that has no room
    while the others have room loses the batch, counted as `queue_full`: a slow sink does not stop another.
    """

    __slots__ = ("_outlets", "_room", "_stopped", "_tasks", "_turn", "waiting_streams")

    def __init__(self, sink_queues: Sequence[SinkQueue]) -> None:
        if not sink_queues:
            raise ValueError("a pipeline needs a sink")
        self._outlets = tuple(sink_queues)
        self._room = asyncio.Event()
        # Streams wait in line: a stream with a large batch must not starve behind many small ones.
        self._turn = asyncio.Lock()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._stopped = False
        self.waiting_streams = 0
        """Streams that wait for room, and so are not read."""
        for sink_queue in self._outlets:
            sink_queue.on_freed(self._room.set)

    @property
    def sink_queues(self) -> Sequence[SinkQueue]:
        """The sinks with their queues."""
        return self._outlets

    async def start(self) -> None:
        """Open the sinks and begin to write. A sink that cannot be opened is tried again with each batch."""
        await asyncio.gather(
            *(_try(sink_queue, sink_queue.sink.open(), "open") for sink_queue in self._outlets)
        )
        self._tasks = tuple(
            asyncio.create_task(sink_queue.run(), name=f"accesslog sink {sink_queue.sink.name}")
            for sink_queue in self._outlets
        )

    async def submit(self, batch: LineBatch) -> None:
        """Queue `batch` for the sinks, at once when there is room, else when it is this stream's turn."""
        if not self._has_place(batch):
            await self._wait_for_room(batch)
        self._put(batch)

    def offer(self, batch: LineBatch) -> bool:
        """Queue `batch` if there is room now, else count it as dropped, since its stream has gone.

        Returns whether there was room.
        """
        if self._has_place(batch):
            self._put(batch)
            return True
        batch.log.dropped[DropReason.STREAM_CANCELLED] += len(batch.lines)
        return False

    async def reopen(self) -> None:
        """Make every sink reopen its file, after a log rotation."""
        await asyncio.gather(
            *(_try(sink_queue, sink_queue.sink.reopen(), "reopen") for sink_queue in self._outlets)
        )

    async def stop(self, flush_seconds: float) -> None:
        """Write what is queued, for at most `flush_seconds`; count the rest as dropped; close the sinks.

        What a sink was writing at the end counts as dropped, because its outcome is unknown. So does
        whatever is submitted from then on.
        """
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(flush_seconds):
                    await self._emptied()
        finally:
            self._stopped = True
            await cancel_and_wait(*self._tasks)
            await asyncio.gather(*(sink_queue.finish() for sink_queue in self._outlets))
            self._room.set()
            await asyncio.gather(*(sink_queue.sink.close() for sink_queue in self._outlets))

    def _put(self, batch: LineBatch) -> None:
        if not batch.lines:
            return
        renderings: dict[Renderer | None, LineBatch] = {None: batch}
        for sink_queue in self._outlets:
            if self._stopped:
                sink_queue.drop(batch, DropReason.SHUTDOWN)
            elif sink_queue.has_room(batch):
                sink_queue.put(_rendered(batch, sink_queue.render, renderings))
            else:
                sink_queue.refuse(batch)

    async def _emptied(self) -> None:
        while self.waiting_streams or any(sink_queue.entries for sink_queue in self._outlets):
            self._room.clear()
            await self._room.wait()

    async def _wait_for_room(self, batch: LineBatch) -> None:
        self.waiting_streams += 1
        try:
            async with self._turn:
                while not self._has_room(batch):
                    self._room.clear()
                    await self._room.wait()
        except asyncio.CancelledError:
            batch.log.dropped[DropReason.STREAM_CANCELLED] += len(batch.lines)
            raise
        finally:
            self.waiting_streams -= 1
            self._room.set()

    def _has_place(self, batch: LineBatch) -> bool:
        """Whether there is room and no stream is waiting for it."""
        return not batch.lines or (not self.waiting_streams and self._has_room(batch))

    def _has_room(self, batch: LineBatch) -> bool:
        some = False
        for sink_queue in self._outlets:
            if sink_queue.has_room(batch):
                some = True
            elif sink_queue.required:
                return False
        return some


def _rendered(
    batch: LineBatch, render: Renderer | None, renderings: dict[Renderer | None, LineBatch]
) -> LineBatch:
    """Return `batch` as `render` writes it; sinks with the same format share it through `renderings`."""
    found = renderings.get(render)
    if found is None and render is not None:
        lines = tuple(map(render, batch.lines))
        found = renderings[render] = replace(batch, lines=lines, size_bytes=sum(map(len, lines)))
    return found or batch


async def _try(sink_queue: SinkQueue, opening: Awaitable[None], what: str) -> None:
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await opening
    except (SinkError, TimeoutError) as error:
        problem = str(error) or "no answer"
        sink_queue.not_ready(problem)
        _log.error("sink not ready", sink=sink_queue.sink.name, doing=what, error=problem)
