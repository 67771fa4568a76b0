"""Where buckets are kept: the seam between the limiter and its stores."""

from collections.abc import Awaitable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from common.buckets import FixedWindow, Taken, TokenBucket


class Take(NamedTuple):
    """Hits to one bucket."""

    key: str
    bucket: TokenBucket | FixedWindow
    hits: int


class Failure(StrEnum):
    """Why a store gave no answer: the value of `reason` in metrics and metadata."""

    TIMEOUT = "store_timeout"
    """No answer in time; whether the hits were charged is unknown."""
    UNREACHABLE = "store_unreachable"
    """No connection, or it broke."""
    REFUSED = "store_refused"
    """It answered with an error (still loading, read-only, out of memory, not allowed)."""
    BREAKER_OPEN = "store_breaker_open"
    """Not asked: it failed too often just now."""
    BUSY = "store_busy"
    """Not asked: too many requests wait for it already."""
    NO_TIME = "store_no_time"
    """Not asked: the caller's deadline leaves no time."""


class StoreError(Exception):
    """A store gave no answer."""

    def __init__(self, failure: Failure, detail: str = "") -> None:
        super().__init__(f"{failure}: {detail}" if detail else str(failure))
        self.failure = failure


class Store(Protocol):
    """Keeps buckets. Passes the tests in tests/ratelimit/test_stores.py."""

    def take(
        self, takes: Sequence[Take], budget_seconds: float | None = None, /
    ) -> list[Taken] | Awaitable[list[Taken]]:
        """The outcome of each of `takes`, in order and as one atomic step.

        At once where the store can; an awaitable where it must wait, for `budget_seconds` at most. Both
        raise StoreError. Each bucket is charged by itself, whatever becomes of the others.
        """

    async def close(self) -> None:
        """Close what the store opened."""
