"""When calls start."""

from dataclasses import dataclass
from math import floor
from typing import Protocol


class Schedule(Protocol):
    """The intended starts of all calls, in order."""

    def due(self, now: float) -> int:
        """Return how many calls should have started by `now` and have not."""
        ...

    def take(self, now: float) -> float:
        """Return the intended start of the next call, which starts now."""
        ...

    def next_at(self, now: float) -> float:
        """Return the intended start of the next call without starting it."""
        ...


@dataclass(slots=True)
class ConstantRate:
    """An open loop: call `n` starts `n / per_second` seconds after `begin`, even if the server is slow."""

    begin: float
    per_second: float
    _taken: int = 0

    def due(self, now: float) -> int:
        """Return how many calls should have started by `now` and have not."""
        due = floor((now - self.begin) * self.per_second) + 1
        due += self.begin + due / self.per_second <= now  # so that rounding cannot contradict `next_at`
        return max(0, due - self._taken)

    def take(self, now: float) -> float:
        """Return the intended start of the next call."""
        intended = self.next_at(now)
        self._taken += 1
        return intended

    def next_at(self, _now: float) -> float:
        """Return the intended start of the next call without starting it."""
        return self.begin + self._taken / self.per_second


@dataclass(slots=True)
class InTurn:
    """Two schedules: the first until `switch_at`, then the second."""

    first: Schedule
    second: Schedule
    switch_at: float

    def due(self, now: float) -> int:
        """Return how many calls should have started by `now` and have not."""
        return self._current(now).due(now)

    def take(self, now: float) -> float:
        """Return the intended start of the next call."""
        return self._current(now).take(now)

    def next_at(self, now: float) -> float:
        """Return the intended start of the next call without starting it."""
        return self._current(now).next_at(now)

    def _current(self, now: float) -> Schedule:
        # What the first has not started is dropped: it is the load after a surge that counts.
        return self.first if now < self.switch_at else self.second


class BackToBack:
    """A closed loop: the next call starts as soon as a connection is free."""

    def due(self, _now: float) -> int:
        """Return a number that no connection exceeds."""
        return 1_000_000

    def take(self, now: float) -> float:
        """Return `now`."""
        return now

    def next_at(self, now: float) -> float:
        """Return `now`."""
        return now
