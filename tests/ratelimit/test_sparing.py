"""`spare_others`: a refused request charges only what is over (STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT)."""

import pytest

from ratelimit.decision import LimitDecision
from ratelimit.rules import Algorithm, Options
from tests.support.limiter import AwayStore, Bench, LaterStore, of

RULES = """
    - {key: small, rate_limit: {unit: minute, requests_per_unit: 2}}
    - {key: large, rate_limit: {unit: minute, requests_per_unit: 9}}
    - {key: shadow, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 2}}
    - {key: quota, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 2}}
    - {key: quota2, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 9}}
"""
WINDOWS = Options(algorithm=Algorithm.FIXED_WINDOW)
SMALL, LARGE = of(("small", "1")), of(("large", "1"))


def bench(*, spare_others: bool = True, shadow_mode: bool = False) -> Bench:
    return Bench(RULES, WINDOWS, spare_others=spare_others, shadow_mode=shadow_mode)


def remaining(decision: LimitDecision) -> list[int]:
    return [status.remaining for status in decision.statuses]


def left_of(bench: Bench, key: str) -> int:
    return bench.ask(of((key, "1"), hits=0)).statuses[0].remaining


def test_the_other_limits_of_a_refused_request_are_spared() -> None:
    one = bench()
    answers = [one.ask(SMALL, LARGE) for _ in range(4)]
    assert [answer.over_limit for answer in answers] == [False, False, True, True]
    assert [remaining(answer) for answer in answers] == [[1, 8], [0, 7], [0, 7], [0, 7]]
    assert [status.over_limit for status in answers[-1].statuses] == [True, False]


def test_by_default_they_are_charged() -> None:
    one = bench(spare_others=False)
    assert [remaining(one.ask(SMALL, LARGE)) for _ in range(4)][-1] == [0, 5]


def test_the_limit_that_is_over_is_still_charged() -> None:
    """So a window that refused goes on refusing smaller requests, as without the setting."""
    one = bench()
    assert one.ask(SMALL, LARGE, hits=3).over_limit
    assert one.ask(SMALL).over_limit


def test_a_single_limit_is_charged_as_ever() -> None:
    one = bench()
    assert one.ask(SMALL, hits=3).over_limit
    assert one.ask(SMALL).over_limit


def test_refunds_are_never_spared() -> None:
    one = bench()
    one.ask(LARGE, hits=5)
    one.ask(of(("large", "1"), hits=2, refund=True), of(("small", "1"), hits=3))
    assert left_of(one, "large") == 6


@pytest.mark.parametrize("other", ["shadow", "quota"])
def test_what_is_over_and_does_not_refuse_spares_nothing(other: str) -> None:
    """There it does: a limit next to one in shadow mode that is over is no longer counted."""
    one = bench()
    extra = [of(("quota2", "1"))] if other == "quota" else []
    for _ in range(4):
        assert not one.ask(of((other, "1")), LARGE, *extra).over_limit
    assert left_of(one, "large") == 5


def test_a_global_shadow_mode_refuses_nothing_so_it_spares_nothing() -> None:
    one = bench(shadow_mode=True)
    for _ in range(4):
        one.ask(SMALL, LARGE)
    assert left_of(one, "large") == 5


def test_token_buckets_are_spared_too() -> None:
    one = Bench(RULES, spare_others=True)
    for _ in range(4):
        one.ask(SMALL, LARGE)
    assert left_of(one, "large") == 7


def test_what_was_spared_counts_as_a_hit_and_nothing_else() -> None:
    one = bench()
    one.ask(SMALL, LARGE, hits=3)
    counts = one.stats.of_rule(("d", "large"))
    assert (counts.total_hits, counts.within_limit, counts.over_limit) == (3, 0, 0)


async def test_a_shared_store_is_asked_once() -> None:
    one = bench()
    later = Bench(RULES, WINDOWS, store=LaterStore(one.memory), spare_others=True)
    answers = []
    for _ in range(4):
        answer = later.ask_later(SMALL, LARGE)
        assert not isinstance(answer, LimitDecision)
        answers.append(await answer)
    assert [remaining(answer) for answer in answers] == [[1, 8], [0, 7], [0, 7], [0, 7]]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_store_that_is_away_is_as_ever(waits: bool) -> None:
    one = Bench(RULES, WINDOWS, store=AwayStore(waits=waits), spare_others=True)
    answer = one.ask_later(SMALL, LARGE)
    decision = answer if isinstance(answer, LimitDecision) else await answer
    assert decision.failure
    assert remaining(decision) == [1, 8]
