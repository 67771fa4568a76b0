"""The turns of the event loop, shared by the connections of a server and by their handlers.

A connection may ask for much more than it sends: a read that takes many turns, or a thousand handlers that
all run in one. What does not fit waits in line, one connection after the other, so that an honest one waits
for one turn of those that flood, however many they are.
"""

import asyncio
from collections import deque
from collections.abc import Callable

TURN_BYTES = 64 * 1024
"""After messages of so many bytes handlers that read or send wait for another turn: 2 ms at most."""

MESSAGE_COST_BYTES = 256
"""Added to each: a message of nothing costs as much as so many bytes of a large one."""


class FairScheduler:
    """Who may go on in this turn of the loop, and who is next."""

    __slots__ = ("_line", "_loop", "_spent")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._spent = 0
        self._line: dict[object, deque[Callable[[], None]]] = {}
        """What waits, by its connection, the next one first. While it holds any, `_next` is scheduled."""

    @property
    def has_room(self) -> bool:
        """Whether the handlers have read and sent less in this turn than one turn allows."""
        return self._spent < TURN_BYTES

    def spend(self, size: int) -> None:
        """Count a message of `size` bytes that a handler reads or sends."""
        if not self._spent:
            self._loop.call_soon(self._begin)
        self._spent += size + MESSAGE_COST_BYTES

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
