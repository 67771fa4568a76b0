"""What the access log learns of a decision."""

from ratelimit.metadata import explain, merge
from ratelimit.request import Override
from ratelimit.rules import Unit
from tests.support.limiter import FIVE_EACH, A, AwayStore, B, Bench, of


class TestExplain:
    def test_tells_rule_outcome_and_revision_for_the_access_log(self) -> None:
        explained = explain(Bench(FIVE_EACH).ask(A, B), full=False)
        assert explained == {"domain": "d", "outcome": "ok", "revision": "r1", "rule": "d.a"}

    def test_an_answer_over_the_limit(self) -> None:
        explained = explain(Bench(FIVE_EACH).ask(A, B, hits=6), full=False)
        assert (explained["outcome"], explained["rule"]) == ("over_limit", "d.b")

    def test_an_override_is_protobufs_text_which_leaves_out_a_0(self) -> None:
        asked = [of(("a", "1"), override=Override(0, Unit.DAY)), of(("a", "1"), override=Override(5, 1, 30))]
        explained = explain(Bench(FIVE_EACH).ask(*asked), full=True)
        assert [one["limit"] for one in explained["descriptors"]] == [
            "unit:DAY",
            "requests_per_unit:5 unit:SECOND unit_multiplier:{value:30}",
        ]

    def test_metadata_of_unlimited_rules_and_with_value_to_metric_is_passed_on(self) -> None:
        """There it is lost."""
        bench = Bench(
            """
            - {key: a, metadata: {a: 1}, rate_limit: {unlimited: true}}
            - {key: b, value_to_metric: true, metadata: {b: 2}, rate_limit: {unit: day, requests_per_unit: 1}}
            """
        )
        assert explain(bench.ask(A, B), full=False)["metadata"] == {"a": 1, "b": 2}

    def test_metadata_of_one_answer_is_not_in_the_next(self) -> None:
        """There maps of rules that passed together stay merged for as long as the configuration holds."""
        bench = Bench(
            """
            - {key: a, metadata: {x: {a: 1}}, rate_limit: {unit: day, requests_per_unit: 9}}
            - {key: b, metadata: {x: {b: 2}}, rate_limit: {unit: day, requests_per_unit: 9}}
            """
        )
        assert explain(bench.ask(A, B), full=False)["metadata"] == {"x": {"a": 1, "b": 2}}
        assert explain(bench.ask(A), full=False)["metadata"] == {"x": {"a": 1}}

    def test_full_tells_the_descriptors_as_envoyproxy_ratelimit_does(self) -> None:
        """RESPONSE_DYNAMIC_METADATA."""
        descriptors = (
            of(("a", "1"), ("z", "x=y"), hits=0),
            of(("b", "1"), override=Override(7, Unit.DAY)),
        )
        explained = explain(Bench(FIVE_EACH).ask(*descriptors, hits=3), full=True)
        assert explained["hitsAddend"] == 3
        assert explained["descriptors"] == [
            {"entries": ["a=1", "z=x=y"], "hitsAddend": 0},
            {"entries": ["b=1"], "limit": "requests_per_unit:7 unit:DAY"},
        ]

    def test_without_a_rule_there_is_none_to_tell(self) -> None:
        assert "rule" not in explain(Bench(FIVE_EACH).ask(of(("none", "1"))), full=False)

    def test_a_failure_is_the_reason(self) -> None:
        explained = explain(Bench(FIVE_EACH, store=AwayStore()).ask(A), full=False)
        assert explained["reason"] == "store_breaker_open"

    def test_metadata_is_that_of_the_rules_that_passed_and_the_first_value_wins(self) -> None:
        """TestOverlappingMetadataReturnsTheFirstValue."""
        bench = Bench(
            """
            - {key: a, metadata: {name: one, deep: {x: 1}}, rate_limit: {unit: minute, requests_per_unit: 5}}
            - {key: b, metadata: {name: two, deep: {y: 2}}, rate_limit: {unit: minute, requests_per_unit: 5}}
            - {key: c, metadata: {gone: true}, rate_limit: {unit: minute, requests_per_unit: 0}}
            """
        )
        explained = explain(bench.ask(A, B, of(("c", "1"))), full=False)
        assert explained["metadata"] == {"name": "one", "deep": {"x": 1, "y": 2}}

    def test_merging_changes_no_rule(self) -> None:
        one, two = {"deep": {"x": 1}}, {"deep": {"y": 2}}
        assert merge([one, two]) == {"deep": {"x": 1, "y": 2}}
        assert (one, two) == ({"deep": {"x": 1}}, {"deep": {"y": 2}})
