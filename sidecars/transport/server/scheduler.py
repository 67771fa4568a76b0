"""The turns of the event loop, shared by the connections of a server and by their handlers.

A connection may ask for much more than it sends: a read that takes many turns, or a thousand handlers that
all run in one. What does not fit waits in line, one connection after the other, so that an honest one waits
for one turn of those that flood, however many they are.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

TURN_BYTES: Final = 64 * 1024
"""Bytes of messages that handlers read or send in one turn; after them they wait for another turn."""

TURN_SECONDS: Final = 0.001
"""Time that handlers have in one turn, because one may take long over a small message."""

HANDLERS_A_TURN: Final = 8
"""Handlers that start, resume or are cancelled in one turn: each runs for about 0.1 ms."""

MESSAGE_COST_BYTES: Final = 256
"""Added to each message: an empty one costs as much as so many bytes of a large one."""

_HANDLER_BYTES: Final = TURN_BYTES // HANDLERS_A_TURN - MESSAGE_COST_BYTES


class FairScheduler:
    """Who may go on in this turn of the loop, and who is next."""

    __slots__ = ("_clock", "_line", "_loop", "_over_at", "_spent")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._clock = clock
        self._spent = 0
        self._over_at = 0.0
        self._line: dict[object, deque[Callable[[], None]]] = {}
        """What waits, by its connection, the next one first. While it holds any, `_next` is scheduled."""

    @property
    def has_room(self) -> bool:
        """Whether handlers may do more in this turn."""
        return not self._spent or (self._spent < TURN_BYTES and self._clock() < self._over_at)

    def spend(self, size: int) -> None:
        """Count a message of `size` bytes that a handler reads or sends."""
        if not self._spent:
            self._loop.call_soon(self._begin)
            self._over_at = self._clock() + TURN_SECONDS
        self._spent += size + MESSAGE_COST_BYTES

    def run(self, connection: object, go: Callable[[], None]) -> None:
        """Call `go`, which makes a handler run: now if this turn has room, else in a later turn."""
        if self.has_room and connection not in self._line:
            self.spend(_HANDLER_BYTES)
            go()
        else:
            self.enqueue(connection, go)

    def enqueue(self, connection: object, go: Callable[[], None]) -> None:
        """Call `go` in a later turn, once every other connection in the queue has had one."""
        if not self._line:
            self._loop.call_soon(self._next)
        self._line.setdefault(connection, deque()).append(go)

    async def wait(self, connection: object) -> None:
        """Return in a later turn, once every other connection in the queue has had one."""
        turn = self._loop.create_future()
        self.enqueue(connection, lambda: None if turn.done() else turn.set_result(None))
        await turn

    async def wait_until_empty(self) -> None:
        """Return once nothing waits in the queue and the handler of its last entry has run."""
        while self._line:
            await self.wait(self)
        await asyncio.sleep(0)

    def _begin(self) -> None:
        self._spent = 0

    def _next(self) -> None:
        connection, waiting = next(iter(self._line.items()))
        del self._line[connection]
        go = waiting.popleft()
        if waiting:
            self._line[connection] = waiting
        if self._line:
            self._loop.call_soon(self._next)
        go()
