"""From the streams to the sinks: bounded, fair, and without a word to Envoy when there is no room.

A stream that finds no room waits, and so stops reading; HTTP/2 flow control then tells Envoy, which keeps
what it can and counts the rest. Ending the stream instead would lose what is on its way (the logger clears a
batch once it is handed over, envoy grpc_access_logger.h).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence

import structlog

from accesslog.records.counters import DropReason
from accesslog.records.decoder import Block
from accesslog.sinks.queue import Outlet
from accesslog.sinks.sink import SinkError

_log = structlog.get_logger("accesslog")

OPEN_SECONDS = 5.0
"""A file system that does not answer must not keep the process from starting; writing tries again."""


class Pipeline:
    """Gives every block to every sink.

    A stream waits while no sink has room, or while one that is `required` has none. A sink that has no room
    while the others have loses the block, counted as `queue_full`: a slow sink does not stop another.
    """

    __slots__ = ("_outlets", "_room", "_stopped", "_tasks", "_turn", "waiting_streams")

    def __init__(self, outlets: Sequence[Outlet]) -> None:
        if not outlets:
            raise ValueError("a pipeline needs a sink")
        self._outlets = tuple(outlets)
        self._room = asyncio.Event()
        # Streams wait in line: one with a large block is not overtaken for ever by many small ones.
        self._turn = asyncio.Lock()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._stopped = False
        self.waiting_streams = 0
        """Streams that wait for room, and so are not read."""
        for outlet in self._outlets:
            outlet.on_freed(self._room.set)

    @property
    def outlets(self) -> Sequence[Outlet]:
        """The sinks with their queues."""
        return self._outlets

    async def start(self) -> None:
        """Open the sinks and begin to write. A sink that cannot be opened is tried again with each batch."""
        await asyncio.gather(*(_try(outlet, outlet.sink.open(), "open") for outlet in self._outlets))
        self._tasks = tuple(
            asyncio.create_task(outlet.run(), name=f"accesslog sink {outlet.sink.name}")
            for outlet in self._outlets
        )

    async def submit(self, block: Block) -> None:
        """Queue `block` for the sinks, at once when there is room, else when it is this stream's turn."""
        if not self._has_place(block):
            await self._wait_for_room(block)
        self._put(block)

    def offer(self, block: Block) -> None:
        """Queue `block` if there is room now; else count it as dropped, since its stream has gone."""
        if self._has_place(block):
            self._put(block)
        else:
            block.log.dropped[DropReason.STREAM_CANCELLED] += len(block.lines)

    async def reopen(self) -> None:
        """Have every sink open its file anew, after a log rotation."""
        await asyncio.gather(*(_try(outlet, outlet.sink.reopen(), "reopen") for outlet in self._outlets))

    async def stop(self, flush_seconds: float) -> None:
        """Write what is queued, for at most `flush_seconds`; count the rest as dropped; close the sinks.

        What a sink had in hand at the end counts as dropped, as nobody can tell what became of it. So does
        whatever is submitted from then on.
        """
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(flush_seconds):
                    await self._emptied()
        finally:
            self._stopped = True
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for outlet in self._outlets:
                if outlet.entries:
                    _log.error("entries lost at shutdown", sink=outlet.sink.name, entries=outlet.entries)
                outlet.abandon()
            self._room.set()
            await asyncio.gather(*(outlet.sink.close() for outlet in self._outlets))

    def _put(self, block: Block) -> None:
        if not block.lines:
            return
        for outlet in self._outlets:
            if self._stopped:
                outlet.refuse(block, DropReason.SHUTDOWN)
            elif outlet.has_room(block):
                outlet.put(block)
            else:
                outlet.refuse(block, DropReason.QUEUE_FULL)

    async def _emptied(self) -> None:
        while self.waiting_streams or any(outlet.entries for outlet in self._outlets):
            self._room.clear()
            await self._room.wait()

    async def _wait_for_room(self, block: Block) -> None:
        self.waiting_streams += 1
        try:
            async with self._turn:
                while not self._has_room(block):
                    self._room.clear()
                    await self._room.wait()
        except asyncio.CancelledError:
            block.log.dropped[DropReason.STREAM_CANCELLED] += len(block.lines)
            raise
        finally:
            self.waiting_streams -= 1
            self._room.set()

    def _has_place(self, block: Block) -> bool:
        """Whether there is room and nobody in line for it."""
        return not block.lines or (not self.waiting_streams and self._has_room(block))

    def _has_room(self, block: Block) -> bool:
        some = False
        for outlet in self._outlets:
            if outlet.has_room(block):
                some = True
            elif outlet.required:
                return False
        return some


async def _try(outlet: Outlet, opening: Awaitable[None], what: str) -> None:
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await opening
    except (SinkError, TimeoutError) as error:
        outlet.not_ready()
        _log.error("sink not ready", sink=outlet.sink.name, doing=what, error=str(error) or "no answer")
