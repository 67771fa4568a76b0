"""Requests to decisions: the service of envoyproxy/ratelimit, behaviour by behaviour."""

import pytest

from common.buckets import SECOND_US
from ratelimit.bad_input import DEFAULT_BOUNDS
from ratelimit.config import compile_limits
from ratelimit.decision import LimitDecision
from ratelimit.plan import UNLIMITED
from ratelimit.request import LimitRequest, Override, RequestError, UnconfiguredError
from ratelimit.rules import Algorithm, OnFailure, Options, Unit
from tests.support.limiter import FIVE_EACH, A, B, Bench, of


class TestStatuses:
    def test_one_for_each_descriptor_in_their_order(self) -> None:
        bench = Bench(FIVE_EACH)
        decision = bench.ask(B, of(("none", "1")), A)
        assert [status.rule and status.rule.key for status in decision.statuses] == ["d.b", None, "d.a"]
        assert [status.remaining for status in decision.statuses] == [4, 0, 4]

    def test_no_match_is_ok_without_a_limit(self) -> None:
        decision = Bench(FIVE_EACH).ask(of(("none", "1")))
        [status] = decision.statuses
        assert (decision.over_limit, status.over_limit, status.current) == (False, False, None)

    def test_reset_is_told_in_whole_seconds_rounded_up(self) -> None:
        bench = Bench(FIVE_EACH)
        [status] = bench.ask(A).statuses
        assert status.reset_seconds == 12
        bench.now_us += 1
        [status] = bench.ask(of(("a", "1"), hits=0)).statuses
        assert status.reset_seconds == 12

    def test_a_refusal_says_what_is_left_and_when_to_come_back(self) -> None:
        bench = Bench(FIVE_EACH)
        bench.ask(A, hits=4)
        decision = bench.ask(A, hits=3)
        [status] = decision.statuses
        assert (status.over_limit, status.remaining, status.retry_after_seconds) == (True, 1, 24)
        assert decision.retry_after_seconds == 24

    def test_a_refused_request_does_not_use_up_its_other_limits(self) -> None:
        bench = Bench(FIVE_EACH)
        bench.ask(A, hits=5)
        decision = bench.ask(A, B)
        assert decision.over_limit
        assert [status.over_limit for status in decision.statuses] == [True, False]
        assert [status.remaining for status in decision.statuses] == [0, 5]
        assert bench.ask(of(("b", "1"), hits=0)).statuses[0].remaining == 5

    def test_a_refused_request_charges_all_its_fixed_windows(self) -> None:
        """As envoyproxy/ratelimit counts them."""
        bench = Bench(FIVE_EACH, Options(algorithm=Algorithm.FIXED_WINDOW))
        bench.ask(A, hits=5)
        decision = bench.ask(A, B)
        assert decision.over_limit
        assert [status.over_limit for status in decision.statuses] == [True, False]
        assert bench.ask(of(("b", "1"), hits=0)).statuses[0].remaining == 4

    @pytest.mark.parametrize("options", [Options(), Options(on_failure=OnFailure.OPEN)])
    def test_the_shadow_mode_of_all_charges_all(self, options: Options) -> None:
        bench = Bench(FIVE_EACH, options, shadow_mode=True)
        bench.ask(A, hits=5)
        assert not bench.ask(A, B).over_limit
        assert bench.ask(of(("b", "1"), hits=0)).statuses[0].remaining == 4

    def test_a_quota_in_shadow_mode_is_never_over(self) -> None:
        bench = Bench("""
            - {key: a, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 5}}
            - {key: b, quota_mode: true, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 5}}
            - {key: c, rate_limit: {unit: minute, requests_per_unit: 5}}
        """)
        bench.ask(A, B, hits=5)
        assert not bench.ask(A, B, of(("c", "1"))).over_limit
        assert bench.ask(of(("c", "1"), hits=0)).statuses[0].remaining == 4

    def test_fixed_window_counts_as_there(self) -> None:
        bench = Bench(FIVE_EACH, Options(algorithm=Algorithm.FIXED_WINDOW))
        codes = [bench.ask(A).over_limit for _ in range(7)]
        assert codes == [False] * 5 + [True] * 2
        bench.now_us += 60 * SECOND_US
        assert not bench.ask(A).over_limit

    def test_the_deciding_status_is_the_tightest_or_the_last_over_its_limit(self) -> None:
        """The descriptor that envoyproxy/ratelimit makes its headers of."""
        bench = Bench(FIVE_EACH)
        bench.ask(B)
        assert (deciding := bench.ask(A, B).deciding) is not None
        assert deciding.rule is not None
        assert deciding.rule.key == "d.b"
        bench.ask(A, hits=5)
        bench.ask(B, hits=5)
        decision = bench.ask(A, B, hits=5)
        assert decision.deciding is decision.statuses[1]
        assert bench.ask(of(("none", "1"))).deciding is None


class TestHits:
    """GetHitsAddends."""

    @pytest.mark.parametrize(
        ("own", "of_request", "charged"),
        [(None, 0, 1), (None, 3, 3), (2, 3, 2), (2, 0, 2), (0, 3, 0), (0, 0, 0)],
    )
    def test_a_descriptors_own_win_and_may_be_0(self, own: int | None, of_request: int, charged: int) -> None:
        bench = Bench(FIVE_EACH)
        [status] = bench.ask(of(("a", "1"), hits=own), hits=of_request).statuses
        assert status.remaining == 5 - charged

    def test_each_descriptor_has_its_own(self) -> None:
        bench = Bench(FIVE_EACH)
        decision = bench.ask(of(("a", "1"), hits=2), of(("b", "1"), hits=4))
        assert [status.remaining for status in decision.statuses] == [3, 1]

    def test_cost_multiplies_hits_and_refunds(self) -> None:
        bench = Bench("- {key: a, rate_limit: {unit: minute, requests_per_unit: 7, cost: 3}}")
        assert [bench.ask(A).statuses[0].remaining for _ in range(3)] == [4, 1, 1]
        assert bench.ask(of(("a", "1"), hits=2, refund=True)).statuses[0].remaining == 7

    def test_negative_hits_refund(self) -> None:
        """envoyproxy/ratelimit#1140."""
        bench = Bench(FIVE_EACH)
        bench.ask(A, hits=5)
        decision = bench.ask(of(("a", "1"), hits=3, refund=True))
        assert not decision.over_limit
        assert decision.statuses[0].remaining == 3

    def test_a_refund_passes_even_over_the_limit(self) -> None:
        bench = Bench(FIVE_EACH, Options(algorithm=Algorithm.FIXED_WINDOW))
        bench.ask(A, hits=50)
        assert not bench.ask(of(("a", "1"), hits=1, refund=True)).over_limit
        assert bench.ask(of(("a", "1"), hits=0)).over_limit

    def test_token_quota_is_checked_with_0_and_charged_afterwards(self) -> None:
        """The check at the start of a stream and Envoy's apply_on_stream_done at its end (token-quota.sh)."""
        bench = Bench("- {key: a, rate_limit: {unit: hour, requests_per_unit: 100, charge_rejected: true}}")
        check = of(("a", "1"), hits=0)
        assert not bench.ask(check).over_limit
        bench.ask(of(("a", "1"), hits=100))
        assert not bench.ask(check).over_limit
        bench.ask(of(("a", "1"), hits=50))
        assert bench.ask(check).over_limit

    def test_hits_beyond_32_bits_are_just_too_many(self) -> None:
        assert Bench(FIVE_EACH).ask(of(("a", "1"), hits=2**64 - 1)).over_limit


class TestUnlimitedAndReplaces:
    NAMED = """
        - {key: a, rate_limit: {unit: minute, requests_per_unit: 1, name: general}}
        - {key: b, rate_limit: {unit: minute, requests_per_unit: 5, replaces: [{name: general}]}}
        - {key: free, rate_limit: {unlimited: true, name: free, replaces: [{name: general}]}}
        - {key: c, rate_limit: {unit: minute, requests_per_unit: 5, replaces: [{name: free}]}}
    """

    def test_unlimited_passes_with_the_largest_remaining_and_no_limit(self) -> None:
        [status] = Bench(self.NAMED).ask(of(("free", "1")), hits=1_000_000).statuses
        assert (status.over_limit, status.remaining, status.current) == (False, UNLIMITED, None)
        assert UNLIMITED == 4294967295

    def test_a_replaced_limit_is_neither_charged_nor_shown(self) -> None:
        bench = Bench(self.NAMED)
        for _ in range(3):
            decision = bench.ask(A, B)
            assert not decision.over_limit
            assert decision.statuses[0].rule is None
        assert not bench.ask(A).over_limit

    def test_an_unlimited_rule_replaces_too(self) -> None:
        bench = Bench(self.NAMED)
        for _ in range(3):
            assert not bench.ask(of(("free", "1")), A).over_limit

    def test_an_unlimited_rule_cannot_be_replaced(self) -> None:
        decision = Bench(self.NAMED).ask(of(("free", "1")), of(("c", "1")))
        assert decision.statuses[0].remaining == UNLIMITED

    def test_without_a_match_nothing_is_replaced(self) -> None:
        bench = Bench(self.NAMED)
        bench.ask(A)
        assert bench.ask(A, of(("other", "1"))).over_limit


class TestOverrides:
    def test_an_override_takes_the_place_of_the_tree(self) -> None:
        bench = Bench(FIVE_EACH)
        decision = bench.ask(of(("a", "1"), override=Override(42, Unit.HOUR)))
        [status] = decision.statuses
        assert status.current is not None
        assert (status.current.requests_per_unit, status.current.unit) == (42, Unit.HOUR)
        assert status.remaining == 41

    def test_it_works_for_descriptors_without_a_rule(self) -> None:
        bench = Bench(FIVE_EACH)
        descriptor = of(("z", "1"), override=Override(1, Unit.HOUR))
        assert [bench.ask(descriptor).over_limit for _ in range(2)] == [False, True]

    def test_unit_multiplier_makes_other_windows(self) -> None:
        bench = Bench(FIVE_EACH)
        [status] = bench.ask(of(("a", "1"), override=Override(1, Unit.MINUTE, 5))).statuses
        assert status.reset_seconds == 300

    @pytest.mark.parametrize("value", [" acme", "acme\t", " \tacme "])
    def test_blanks_around_a_value_make_no_bucket_of_their_own(self, value: str) -> None:
        bench = Bench(FIVE_EACH)
        override = Override(1, Unit.HOUR)
        assert not bench.ask(of(("tenant", "acme"), override=override)).over_limit
        decision = bench.ask(of(("tenant", value), override=override))
        assert decision.over_limit
        [status] = decision.statuses
        assert status.rule is not None
        assert status.rule.key == "d.tenant_acme"

    @pytest.mark.parametrize("override", [Override(5, 0), Override(5, 99), Override(5, Unit.YEAR, 11)])
    def test_an_override_that_makes_no_sense_is_an_error_and_no_crash(self, override: Override) -> None:
        """Unit UNKNOWN makes envoyproxy/ratelimit panic."""
        with pytest.raises(RequestError, match="override"):
            Bench(FIVE_EACH).ask(of(("a", "1"), override=override))

    def test_in_an_unknown_domain_it_is_not_even_looked_at(self) -> None:
        decision = Bench(FIVE_EACH).ask(of(("a", "1"), override=Override(0, 0)), domain="other")
        assert not decision.over_limit

    def test_shadow_mode_of_the_tree_does_not_hold_for_it(self) -> None:
        bench = Bench("- {key: a, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}")
        assert bench.ask(of(("a", "1"), override=Override(0, Unit.SECOND))).over_limit


class TestModes:
    def test_shadow_mode_of_a_rule_lets_pass_with_0_remaining(self) -> None:
        bench = Bench("- {key: a, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}")
        bench.ask(A)
        decision = bench.ask(A)
        [status] = decision.statuses
        assert (decision.over_limit, status.over_limit, status.remaining) == (False, False, 0)
        assert decision.reason == "shadow_mode"

    def test_shadow_mode_of_one_does_not_excuse_another(self) -> None:
        bench = Bench(
            """
            - {key: a, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}
            - {key: b, rate_limit: {unit: minute, requests_per_unit: 1}}
            """
        )
        bench.ask(A, B)
        assert [status.over_limit for status in bench.ask(A, B).statuses] == [False, True]

    def test_shadow_mode_of_all_turns_the_answer_and_keeps_the_codes(self) -> None:
        """SHADOW_MODE: overall OK, descriptors stay OVER_LIMIT."""
        bench = Bench(FIVE_EACH, shadow_mode=True)
        decision = bench.ask(A, hits=6)
        assert (decision.over_limit, decision.statuses[0].over_limit) == (False, True)
        assert decision.reason == "shadow_mode"
        assert bench.stats.global_shadow_mode == 1

    QUOTAS = """
        - {key: q1, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}
        - {key: q2, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 2}}
        - {key: regular, rate_limit: {unit: minute, requests_per_unit: 1}}
        - {key: wide, rate_limit: {unit: minute, requests_per_unit: 100}}
    """

    def test_quotas_refuse_only_when_all_of_them_are_used_up(self) -> None:
        bench = Bench(self.QUOTAS)
        both = (of(("q1", "1")), of(("q2", "1")))
        answers = [bench.ask(*both) for _ in range(3)]
        assert [[status.over_limit for status in answer.statuses] for answer in answers] == [
            [False, False],
            [True, False],
            [True, True],
        ]
        assert [answer.over_limit for answer in answers] == [False, False, True]

    def test_a_quota_alone_over_refuses_beside_regular_limits_that_pass(self) -> None:
        """TestServiceMixedPerDescriptorModes."""
        bench = Bench(self.QUOTAS)
        both = (of(("q1", "1")), of(("wide", "1")))
        assert [bench.ask(*both).over_limit for _ in range(2)] == [False, True]

    def test_quota_mode_makes_a_quota_of_every_limit(self) -> None:
        """QUOTA_MODE."""
        bench = Bench(FIVE_EACH, quota_mode=True)
        assert not bench.ask(of(("a", "1"), hits=6), B).over_limit
        assert bench.ask(of(("a", "1"), hits=6), of(("b", "1"), hits=6)).over_limit
        assert bench.ask(of(("a", "1"), hits=6)).over_limit

    def test_quota_mode_takes_a_descriptor_without_a_limit_for_one_that_is_left(self) -> None:
        """As there, unless it is unlimited."""
        bench = Bench(FIVE_EACH + "    - {key: free, rate_limit: {unlimited: true}}", quota_mode=True)
        assert not bench.ask(of(("a", "1"), hits=6), of(("none", "1"))).over_limit
        assert bench.ask(of(("a", "1"), hits=6), of(("free", "1"))).over_limit

    def test_headers_are_of_the_limit_that_refuses_and_not_of_a_quota(self) -> None:
        bench = Bench(self.QUOTAS)
        over = bench.ask(of(("regular", "1"), hits=2), of(("q1", "1"), hits=2))
        assert over.closest is over.statuses[0]
        passes = bench.ask(of(("q1", "1"), hits=2), of(("q2", "1"), hits=1))
        assert passes.closest is passes.statuses[0]

    def test_a_refusal_by_quotas_is_explained_by_one_of_them(self) -> None:
        bench = Bench(self.QUOTAS)
        decision = bench.ask(of(("regular", "1")), of(("q1", "1"), hits=2))
        assert decision.over_limit
        assert (decision.closest, decision.deciding) == (decision.statuses[0], decision.statuses[1])

    def test_a_regular_limit_over_refuses_whatever_quotas_are_left(self) -> None:
        """TestServicePerDescriptorQuotaMode."""
        bench = Bench(self.QUOTAS)
        both = (of(("q2", "1")), of(("regular", "1")))
        assert [bench.ask(*both).over_limit for _ in range(2)] == [False, True]


class TestErrors:
    def test_an_empty_domain(self) -> None:
        with pytest.raises(RequestError, match=r"^rate limit domain must not be empty$"):
            Bench(FIVE_EACH).ask(A, domain="")

    def test_an_empty_list(self) -> None:
        with pytest.raises(RequestError, match=r"^rate limit descriptor list must not be empty$"):
            Bench(FIVE_EACH).ask()

    def test_too_long_a_list(self) -> None:
        with pytest.raises(RequestError, match="longer than"):
            Bench(FIVE_EACH).ask(*[A] * (DEFAULT_BOUNDS.max_descriptors + 1))

    def test_no_configuration(self) -> None:
        bench = Bench(FIVE_EACH)
        bench.limiter.use(compile_limits([], Options()))
        with pytest.raises(UnconfiguredError, match=r"^no rate limit configuration loaded$"):
            bench.ask(A)

    def test_an_unknown_domain_passes_and_is_counted(self) -> None:
        bench = Bench(FIVE_EACH)
        decision = bench.ask(A, B, domain="other")
        assert not decision.over_limit
        assert len(decision.statuses) == 2
        assert bench.stats._unknown_domains == {"other": 2}


class TestReload:
    def test_a_raised_limit_counts_on_from_what_is_used(self) -> None:
        """envoyproxy/ratelimit#808."""
        bench = Bench("- {key: a, rate_limit: {unit: hour, requests_per_unit: 5, algorithm: fixed_window}}")
        bench.ask(A, hits=5)
        bench.limiter.use(
            bench.compiled(
                "- {key: a, rate_limit: {unit: hour, requests_per_unit: 8, algorithm: fixed_window}}"
            )
        )
        assert bench.ask(A).statuses[0].remaining == 2

    def test_counters_go_on(self) -> None:
        bench = Bench(FIVE_EACH)
        bench.ask(A)
        bench.limiter.use(bench.compiled(FIVE_EACH))
        bench.ask(A)
        assert bench.stats.of_rule(("d", "a")).total_hits == 2

    def test_a_plan_made_before_is_decided_as_it_was_planned(self) -> None:
        bench = Bench(FIVE_EACH)
        plan = bench.limiter.plan(LimitRequest("d", (A,)))
        bench.limiter.use(compile_limits([], Options(), "r2"))
        decision = bench.limiter.decide(plan)
        assert isinstance(decision, LimitDecision)
        assert decision.plan.limits.revision == "r1"
