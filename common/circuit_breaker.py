"""A circuit breaker: stops calls to a service that does not answer, and detects when it answers again."""

from collections.abc import Callable
from enum import IntEnum
from typing import Final

MAX_DOUBLINGS: Final = 3
"""The wait grows to 8 times `open_seconds` and no further: recovery must not go unseen for long."""


class CircuitState(IntEnum):
    """The state, with the number that a gauge shows."""

    CLOSED = 0
    """Every request passes."""
    HALF_OPEN = 1
    """One request is out to see whether answers come again."""
    OPEN = 2
    """No request passes."""


class CircuitBreaker:
    """Opens after `failures` in a row, for `open_seconds`, then lets a single request try.

    A failed try doubles the wait, with up to half of it more at random, so that many sidecars do not all
    come back in the same moment. Sans-IO: time and randomness are passed in. `changed` is called when it
    opens (again) and when it closes.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        random: Callable[[], float],
        failures: int = 5,
        open_seconds: float = 0.5,
        changed: Callable[[CircuitState], None] | None = None,
    ) -> None:
        self._clock = clock
        self._random = random
        self._failures_allowed = failures
        self._open_seconds = open_seconds
        self._failures = 0
        self._doublings = 0
        self._try_at = 0.0
        self._changed = changed
        self.state = CircuitState.CLOSED
        self.opened = 0
        """How often it opened, tries that failed included."""
        self.cause = ""
        """Why the latest request failed, in words; empty once an answer came."""

    @property
    def blocks(self) -> bool:
        """Whether the breaker refuses requests now."""
        return self.state is not CircuitState.CLOSED and self._clock() < self._try_at

    def allows(self) -> bool:
        """Whether to send a request now. A caller that may must report `succeeded` or `failed`.

        A try whose outcome is never reported (its task was cancelled) is repeated after `open_seconds`.
        """
        if self.state is CircuitState.CLOSED:
            return True
        if self._clock() < self._try_at:
            return False
        self.state = CircuitState.HALF_OPEN
        self._try_at = self._clock() + self._open_seconds
        return True

    def succeeded(self) -> None:
        """An answer came. Closes the breaker."""
        self._failures = 0
        self._doublings = 0
        self.cause = ""
        if self.state is not CircuitState.CLOSED:
            self._change(CircuitState.CLOSED)

    def failed(self, cause: str = "") -> None:
        """No answer came, because of `cause`."""
        self.cause = cause
        self._failures += 1
        trying = self.state is CircuitState.HALF_OPEN
        if trying or (self.state is CircuitState.CLOSED and self._failures >= self._failures_allowed):
            if trying:
                self._doublings = min(MAX_DOUBLINGS, self._doublings + 1)
            wait = self._open_seconds * 2**self._doublings
            self._try_at = self._clock() + wait * (1 + self._random() / 2)
            self.opened += 1
            self._change(CircuitState.OPEN)

    def _change(self, state: CircuitState) -> None:
        self.state = state
        if self._changed is not None:
            self._changed(state)
