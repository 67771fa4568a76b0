"""One lease: the tokens of one bucket that this process may still hand out."""

from dataclasses import replace
from math import ceil, inf
from typing import Final

from common.buckets import SECOND_US, Bucket, CalendarWindow, RateBucket, SlidingWindow, Taken, TokenBucket
from ratelimit.stores.store import Mode, Take

FIRST_TOKENS: Final = 8
"""The first lease of a key, whose rate is hardly known."""

MAX_GROWTH: Final = 8
"""A lease is at most so many times as large as the one before it: a short burst gives no rate to rely on."""

SHORTEST_SECONDS: Final = 0.001
"""The shortest time that a rate is taken from."""

MOST_SECONDS: Final = 60.0
"""The longest time that a window makes a lease last."""

_MONTH_SECONDS: Final = 28 * 86_400

_new: Final = tuple.__new__
"""Makes a named tuple of all its fields, for half of what its own constructor costs."""


def lease_seconds(bucket: RateBucket, seconds: float, window_part: float) -> float:
    """How long a lease of `bucket` has tokens for: `seconds`, or this part of its window if that is longer.

    A limit of a day loses nothing if tokens lie idle for a minute, and a key that is asked for every few
    seconds gains from a lease only if it lasts.
    """
    return max(seconds, min(window_part * window_seconds(bucket), MOST_SECONDS))


def window_seconds(bucket: RateBucket) -> float:
    """The time that the whole limit is for; of a calendar window, at least."""
    if isinstance(bucket, CalendarWindow):
        return _MONTH_SECONDS
    return (bucket.period_us if isinstance(bucket, TokenBucket) else bucket.window_us) / SECOND_US


class Lease:
    """Tokens of `bucket` that are charged in the store, and not handed out yet. Its clock is monotonic.

    A lease of a window ends with the window that it was charged in, so the window admits no more than its
    limit. Tokens of a token bucket keep.
    """

    __slots__ = (
        "_began", "_elsewhere", "_full_at", "_had", "_size", "asked", "asked_at", "bucket", "ended",
        "ends_at", "left", "renew_at", "retry_at", "seconds", "tokens",
    )  # fmt: skip

    def __init__(self, bucket: RateBucket, remaining: int, seconds: float) -> None:
        self.seconds = seconds
        """How long it has tokens for."""
        self.bucket = bucket
        """As its requests have it."""
        self.left = 0
        """Tokens to hand out."""
        self.asked = 0
        """Tokens that the store was asked for; negative: that were given back to it."""
        self.asked_at: float | None = None
        """When that was; None if there is an answer."""
        self.tokens = FIRST_TOKENS
        """The size that the rate of its key calls for."""
        self.renew_at = -inf
        """From then on it is renewed by the next request, or what is left is returned."""
        self.retry_at = -inf
        """When the store may be asked for more."""
        self.ends_at = inf
        """When the tokens are worthless: the end of their window."""
        self.ended = False
        """Whether it is no longer used; what a request puts back is returned."""
        self._size = bucket.size
        self._elsewhere = remaining
        self._full_at = self._began = -inf
        self._had = 0

    def spend(self, take: Take, now: float) -> Taken | None:
        """The outcome of `take`; None, with nothing changed, where the store has to be asked."""
        _, bucket, hits, _, _ = take
        left = self.left - hits
        if left < 0 or hits <= 0 or now >= self.renew_at or not self.serves(bucket):
            return None
        self.left = left
        remaining = self._elsewhere + left
        reset_us = int((self._full_at - now) * SECOND_US)
        if reset_us < 0:  # noqa: PLR1730 - a call of max() costs more than the comparison
            reset_us = 0
        return _new(Taken, (True, remaining, reset_us, 0, self._size - remaining - hits))

    @property
    def remaining(self) -> int:
        """What is left of the limit, by the last answer of the store and what was handed out since."""
        return self._elsewhere + self.left

    def serves(self, bucket: Bucket) -> bool:
        """Whether it is of this bucket: two limits of one window share a key."""
        # The same object, most often: to compare the values of two costs as much as all the rest.
        return bucket is self.bucket or bucket == self.bucket

    def change(self, key: str, hits: int) -> Take:
        """The take that charges `hits` more, if they fit, or gives hits back. It refuses no request."""
        bucket = self.bucket
        if bucket.charge_rejected:
            bucket = replace(bucket, charge_rejected=False)
        return Take(key, bucket, hits, Mode.SHADOW)

    def outlived(self, now: float) -> int:
        """Drop the tokens of a window that is over, and return how many these were."""
        if now < self.ends_at:
            return 0
        lost, self.left = self.left, 0
        self._elsewhere = self._size  # of the next window, for all that is known
        return lost

    def measure(self, now: float) -> None:
        """Set `tokens` to what its time needs at the rate since the last renewal."""
        if self._had <= 0:
            return
        rate = (self._had - self.left) / max(SHORTEST_SECONDS, now - self._began)
        self.tokens = max(FIRST_TOKENS, min(ceil(rate * self.seconds), self.tokens * MAX_GROWTH))

    def renewed(self, hits: int, outcome: Taken, asked_at: float, now: float) -> int:
        """Add the `hits` that the store charged (0: none) at a time from `asked_at` to `now`.

        Returns how many tokens were lost, because the window that they were charged in is over.
        """
        lost = self._begin_window(hits, outcome, asked_at)
        self.left += hits
        self._had, self._began = self.left, now
        self._elsewhere = max(0, min(outcome.remaining, self._size - self.left))
        self._full_at = asked_at + outcome.reset_us / SECOND_US
        self.renew_at = min(now + self.seconds, self.ends_at)
        return lost

    def _begin_window(self, hits: int, outcome: Taken, asked_at: float) -> int:
        # Redis answered after `asked_at`, so by this clock the window ends then, or a little later.
        bucket = self.bucket
        if isinstance(bucket, TokenBucket) or hits <= 0:
            return 0
        window, until_end = window_seconds(bucket), outcome.reset_us / SECOND_US
        ends_at = asked_at + (until_end - window if isinstance(bucket, SlidingWindow) else until_end)
        # Both are estimates of the same end, unless half a window is between them.
        is_another = self.left > 0 and ends_at - self.ends_at > window / 2
        lost = self.left if is_another else 0
        self.left -= lost
        self.ends_at = ends_at
        return lost
