"""The turns of the event loop, shared by the connections of a server and by their handlers.

A connection may ask for much more than it sends: a read that takes many turns, or a thousand handlers that
all run in one. What does not fit waits in line, one connection after the other, and the connections in line
share the time of a turn. So an honest one waits for a few milliseconds, however many flood.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

TURN_BYTES: Final = 64 * 1024
"""Bytes of messages that handlers read or send in one turn; after them they wait for another turn."""

TURN_SECONDS: Final = 0.0005
"""Time in one turn for what waits in line, and again for the handlers that it wakes, because one may take
long over a small message."""

SHORTEST_SLICE_SECONDS: Final = 0.0001
"""The least time that a connection has for its read when its turn comes."""

HANDLERS_A_TURN: Final = 4
"""Handlers that start, resume or are cancelled in one turn: each runs for about 0.1 ms."""

MESSAGE_COST_BYTES: Final = 256
"""Added to each message: an empty one costs as much as so many bytes of a large one."""

HANDLER_BYTES: Final = TURN_BYTES // HANDLERS_A_TURN - MESSAGE_COST_BYTES
"""What a handler that starts, resumes or is cancelled spends in addition to its message."""


class FairScheduler:
    """Who may go on in this turn of the loop, and who is next."""

    __slots__ = ("_clock", "_line", "_loop", "_over_at", "_spent")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._clock = clock
        self._spent = 0
        """What this turn has spent. While it is not 0, or any wait in line, `_next` is scheduled."""
        self._over_at = 0.0
        self._line: dict[object, deque[tuple[int, Callable[[], None]]]] = {}
        """What waits and how much it spends, by its connection, the next one first."""

    @property
    def has_room(self) -> bool:
        """Whether more may be done in this turn."""
        return not self._spent or (self._spent < TURN_BYTES and self._clock() < self._over_at)

    @property
    def has_time(self) -> bool:
        """Whether a handler that has had its place in the line may do its work in this turn."""
        return not self._spent or self._clock() < self._over_at

    def slice_seconds(self, turn_seconds: float) -> float:
        """The time for a read: of the `turn_seconds` for a turn, the share of one of those in line."""
        return max(turn_seconds / (len(self._line) + 1), min(turn_seconds, SHORTEST_SLICE_SECONDS))

    def spend(self, size: int) -> None:
        """Count a message of `size` bytes that a handler reads or sends, or a read from a socket (0)."""
        if not self._spent:
            if not self._line:
                self._loop.call_soon(self._next)
            self._over_at = self._clock() + TURN_SECONDS
        self._spent += size + MESSAGE_COST_BYTES

    def run(self, connection: object, go: Callable[[], None]) -> None:
        """Call `go`, which makes a handler run: now if this turn has room, else in a later turn."""
        if self.has_room and connection not in self._line:
            self.spend(HANDLER_BYTES)
            go()
        else:
            self.enqueue(connection, go, HANDLER_BYTES)

    def enqueue(self, connection: object, go: Callable[[], None], size: int = 0) -> None:
        """Call `go`, which spends `size`, in a later turn, once every other connection in line had one."""
        if not self._line and not self._spent:
            self._loop.call_soon(self._next)
        self._line.setdefault(connection, deque()).append((size, go))

    async def wait(self, connection: object) -> None:
        """Return in a later turn, once every other connection in the queue has had one."""
        turn = self._loop.create_future()
        self.enqueue(connection, lambda: None if turn.done() else turn.set_result(None), HANDLER_BYTES)
        await turn

    async def wait_until_empty(self) -> None:
        """Return once nothing waits in the queue and the handler of its last entry has run."""
        while self._line:
            await self.wait(self)
        await asyncio.sleep(0)

    def _next(self) -> None:
        """Begin a turn with those in line, as many as fit into it."""
        self._spent = 0
        line = self._line
        if not line:
            return
        self._loop.call_soon(self._next)
        self._over_at = self._clock() + TURN_SECONDS
        while line and (not self._spent or (self._spent < TURN_BYTES and self._clock() < self._over_at)):
            connection, waiting = next(iter(line.items()))
            del line[connection]
            size, go = waiting.popleft()
            if waiting:
                line[connection] = waiting
            self._spent += size + MESSAGE_COST_BYTES
            go()
        self._over_at = self._clock() + TURN_SECONDS
