from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.quota.shares import FLOOR, fair_shares

DEMANDS = st.lists(st.one_of(st.just(0.0), st.just(inf), st.floats(0, 1e9)), min_size=1, max_size=20)


@given(st.floats(0.001, 1e9), DEMANDS)
def test_all_shares_together_are_the_total_and_none_is_below_the_floor(
    total: float, demands: list[float]
) -> None:
    shares = fair_shares(total, demands)
    assert sum(shares) == pytest.approx(total)
    assert min(shares) >= FLOOR * total / len(demands) * 0.999


@given(st.floats(0.001, 1e9), DEMANDS)
def test_a_larger_demand_never_gets_less(total: float, demands: list[float]) -> None:
    shares = fair_shares(total, sorted(demands))
    assert all(less <= more * 1.000001 for less, more in pairwise(shares))


def test_small_demands_are_met_and_the_others_share_equally() -> None:
    assert fair_shares(100, [10, 200, 70]) == pytest.approx([10, 45, 45])


def test_what_is_left_is_divided_in_proportion() -> None:
    assert fair_shares(100, [10, 30]) == pytest.approx([25, 75])


def test_a_demand_that_is_not_known_counts_as_any() -> None:
    assert fair_shares(100, [inf, 80]) == pytest.approx([50, 50])
    assert fair_shares(100, [inf]) == [100]


def test_without_demand_all_get_the_same() -> None:
    assert fair_shares(100, [0, 0]) == pytest.approx([50, 50])
    assert fair_shares(100, []) == []
