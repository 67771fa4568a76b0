"""The one timer of a server: it checks the time limits of every connection, a few at a time."""

import asyncio
from typing import Final, Protocol

SLOTS: Final = 31
"""Ticks are spread over so many turns, so that ten thousand idle connections never have theirs at once.
A prime, as the hash of an object is its address and those have factors of two."""

LONGEST_INTERVAL_SECONDS: Final = 5.0
SHORTEST_INTERVAL_SECONDS: Final = 0.05


class Ticked(Protocol):
    """A member of a Ticker."""

    def tick(self) -> None:
        """Check the time limits."""


class Ticker:
    """Calls `tick` of each member once an interval. An idle connection costs no timer of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_seconds: float) -> None:
        self._loop = loop
        interval = min(max(interval_seconds, SHORTEST_INTERVAL_SECONDS), LONGEST_INTERVAL_SECONDS)
        self._turn_seconds = interval / SLOTS
        self._slots: list[set[Ticked]] = [set() for _ in range(SLOTS)]
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = loop.call_later(self._turn_seconds, self._tick)

    def add(self, member: Ticked) -> None:
        """Tick `member` from now on."""
        self._slots[hash(member) % SLOTS].add(member)

    def remove(self, member: Ticked) -> None:
        """Stop ticking `member`."""
        self._slots[hash(member) % SLOTS].discard(member)

    def stop(self) -> None:
        """Stop ticking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._turn = (self._turn + 1) % SLOTS
        for member in tuple(self._slots[self._turn]):
            member.tick()
        if self._timer is not None:
            self._timer = self._loop.call_later(self._turn_seconds, self._tick)
