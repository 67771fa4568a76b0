"""Token budgets: checked with 0 hits, then charged with what was used, which always counts."""

import pytest
from redis.asyncio import Redis

from common.buckets import SECOND_US
from common.circuit_breaker import CircuitBreaker
from ratelimit.decision import LimitDecision
from ratelimit.request import Descriptor, LimitRequest, Override
from ratelimit.rules import Algorithm, Options, Unit
from ratelimit.stores.redis import RedisStore
from ratelimit.token_budgets import MAX_SHAPES, TokenBudgets
from tests.ratelimit.test_deny_cache import Asked
from tests.support.limiter import AwayStore, Bench, of
from tests.support.redis_server import RedisServer

MINUTE_US = 60 * SECOND_US
BUDGET = "- {key: model, rate_limit: {unit: minute, requests_per_unit: 1000}}"
MONTHLY = "- {key: model, rate_limit: {period: month, requests_per_unit: 1000}}"
PAIR = f"""
    {BUDGET}
    - {{key: user, rate_limit: {{unit: minute, requests_per_unit: 5}}}}
"""
EACH = pytest.mark.parametrize("algorithm", list(Algorithm))


def model(hits: int | None, **more: object) -> Descriptor:
    return of(("model", "large"), hits=hits, **more)


CHECK = model(0)
USED = model(900)


@EACH
def test_a_budget_of_1000_with_answers_of_900_refuses_the_third(algorithm: Algorithm) -> None:
    bench = Bench(BUDGET, Options(algorithm=algorithm))
    refusals = []
    for _ in range(3):
        refusals.append(bench.ask(CHECK).over_limit)
        bench.ask(USED)
    assert refusals == [False, False, True]


def test_a_calendar_budget_does_so_too() -> None:
    bench = Bench(MONTHLY)
    for _ in range(2):
        assert not bench.ask(CHECK).over_limit
        bench.ask(USED)
    assert bench.ask(CHECK).over_limit


def test_debt_is_paid_back_with_time_and_never_more_than_one_capacity() -> None:
    bench = Bench(BUDGET)
    bench.ask(CHECK)
    for _ in range(100):
        bench.ask(USED)
    assert bench.ask(CHECK).retry_after_seconds == 60
    bench.now_us += MINUTE_US
    assert not bench.ask(CHECK).over_limit


def test_a_cost_without_any_check_leaves_no_trace_if_it_is_refused() -> None:
    """An ordinary request with a cost of its own, which Envoy sends in the same way."""
    bench = Bench(BUDGET)
    assert [bench.ask(USED).over_limit for _ in range(5)] == [False, *[True] * 4]
    assert not bench.ask(model(100)).over_limit


def test_requests_without_hits_of_their_own_are_no_charges() -> None:
    bench = Bench("- {key: model, rate_limit: {unit: minute, requests_per_unit: 1}}")
    bench.ask(CHECK)
    for _ in range(5):
        bench.ask(model(None))
    assert bench.ask(model(None)).retry_after_seconds == 60


def test_a_refund_stays_a_refund() -> None:
    bench = Bench(BUDGET)
    bench.ask(CHECK)
    bench.ask(USED)
    assert bench.ask(model(400, refund=True)).statuses[0].remaining == 500


def test_charge_rejected_false_refuses_charges_too() -> None:
    bench = Bench(
        "- {key: model, rate_limit: {unit: minute, requests_per_unit: 1000, charge_rejected: false}}"
    )
    for _ in range(3):
        assert not bench.ask(CHECK).over_limit
        bench.ask(USED)


@pytest.mark.parametrize("spare_others", [False, True])
@EACH
def test_a_charge_counts_although_another_limit_refuses(algorithm: Algorithm, *, spare_others: bool) -> None:
    bench = Bench(PAIR, Options(algorithm=algorithm), spare_others=spare_others)
    bench.ask(CHECK)
    user = of(("user", "alice"))
    bench.ask(user, hits=5)
    assert bench.ask(USED, user).over_limit
    assert bench.ask(CHECK).statuses[0].remaining == 100


def test_only_the_descriptors_that_were_checked_are_budgets() -> None:
    bench = Bench(PAIR)
    bench.ask(CHECK)
    user = of(("user", "alice"), hits=4)
    bench.ask(user)
    assert bench.ask(user, USED).over_limit
    assert bench.ask(of(("user", "alice"), hits=1)).statuses[0].remaining == 0


def test_other_values_of_the_same_keys_are_budgets() -> None:
    """Envoy's configuration says once for all values that they are checked first."""
    bench = Bench(BUDGET)
    bench.ask(CHECK)
    for _ in range(2):
        bench.ask(of(("model", "small"), hits=900))
    assert bench.ask(of(("model", "small"), hits=0)).over_limit


def test_a_limit_that_the_request_brings_along_is_charged_too() -> None:
    bench = Bench(BUDGET)
    limit = Override(1000, Unit.MINUTE)
    for _ in range(2):
        assert not bench.ask(model(0, override=limit)).over_limit
        bench.ask(model(900, override=limit))
    assert bench.ask(model(0, override=limit)).over_limit


def test_a_reload_forgets_nothing() -> None:
    bench = Bench(BUDGET)
    bench.ask(CHECK)
    bench.limiter.use(bench.compiled(BUDGET))
    for _ in range(2):
        bench.ask(USED)
    assert bench.ask(CHECK).over_limit


@EACH
def test_without_the_store_a_charge_counts_in_this_process(algorithm: Algorithm) -> None:
    bench = Bench(BUDGET, Options(algorithm=algorithm), store=AwayStore())
    for _ in range(2):
        assert not bench.ask(CHECK).over_limit
        bench.ask(USED)
    assert bench.ask(CHECK).over_limit


@EACH
async def test_the_deny_cache_answers_checks_and_lets_every_charge_through(algorithm: Algorithm) -> None:
    asked = Asked(BUDGET, Options(algorithm=algorithm))
    for _ in range(2):
        await asked.ask(CHECK)
        await asked.ask(USED)
    assert (await asked.ask(CHECK)).over_limit
    calls = asked.store.calls
    assert (await asked.ask(CHECK)).over_limit
    assert asked.store.calls == calls or algorithm is Algorithm.SLIDING_WINDOW
    if (
        algorithm is not Algorithm.FIXED_WINDOW
    ):  # its debt ends with the window, so more of it changes nothing
        calls = asked.store.calls
        await asked.ask(USED)
        assert asked.store.calls == calls + 1


@pytest.mark.redis
@EACH
async def test_redis_counts_a_charge_as_memory_does(shared_redis: RedisServer, algorithm: Algorithm) -> None:
    async with Redis.from_url(shared_redis.url) as client:
        store = RedisStore(client, CircuitBreaker(lambda: 0.0, lambda: 0.0), timeout_seconds=10.0)
        # A year, so that no window ends and nothing is refilled during the test.
        bench = Bench(BUDGET.replace("unit: minute", "unit: year"), Options(algorithm=algorithm), store=store)
        refusals = []
        for descriptor in (CHECK, USED) * 3:
            answer = bench.limiter.decide(bench.limiter.plan(LimitRequest("d", [descriptor])))
            assert not isinstance(answer, LimitDecision)
            refusals.append((await answer).over_limit)
        await store.close()
    assert refusals[::2] == [False, False, True]


def test_what_is_learnt_is_bounded() -> None:
    budgets = TokenBudgets()
    budgets.learn("d", [of((f"key{number}", "1"), hits=0) for number in range(MAX_SHAPES + 10)])
    assert len(budgets) == MAX_SHAPES
