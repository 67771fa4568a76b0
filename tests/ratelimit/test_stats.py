"""Counters, under the names that envoyproxy/ratelimit gives Prometheus."""

from textwrap import dedent

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from common.buckets import SECOND_US
from common.configfile import parse
from ratelimit.config import compile_limits
from ratelimit.limiter import Limiter
from ratelimit.request import Descriptor, LimitRequest, Override
from ratelimit.rules import Algorithm, Options, Unit
from ratelimit.stats import MAX_GONE_KEYS, MAX_RULE_KEYS, Stats
from ratelimit.stores.memory import MemoryStore
from ratelimit.unmatched import MAX_SHAPES

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
    limiter.decide(limiter.plan(LimitRequest("d", (Descriptor(entries, hits, refund),))))


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
        assert [counted(limiter, name) for name in ("over_limit", "shadow_mode")] == [2, 2]

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
        limiter.decide(limiter.plan(LimitRequest("d", (descriptor,))))
        name = "ratelimit_service_rate_limit_total_hits"
        assert sample(limiter, name, domain="d", key1="a_1") == 1


def series(limiter: Limiter) -> list[tuple[str, ...]]:
    """The labels of every series of total_hits, as a page has them."""
    registry = CollectorRegistry()
    registry.register(limiter.stats)
    name = "ratelimit_service_rate_limit_total_hits"
    page = text_string_to_metric_families(generate_latest(registry).decode())
    return [
        tuple(sample.labels.get(label, "") for label in ("domain", "key1", "key2"))
        for family in page
        for sample in family.samples
        if sample.name == name
    ]


DETAILED = "- {key: a, detailed_metric: true, rate_limit: {unit: minute, requests_per_unit: 10}}"
DOTS = """
- key: a
  descriptors:
    - {key: b.c, rate_limit: {unit: minute, requests_per_unit: 10}}
    - key: b
      descriptors:
        - {key: c, rate_limit: {unit: minute, requests_per_unit: 10}}
"""


class TestSeries:
    """Prometheus refuses a whole page with a duplicate series."""

    def test_an_override_of_a_configured_key_shares_its_series(self) -> None:
        limiter = make_limiter("- {key: a, value: x, rate_limit: {unit: minute, requests_per_unit: 10}}")
        ask(limiter, ("a", "x"))
        override = Descriptor((("a", "x"),), override=Override(5, Unit.HOUR))
        limiter.decide(limiter.plan(LimitRequest("d", (override,))))
        assert series(limiter) == [("d", "a_x", "")]
        assert sample(limiter, "ratelimit_service_rate_limit_total_hits", domain="d", key1="a_x") == 2

    @pytest.mark.parametrize("value", ["", "x"])
    def test_a_detailed_metric_of_an_empty_or_the_only_value_shares_that_of_the_rule(
        self, value: str
    ) -> None:
        written = f", value: {value}" if value else ""
        limiter = make_limiter(DETAILED.replace("key: a", f"key: a{written}"))
        ask(limiter, ("a", value), hits=3)
        assert series(limiter) == [("d", f"a_{value}" if value else "a", "")]

    def test_levels_and_values_with_dots_share_one(self) -> None:
        limiter = make_limiter(DOTS)
        ask(limiter, ("a", "1"), ("b.c", "1"))
        ask(limiter, ("a", "1"), ("b", "1"), ("c", "1"))
        assert series(limiter) == [("d", "a", "b.c")]
        labels = {"domain": "d", "key1": "a", "key2": "b.c"}
        assert sample(limiter, "ratelimit_service_rate_limit_total_hits", **labels) == 2

    @pytest.mark.parametrize("name", ["other", "(other)"])
    def test_a_rule_that_is_named_like_the_rest(self, name: str) -> None:
        limiter = make_limiter(
            f"{DETAILED}\n- {{key: {name}, rate_limit: {{unlimited: true}}}}", max_request_keys=0
        )
        ask(limiter, ("a", "1"))
        found = series(limiter)
        assert len(found) == len(set(found))
        assert counted_of(limiter, "other") == (0 if name == "other" else None)
        assert counted_of(limiter, "(other)") == 1

    def test_an_override_without_entries_has_the_domain_alone(self) -> None:
        limiter = make_limiter(TEN)
        for entries in ((), (("", ""),)):
            descriptor = Descriptor(entries, override=Override(5, Unit.HOUR))
            limiter.decide(limiter.plan(LimitRequest("d", (descriptor,))))
        assert series(limiter) == [("d", "a", ""), ("d", "", "")]


def counted_of(limiter: Limiter, key: str) -> float | None:
    return sample(limiter, "ratelimit_service_rate_limit_total_hits", domain="d", key1=key)


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
        assert sample(limiter, name, domain="d", key1="(other)") == 97
        assert len(limiter.stats._of_requests) == 4

    def test_more_rules_than_have_counters_share_one(self) -> None:
        stats = Stats()
        stats.keep_rules(("d", f"k{number}") for number in range(MAX_RULE_KEYS + 2))
        assert stats.of_rule(("d", f"k{MAX_RULE_KEYS}")) is stats.of_rule(("d", f"k{MAX_RULE_KEYS + 1}"))
        assert stats.of_rule(("d", "k0")) is not stats.of_rule(("d", "k1"))

    def test_unknown_domains_are_bounded(self) -> None:
        stats = Stats()
        for number in range(MAX_SHAPES + 50):
            stats.domain_not_found(f"d{number}", 1)
        assert stats._unknown_domains["(other)"] == 50

    def test_rules_that_are_gone_are_not_shown_and_count_on_when_they_come_back(self) -> None:
        """Prometheus takes a counter that falls for a restart, and counts all of it again."""
        limiter = make_limiter(TEN)
        ask(limiter, ("a", "1"), hits=7)
        limiter.use(
            compile_limits(
                [parse("{domain: d, descriptors: [{key: b, rate_limit: {unlimited: true}}]}")], Options()
            )
        )
        assert series(limiter) == [("d", "b", "")]
        limiter.use(compile_limits([parse(f"domain: d\ndescriptors:\n{TEN}")], Options()))
        assert series(limiter) == [("d", "a", "")]
        assert counted(limiter, "total_hits") == 7

    def test_not_for_ever_are_the_counts_of_rules_kept_that_are_gone(self) -> None:
        stats = Stats()
        for number in range(3):
            stats.keep_rules((f"d{number}", f"k{key}") for key in range(MAX_GONE_KEYS))
        assert len(stats._gone) == MAX_GONE_KEYS
