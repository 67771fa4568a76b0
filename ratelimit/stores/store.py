"""Where buckets are kept: the seam between the limiter and its stores."""

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, TypeVar, runtime_checkable

from common.buckets import Bucket, Taken

TIMEOUT_SECONDS: Final = 0.01
"""Half of the 20 ms that Envoy waits for a rate limit service by default: time to fall back and answer."""

MAX_WAITING: Final = 2_000
"""Requests. At 10 ms each that is 200,000 a second, more than one process answers."""

Result = TypeVar("Result")


class Mode(StrEnum):
    """What it means for a request that one of its buckets is over its limit."""

    ENFORCE = "enforce"
    """The request is refused."""
    QUOTA = "quota"
    """The request is refused if all its other buckets in this mode are over their limits, too."""
    SHADOW = "shadow"
    """The request passes."""


class Take(NamedTuple):
    """Hits to one bucket."""

    key: str
    bucket: Bucket
    hits: int
    mode: Mode = Mode.ENFORCE
    spare: bool = False
    """Whether hits that would pass are not charged if another bucket refuses the request, in spite of
    `charge_rejected` (STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT of envoyproxy/ratelimit)."""

    def charges_in_refused(self, allowed: bool) -> bool:  # noqa: FBT001
        """Return whether the hits are charged although the request is refused.

        `allowed` says whether the hits would pass by themselves. Refunds are always charged.
        """
        return self.hits < 0 or (self.bucket.charge_rejected and not (allowed and self.spare))


NOT_TAKEN: Final = Taken(allowed=True, remaining=0, reset_us=0, retry_after_us=0, used_before=0)
"""The outcome (by identity) of a take that was not tried, because another one refuses the request."""


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
        """The outcome of each of the `takes` of a request, in order and as one atomic step (`take_all`).

        At once where the store can; an awaitable where it must wait, for `budget_seconds` at most. Both
        raise StoreError.
        """

    async def close(self) -> None:
        """Close what the store opened."""


@runtime_checkable
class CallbackStore(Store, Protocol):
    """A store that can call back, so that a request that waits for it needs no task."""

    def take_then(
        self,
        takes: Sequence[Take],
        budget_seconds: float | None,
        finish: Callable[[list[Taken] | StoreError], Result],
    ) -> Awaitable[Result]:
        """What `finish` makes of what `take` would return or raise. Raises StoreError only at once."""
