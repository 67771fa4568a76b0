import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.buckets import MAX_TOKENS
from ratelimit.quota.assignment import FILL_SECONDS, LOWEST_RATE, TokenQuota, token_quota

RATES = st.floats(LOWEST_RATE, MAX_TOKENS)


@given(RATES)
def test_the_rate_is_never_more_and_hardly_less(rate: float) -> None:
    quota = token_quota(rate, 5, None)
    assert rate * 0.93 <= quota.rate <= rate
    assert 1 <= quota.tokens_per_fill <= MAX_TOKENS
    assert quota.fill_seconds >= 1


@given(RATES, RATES)
def test_another_rate_never_differs_in_the_interval_alone(before: float, after: float) -> None:
    """Envoy 1.40 would ignore it."""
    first = token_quota(before, 5, None)
    second = token_quota(after, 5, first)
    assert second == first or second[:2] != first[:2]
    assert second.rate <= after


@pytest.mark.parametrize(
    ("rate", "quota"),
    [
        (100, TokenQuota(5, 6000, FILL_SECONDS)),
        (1.5, TokenQuota(5, 90, FILL_SECONDS)),
        (1 / 60, TokenQuota(5, 16, 960)),
        (1e8, TokenQuota(5, 100_000_000, 1)),
    ],
)
def test_a_rate_is_whole_tokens_in_whole_seconds(rate: float, quota: TokenQuota) -> None:
    assert token_quota(rate, 5, None) == quota
