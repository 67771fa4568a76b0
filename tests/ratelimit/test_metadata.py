"""What the access log learns of a decision."""

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from protos.ratelimit_descriptor_pb2 import RateLimitDescriptor
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit.decision import LimitDecision
from ratelimit.metadata import explain, merge
from ratelimit.request import Descriptor, Override
from ratelimit.rules import Unit
from ratelimit.wire import Responses
from tests.support.limiter import FIVE_EACH, A, AwayStore, B, Bench, of


class TestExplain:
    def test_tells_rule_outcome_and_revision_for_the_access_log(self) -> None:
        explained = explain(Bench(FIVE_EACH).ask(A, B), full=False)
        assert explained == {
            "domain": "d",
            "outcome": "ok",
            "revision": "r1",
            "rule": "d.a",
            "limit": 5,
            "period": "1m",
        }

    def test_an_answer_over_the_limit(self) -> None:
        explained = explain(Bench(FIVE_EACH).ask(A, B, hits=6), full=False)
        assert (explained["outcome"], explained["rule"]) == ("over_limit", "d.b")

    def test_what_is_left_is_told_near_the_limit_and_over_it(self) -> None:
        """From 0.8 of the limit, as the metric near_limit counts."""
        bench = Bench("- {key: a, rate_limit: {unit: day, requests_per_unit: 10}}")
        told = [explain(bench.ask(A), full=False).get("remaining") for _ in range(11)]
        assert told == [None, None, None, None, None, None, None, None, 1, 0, 0]

    def test_what_is_left_is_told_of_a_request_that_wants_more_than_that(self) -> None:
        explained = explain(Bench(FIVE_EACH).ask(A, hits=6), full=False)
        assert (explained["outcome"], explained["remaining"]) == ("over_limit", 5)

    @pytest.mark.parametrize("descriptor", [of(("none", "1")), of(("free", "1"))])
    def test_without_a_limit_there_is_none_to_tell(self, descriptor: Descriptor) -> None:
        explained = explain(Bench("- {key: free, rate_limit: {unlimited: true}}").ask(descriptor), full=False)
        assert not explained.keys() & {"limit", "period", "remaining"}

    def test_what_is_not_known_is_not_told(self) -> None:
        """A rule that fails closed refuses while the store is away; what is left of it is in the store."""
        bench = Bench(
            "- {key: a, rate_limit: {unit: day, requests_per_unit: 9, on_failure: closed}}", store=AwayStore()
        )
        explained = explain(bench.ask(A), full=False)
        assert explained["outcome"] == "over_limit"
        assert not explained.keys() & {"limit", "period", "remaining"}

    def test_the_period_is_that_of_the_limits_file(self) -> None:
        bench = Bench(
            """
            - {key: a, rate_limit: {period: 90s, requests_per_unit: 1}}
            - {key: b, rate_limit: {period: month, requests_per_unit: 1}}
            """
        )
        assert [explain(bench.ask(one), full=False)["period"] for one in (A, B)] == ["90s", "month"]

    @given(
        st.lists(
            st.tuples(st.lists(st.sampled_from("abcsqn"), min_size=1, max_size=3), st.integers(0, 4)),
            min_size=1,
            max_size=12,
        )
    )
    def test_the_bytes_for_envoy_say_the_same(self, asked: list[tuple[list[str], int]]) -> None:
        """Encodings are remembered by outcome; none may be taken for another."""
        bench = Bench(
            """
            - {key: a, rate_limit: {unit: day, requests_per_unit: 5}}
            - {key: b, rate_limit: {unit: day, requests_per_unit: 3}, metadata: {x: 1}}
            - {key: c, rate_limit: {unlimited: true}}
            - {key: s, rate_limit: {unit: day, requests_per_unit: 2}, shadow_mode: true}
            - {key: q, rate_limit: {unit: day, requests_per_unit: 4}, quota_mode: true}
            """
        )
        responses = Responses(headers=None, retry_after=True, dynamic_metadata="full")
        for keys, hits in asked:
            entries = [RateLimitDescriptor(entries=[{"key": key, "value": "1"}]) for key in keys]
            message = RateLimitRequest(domain="d", descriptors=entries, hits_addend=hits).SerializeToString()
            decision = bench.limiter.decide(bench.limiter.plan_message(message))
            assert isinstance(decision, LimitDecision)
            read = RateLimitResponse.FromString(responses.encode(decision))
            assert MessageToDict(read.dynamic_metadata) == explain(decision, full=True)

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
