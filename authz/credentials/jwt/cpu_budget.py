"""Limits how much verification each turn of the loop does.

A signature costs 20 us (RS256) to 500 us (ES384, ES512), so a burst of a thousand new tokens would stop
everything else for 20 to 500 ms. Each turn of the loop therefore verifies for a limited time; the rest is
queued, while calls with cached tokens pass. A pool of threads would not help: OpenSSL calls with a
2048-bit key do not run in parallel (measured: 20 us a token with two threads as with one).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

BUDGET_SECONDS: Final = 0.001
"""The time for verification in one turn. With the one verification that may exceed it, a turn stays below
2 ms."""

MAX_WAITING: Final = 10_000
"""The most queued pieces of work, about 1 KB each. At 20 us each, more would miss the deadline of callers."""

T = TypeVar("T")


class OverloadedError(Exception):
    """The queue is full."""


class CpuBudget(Generic[T]):
    """Runs small pieces of work for a limited time in each turn of the loop."""

    def __init__(self, clock: Callable[[], float], budget_seconds: float = BUDGET_SECONDS) -> None:
        self._clock = clock
        self._budget_seconds = budget_seconds
        self._spent_seconds = 0.0
        self._waiting: deque[tuple[Callable[[], T], asyncio.Future[T]]] = deque()
        self._turn_booked = False

    def do(self, work: Callable[[], T]) -> "T | asyncio.Future[T]":
        """Return the result of `work`, or a future of it if this turn has used its time.

        Raises what `work` raises, and OverloadedError. Work whose future is cancelled never runs.
        """
        if not self._turn_booked:
            self._book_turn()
        if not self._waiting and self._spent_seconds < self._budget_seconds:
            return self._timed(work)
        if len(self._waiting) >= MAX_WAITING:
            raise OverloadedError
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        return future

    def __len__(self) -> int:
        return len(self._waiting)

    def _timed(self, work: Callable[[], T]) -> T:
        began = self._clock()
        try:
            return work()
        finally:
            self._spent_seconds += self._clock() - began

    def _book_turn(self) -> None:
        self._spent_seconds = 0.0
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # without a loop there is nothing to hold up
        self._turn_booked = True
        loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_booked = False
        self._spent_seconds = 0.0
        if not self._waiting:
            return
        self._book_turn()
        while self._waiting and self._spent_seconds < self._budget_seconds:
            work, future = self._waiting.popleft()
            if not future.done():
                _settle(future, self._timed, work)


def _settle(future: "asyncio.Future[T]", timed: Callable[[Any], T], work: Callable[[], T]) -> None:
    try:
        future.set_result(timed(work))
    except Exception as error:  # any error goes to the caller that waits
        future.set_exception(error)
