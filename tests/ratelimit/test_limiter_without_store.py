"""Decisions while the store is away or slow, as each rule says."""

from ratelimit.decision import LimitDecision
from ratelimit.limiter import Limiter
from ratelimit.request import LimitRequest
from ratelimit.rules import OnFailure, Options
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.split import SplitStore
from tests.support.limiter import FIVE_EACH, NOW, A, AwayStore, Bench, LaterStore, of


class TestWithoutStore:
    THREE = """
        - {key: open, rate_limit: {unit: minute, requests_per_unit: 2, on_failure: open}}
        - {key: closed, rate_limit: {unit: minute, requests_per_unit: 2, on_failure: closed}}
        - {key: local, rate_limit: {unit: minute, requests_per_unit: 2, on_failure: local}}
        - {key: shadow, shadow_mode: true, rate_limit: {unit: minute, on_failure: closed}}
    """

    def test_open_lets_pass_without_showing_a_limit(self) -> None:
        decision = Bench(self.THREE, store=AwayStore()).ask(of(("open", "1")))
        assert not decision.over_limit
        assert decision.statuses[0].current is None
        assert decision.failure == "store_breaker_open"

    def test_closed_refuses(self) -> None:
        decision = Bench(self.THREE, store=AwayStore()).ask(of(("closed", "1")))
        assert decision.over_limit
        assert decision.statuses[0].current is None

    def test_closed_does_not_refuse_refunds_nor_in_shadow_mode(self) -> None:
        bench = Bench(self.THREE, store=AwayStore())
        assert not bench.ask(of(("closed", "1"), hits=1, refund=True)).over_limit
        assert not bench.ask(of(("shadow", "1"))).over_limit

    def test_local_counts_in_this_process(self) -> None:
        bench = Bench(self.THREE, store=AwayStore())
        answers = [bench.ask(of(("local", "1"))) for _ in range(3)]
        assert [answer.over_limit for answer in answers] == [False, False, True]
        assert answers[0].statuses[0].current is not None

    def test_local_counts_the_part_of_one_replica(self) -> None:
        bench = Bench(self.THREE, Options(replicas=2), store=AwayStore())
        answers = [bench.ask(of(("local", "1"))) for _ in range(2)]
        assert [answer.over_limit for answer in answers] == [False, True]

    def test_the_part_follows_the_number_of_replicas(self) -> None:
        """They count themselves, and their number changes."""
        there = 2
        limits = """
            - {key: tokens, rate_limit: {unit: minute, requests_per_unit: 8}}
            - {key: window, rate_limit: {unit: minute, requests_per_unit: 8, algorithm: fixed_window}}
        """
        bench = Bench(limits, store=AwayStore(), replicas=lambda: there)
        for key in ("tokens", "window"):
            there = 2
            answers = [bench.ask(of((key, "1"))).over_limit for _ in range(5)]
            assert answers == [False] * 4 + [True]
            there = 4
            assert bench.ask(of((key, "1"))).over_limit
            there = 1
            assert not bench.ask(of((key, "1"))).over_limit

    async def test_a_definite_refusal_wins_over_a_redis_that_is_away(self) -> None:
        """The Redis for short windows is away, and its rule lets pass; the other Redis refuses."""
        limits = """
            - {key: short, rate_limit: {unit: second, requests_per_unit: 2, on_failure: open}}
            - {key: long, rate_limit: {unit: hour, requests_per_unit: 2, on_failure: open}}
        """
        counting = MemoryStore(lambda: NOW)
        bench = Bench(limits, store=SplitStore(counting, AwayStore(waits=True)))

        async def ask(*keys: str) -> LimitDecision:
            decision = bench.ask_later(*[of((key, "1")) for key in keys])
            return decision if isinstance(decision, LimitDecision) else await decision

        for _ in range(2):
            assert not (await ask("long")).over_limit
        decision = await ask("short", "long")
        assert (decision.over_limit, decision.failure) == (True, "")
        assert [status.known for status in decision.statuses] == [False, True]
        assert not (await ask("short")).over_limit

    def test_each_rule_answers_as_it_says(self) -> None:
        decision = Bench(self.THREE, store=AwayStore()).ask(
            of(("open", "1")), of(("closed", "1")), of(("local", "1"))
        )
        assert [status.over_limit for status in decision.statuses] == [False, True, False]

    async def test_a_store_that_fails_after_a_wait_is_the_same(self) -> None:
        answer = Bench(self.THREE, store=AwayStore(waits=True)).ask_later(of(("closed", "1")))
        assert not isinstance(answer, LimitDecision)
        decision = await answer
        assert decision.over_limit
        assert decision.failure == "store_timeout"

    def test_what_was_answered_so_is_counted(self) -> None:
        bench = Bench(self.THREE, store=AwayStore())
        bench.ask(of(("open", "1")), of(("local", "1")))
        assert bench.stats.failure_answers == {"open": 1, "closed": 0, "local": 1}
        assert bench.stats.errors["redis_error"] == 1

    def test_the_default_is_a_setting(self) -> None:
        bench = Bench(FIVE_EACH, Options(on_failure=OnFailure.CLOSED), store=AwayStore())
        assert bench.ask(A).over_limit

    def test_what_no_rule_limits_needs_no_store(self) -> None:
        decision = Bench(FIVE_EACH, store=AwayStore()).ask(of(("none", "1")))
        assert (decision.over_limit, decision.failure) == (False, "")


async def test_a_store_that_must_wait_makes_an_awaitable() -> None:
    bench = Bench(FIVE_EACH)
    limiter = Limiter(bench.limiter.limits, LaterStore(bench.memory), bench.memory, bench.stats)
    answer = limiter.decide(limiter.plan(LimitRequest("d", (A,))))
    assert not isinstance(answer, LimitDecision)
    assert (await answer).statuses[0].remaining == 4
