"""RateLimitRequest and RateLimitResponse against the classes that protoc generates."""

from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from common.configfile import parse
from protos.lenient import MARK
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit.config import compile_limits
from ratelimit.decision import DescriptorStatus, LimitDecision, LimitPlan
from ratelimit.metadata import explain_request
from ratelimit.request import Descriptor, LimitRequest, Override
from ratelimit.rules import Options
from ratelimit.secret_values import DEFAULT_SECRETS
from ratelimit.wire import MAX_DURATION_SECONDS, ResponseHeaders, Responses, read_request
from tests.support.ratelimiting import LIMITS, numbers, requests


class TestWire:
    @given(requests)
    def test_reads_every_field_of_a_request(self, message: bytes) -> None:
        truth = RateLimitRequest.FromString(message)
        request = read_request(message)
        assert (request.domain, request.hits_addend) == (truth.domain, truth.hits_addend)
        for read, written in zip(request.descriptors, truth.descriptors, strict=True):
            assert read.entries == tuple((entry.key, entry.value) for entry in written.entries)
            assert read.hits == (written.hits_addend.value if written.HasField("hits_addend") else None)
            assert read.refund is written.is_negative_hits
            limit = written.limit
            multiplier = limit.unit_multiplier.value if limit.HasField("unit_multiplier") else 1
            override = Override(limit.requests_per_unit, limit.unit, multiplier)
            assert read.override == (override if written.HasField("limit") else None)

    @given(
        st.booleans(),
        st.lists(
            st.tuples(
                st.booleans(),
                st.none() | st.integers(0, 4),
                numbers,
                st.integers(0, 10) | st.integers(0, 2**63),
                st.integers(0, 10**6),
                st.booleans(),
            ),
            min_size=1,
            max_size=4,
        ),
        st.booleans(),
    )
    def test_writes_every_field_of_a_response(
        self,
        over_limit: bool,
        rows: list[tuple[bool, int | None, int, int, int, bool]],
        own_headers: bool,
    ) -> None:
        """The hand-written bytes against what protobuf reads out of them."""
        limits = compile_limits([parse(LIMITS)], Options(), "r1")
        statuses = [
            DescriptorStatus(
                over, None if rule is None else limits.rules[rule], left, reset, retry, known=known
            )
            for over, rule, left, reset, retry, known in rows
        ]
        plan = LimitPlan(LimitRequest("edge", (Descriptor((("a", "b"),)),) * len(rows)), limits, statuses)
        names = ResponseHeaders("Limit", "Remaining", "Reset") if own_headers else None
        responses = Responses(headers=names, retry_after=True, dynamic_metadata="full")
        encoded = responses.encode(LimitDecision(over_limit, statuses, plan))
        response = RateLimitResponse.FromString(encoded)
        assert response.overall_code == (2 if over_limit else 1)
        for status, read in zip(statuses, response.statuses, strict=True):
            assert read.code == (2 if status.over_limit else 1)
            assert read.limit_remaining == status.remaining
            rule = status.current
            assert (
                read.HasField("current_limit") == read.HasField("duration_until_reset") == (rule is not None)
            )
            if rule is not None:
                limit = read.current_limit
                assert (limit.requests_per_unit, int(limit.unit)) == (rule.requests_per_unit, int(rule.unit))
                assert (limit.name, limit.unit_multiplier.value or 1) == (rule.name, rule.unit_multiplier)
                assert read.duration_until_reset.seconds == min(status.reset_seconds, MAX_DURATION_SECONDS)
        headers = {header.key: header.value for header in response.response_headers_to_add}
        longest = max(status.retry_after_seconds for status in statuses)
        assert headers.get("Retry-After") == (str(longest) if over_limit and longest else None)

    @given(
        st.lists(
            st.builds(
                Descriptor,
                st.lists(
                    st.tuples(
                        st.sampled_from(["route", "authorization", "x"]),
                        st.text(max_size=12) | st.text(min_size=90, max_size=130) | st.just(f"{MARK}FF"),
                    ),
                    max_size=4,
                ).map(tuple),
                st.none() | st.integers(0, 3),
            ),
            min_size=1,
            max_size=12,
        ),
        st.integers(0, 1),
    )
    def test_metadata_repeats_a_request_as_explain_request_does(
        self, descriptors: list[Descriptor], hits: int
    ) -> None:
        """Also where a size needs two bytes, or a value is a secret or not UTF-8."""
        request = LimitRequest("edge", tuple(descriptors), hits)
        statuses = [DescriptorStatus(False, None, 0, 0, 0)] * len(descriptors)
        plan = LimitPlan(request, compile_limits([parse(LIMITS)], Options(), "r1"), statuses)
        responses = Responses(headers=None, retry_after=True, dynamic_metadata="full")
        encoded = responses.encode(LimitDecision(False, statuses, plan))
        found = MessageToDict(RateLimitResponse.FromString(encoded).dynamic_metadata)
        expected = explain_request(request, DEFAULT_SECRETS)
        assert {name: found[name] for name in expected} == expected
        assert found.keys() - expected.keys() == {"domain", "outcome", "revision"}
