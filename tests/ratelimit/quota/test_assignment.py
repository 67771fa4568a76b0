import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.buckets import MAX_TOKENS
from ratelimit.quota.assignment import FILL_SECONDS, LOWEST_RATE, MOST_FILL_SECONDS, TokenQuota, token_quota

RATES = st.floats(LOWEST_RATE, MAX_TOKENS)


@given(RATES)
def test_the_rate_is_never_more_and_hardly_less(rate: float) -> None:
    quota = token_quota(rate, 5)
    assert rate * 0.93 <= quota.rate <= rate
    assert 1 <= quota.tokens_per_fill <= MAX_TOKENS
    assert quota.fill_seconds >= 1


@given(RATES, st.floats(0.001, 1000))
def test_another_rate_never_differs_in_the_interval_alone(before: float, factor: float) -> None:
    """Envoy 1.40 would ignore it, also after others that were replaced before they were sent."""
    first = token_quota(before, 5)
    second = token_quota(min(1e6, max(LOWEST_RATE, before * factor)), 5)
    assert second == first or second[:2] != first[:2]


@pytest.mark.parametrize(
    ("rate", "quota"),
    [
        (100, TokenQuota(5, 6000, FILL_SECONDS)),
        (1.5, TokenQuota(5, 90, FILL_SECONDS)),
        (1 / 60, TokenQuota(5, 16_666_666, MOST_FILL_SECONDS)),
        (1e8, TokenQuota(5, 100_000_000, 1)),
    ],
)
def test_a_rate_is_whole_tokens_in_whole_seconds(rate: float, quota: TokenQuota) -> None:
    assert token_quota(rate, 5) == quota
