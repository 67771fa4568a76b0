"""Counters, under the names that envoyproxy/ratelimit gives Prometheus."""

from textwrap import dedent

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from configfile import parse
from ratelimit.buckets import SECOND_US
from ratelimit.config import compile_limits
from ratelimit.limiter import Limiter
from ratelimit.request import Descriptor, Override, Request
from ratelimit.rules import Algorithm, Options, Unit
from ratelimit.stats import MAX_RULE_KEYS, MAX_UNKNOWN_DOMAINS, Stats
from ratelimit.stores.memory import MemoryStore

NOW = 1_790_000_040 * SECOND_US

ALGORITHMS = pytest.mark.parametrize("algorithm", list(Algorithm))


def make_limiter(
    descriptors: str, algorithm: Algorithm = Algorithm.TOKEN_BUCKET, *, max_request_keys: int = 10
) -> Limiter:
    text = f"domain: d\ndescriptors:\n{dedent(descriptors)}"
    limits = compile_limits([parse(text)], Options(algorithm=algorithm))
    memory = MemoryStore(lambda: NOW)
    return Limiter(limits, memory, memory, Stats(max_request_keys))


def ask(limiter: Limiter, *entries: tuple[str, str], hits: int = 1, refund: bool = False) -> None:
    limiter.decide(limiter.plan(Request("d", (Descriptor(entries, hits, refund),))))


def sample(limiter: Limiter, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(limiter.stats)
    return registry.get_sample_value(name, labels)


def counted(limiter: Limiter, name: str) -> float | None:
    return sample(limiter, f"ratelimit_service_rate_limit_{name}", domain="d", key1="a")


TEN = "- {key: a, rate_limit: {unit: minute, requests_per_unit: 10}}"


class TestSplits:
    """checkOverLimitThreshold and checkNearLimitThreshold, with NEAR_LIMIT_RATIO 0.8: near is from 8."""

    @ALGORITHMS
    @pytest.mark.parametrize(
        ("hits", "within", "near", "over"),
        [
            ([8], 8, 0, 0),
            ([8, 1], 9, 1, 0),
            ([10], 10, 2, 0),
            ([7, 3], 10, 2, 0),
            ([10, 1], 10, 2, 1),
            ([9, 3], 9, 2, 2),
            ([5, 8], 5, 2, 3),
            ([0], 0, 0, 0),
        ],
        ids=["below", "one near", "all", "across", "one over", "near to over", "below to over", "check"],
    )
    def test_hits_are_counted_where_they_fall(
        self, algorithm: Algorithm, hits: list[int], within: int, near: int, over: int
    ) -> None:
        limiter = make_limiter(TEN, algorithm)
        for each in hits:
            ask(limiter, ("a", "1"), hits=each)
        names = ("total_hits", "within_limit", "near_limit", "over_limit")
        assert [counted(limiter, name) for name in names] == [sum(hits), within, near, over]

    def test_near_of_5_is_4(self) -> None:
        limiter = make_limiter("- {key: a, rate_limit: {unit: minute, requests_per_unit: 5}}")
        ask(limiter, ("a", "1"), hits=4)
        assert counted(limiter, "near_limit") == 0

    def test_shadow_mode_counts_as_over_and_as_shadow(self) -> None:
        limiter = make_limiter(
            "- {key: a, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}"
        )
        ask(limiter, ("a", "1"), hits=3)
        assert [counted(limiter, name) for name in ("over_limit", "shadow_mode")] == [2, 3]

    def test_refunds_have_a_counter_of_their_own(self) -> None:
        limiter = make_limiter(TEN)
        ask(limiter, ("a", "1"), hits=3)
        ask(limiter, ("a", "1"), hits=2, refund=True)
        assert [counted(limiter, name) for name in ("total_hits", "total_negative_hits")] == [3, 2]

    def test_unlimited_rules_are_counted_too(self) -> None:
        """Their README promises it; their code does not do it."""
        limiter = make_limiter("- {key: a, rate_limit: {unlimited: true}}")
        ask(limiter, ("a", "1"), hits=3)
        assert [counted(limiter, name) for name in ("total_hits", "within_limit")] == [3, 3]


class TestNames:
    def test_levels_are_key1_and_key2_and_deeper_ones_join_key2(self) -> None:
        limiter = make_limiter(
            """
            - key: a
              value: x
              descriptors:
                - key: b
                  descriptors:
                    - {key: c, rate_limit: {unit: minute, requests_per_unit: 1}}
            """
        )
        ask(limiter, ("a", "x"), ("b", "1"), ("c", "2"))
        name = "ratelimit_service_rate_limit_total_hits"
        assert sample(limiter, name, domain="d", key1="a_x", key2="b.c") == 1

    def test_names_stand_in_the_exposition_as_their_dashboards_ask_for_them(self) -> None:
        registry = CollectorRegistry()
        registry.register(make_limiter(TEN).stats)
        text = generate_latest(registry).decode()
        assert 'ratelimit_service_rate_limit_total_hits{domain="d",key1="a"} 0.0' in text
        assert 'ratelimit_service_should_rate_limit_error{err_type="redis_error"} 0.0' in text

    def test_detailed_metric_has_the_values_of_the_request(self) -> None:
        limiter = make_limiter(
            "- {key: a, detailed_metric: true, rate_limit: {unit: minute, requests_per_unit: 10}}"
        )
        ask(limiter, ("a", "1"))
        name = "ratelimit_service_rate_limit_total_hits"
        assert sample(limiter, name, domain="d", key1="a_1") == 1

    def test_an_override_is_counted_under_its_values(self) -> None:
        limiter = make_limiter(TEN)
        descriptor = Descriptor((("a", "1"),), override=Override(5, Unit.HOUR))
        limiter.decide(limiter.plan(Request("d", (descriptor,))))
        name = "ratelimit_service_rate_limit_total_hits"
        assert sample(limiter, name, domain="d", key1="a_1") == 1


class TestBounds:
    def test_values_of_requests_make_no_more_keys_than_allowed(self) -> None:
        """envoyproxy/ratelimit#275, #1132: memory without end."""
        limiter = make_limiter(
            "- {key: a, detailed_metric: true, rate_limit: {unit: minute, requests_per_unit: 10}}",
            max_request_keys=3,
        )
        for number in range(100):
            ask(limiter, ("a", str(number)))
        name = "ratelimit_service_rate_limit_total_hits"
        assert sample(limiter, name, domain="d", key1="other") == 97
        assert len(limiter.stats._of_requests) == 4

    def test_more_rules_than_have_counters_share_one(self) -> None:
        stats = Stats()
        stats.keep_rules(("d", f"k{number}") for number in range(MAX_RULE_KEYS + 2))
        assert stats.of_rule(("d", f"k{MAX_RULE_KEYS}")) is stats.of_rule(("d", f"k{MAX_RULE_KEYS + 1}"))
        assert stats.of_rule(("d", "k0")) is not stats.of_rule(("d", "k1"))

    def test_unknown_domains_are_bounded(self) -> None:
        stats = Stats()
        for number in range(MAX_UNKNOWN_DOMAINS + 50):
            stats.domain_not_found(f"d{number}")
        assert stats._unknown_domains["other"] == 50

    def test_rules_that_are_gone_leave(self) -> None:
        stats = Stats()
        stats.keep_rules([("d", "a"), ("d", "b")])
        stats.of_rule(("d", "b")).total_hits = 7
        stats.keep_rules([("d", "b")])
        assert stats.of_rule(("d", "b")).total_hits == 7
        assert ("d", "a") not in stats._rules
