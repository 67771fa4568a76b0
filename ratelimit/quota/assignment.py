"""What an Envoy is assigned: its own token bucket, or one decision for all requests."""

from math import ceil
from typing import Final, NamedTuple

from common.buckets import MAX_TOKENS
from ratelimit.quota.limit import Blanket

FILL_SECONDS: Final = 60
"""The fill interval of most assignments. Envoy refills evenly, so a longer one only makes the rate finer."""

FEWEST_TOKENS: Final = 16
"""Tokens a fill at least: rounding down to whole tokens costs less than 6 % of the rate."""

MOST_FILL_SECONDS: Final = 1_000_000_000
"""The longest fill interval; a protobuf Duration ends at 10,000 years."""

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


def token_quota(rate: float, max_tokens: int, before: Strategy | None) -> TokenQuota:
    """Return a token bucket of at most `rate` tokens a second (LOWEST_RATE or more), to follow `before`.

    Envoy 1.40 ignores a bucket that differs from the one before in nothing but the interval, so such a bucket
    gets one token more, in a longer interval.
    """
    quota = _quota(rate, max_tokens, FEWEST_TOKENS)
    if isinstance(before, TokenQuota) and quota[:2] == before[:2] and quota != before:
        quota = _quota(rate, max_tokens, quota.tokens_per_fill + 1, exactly=True)
    return quota


def _quota(rate: float, max_tokens: int, tokens: int, *, exactly: bool = False) -> TokenQuota:
    if exactly or rate * FILL_SECONDS < tokens:
        return TokenQuota(max_tokens, tokens, max(1, ceil(tokens / rate)))
    seconds = FILL_SECONDS if rate * FILL_SECONDS <= MAX_TOKENS else 1
    return TokenQuota(max_tokens, min(MAX_TOKENS, int(rate * seconds)), seconds)
