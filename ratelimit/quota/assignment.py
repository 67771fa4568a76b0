"""What an Envoy is assigned: its own token bucket, or one decision for all requests."""

from typing import Final, NamedTuple

from common.buckets import MAX_TOKENS
from ratelimit.quota.limit import Blanket

FILL_SECONDS: Final = 60
"""The fill interval of most assignments. Envoy refills evenly, so a longer one only makes the rate finer."""

FEWEST_TOKENS: Final = 16
"""Tokens a fill at least: rounding down to whole tokens costs less than 6 % of the rate."""

MOST_FILL_SECONDS: Final = 1_000_000_000
"""The fill interval of rates below FEWEST_TOKENS in FILL_SECONDS. A Duration ends at 10,000 years."""

LOWEST_RATE: Final = FEWEST_TOKENS / MOST_FILL_SECONDS


class TokenQuota(NamedTuple):
    """A token bucket as Envoy has it."""

    max_tokens: int
    tokens_per_fill: int
    fill_seconds: int
    """Whole seconds: Envoy 1.40 cuts fractions, and limits nothing below 1."""

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens_per_fill / self.fill_seconds


Strategy = TokenQuota | Blanket


class Abandon(NamedTuple):
    """Envoy forgets the bucket, and reports it again at its next request."""


class Assign(NamedTuple):
    """Envoy decides by `strategy` for so many seconds from when it receives it."""

    strategy: Strategy
    seconds: int


Action = Assign | Abandon


def token_quota(rate: float, max_tokens: int) -> TokenQuota:
    """Return a token bucket of at most `rate` tokens a second (LOWEST_RATE or more).

    Envoy 1.40 ignores a bucket that differs from the one before in the interval alone. So the interval
    follows from the rate: buckets that have the same tokens and other intervals are at least 60 times apart,
    and only above 70 million tokens a second so close.
    """
    if rate * FILL_SECONDS < FEWEST_TOKENS:
        seconds = MOST_FILL_SECONDS
    elif rate * FILL_SECONDS <= MAX_TOKENS:
        seconds = FILL_SECONDS
    else:
        seconds = 1
    return TokenQuota(max_tokens, min(MAX_TOKENS, int(rate * seconds)), seconds)
