"""Concurrency limits from the limits file to the answer, and what is wrong about them in a file."""

import re

import pytest
from prometheus_client import CollectorRegistry

from common.buckets import SECOND_US
from common.configfile import ConfigError
from protos.ratelimit_descriptor_pb2 import RateLimitDescriptor
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit.hot_keys import HotKeys
from ratelimit.in_flight import InFlight
from ratelimit.limiter import Limiter
from ratelimit.listing import limit_text, limits_data
from ratelimit.metadata import explain
from ratelimit.request import Descriptor
from ratelimit.stores.memory import MemoryStore
from ratelimit.wire import Responses
from tests.support.limiter import NOW, AwayStore, Bench, of

LIMITS = """
    - key: subject
      descriptors:
        - key: request_id
          rate_limit: {concurrency: 2, release_after: 30s}
    - {key: rate, rate_limit: {unit: day, requests_per_unit: 3}}
"""
RATE = of(("rate", "1"))


class Tracked(Bench):
    """A limiter with the metrics of what is in flight."""

    def __init__(self, limits: str = LIMITS, most: int = 100, **more: object) -> None:
        super().__init__(limits, **more)  # type: ignore[arg-type]
        self.limiter.in_flight = InFlight(self.stats, lambda: (self.now_us - NOW) / SECOND_US, most)
        self.registry = CollectorRegistry()
        self.registry.register(self.limiter.in_flight)

    def metric(self, name: str) -> float | None:
        labels = {"domain": "d", "key1": "subject", "key2": "request_id"}
        return self.registry.get_sample_value(f"ratelimit_concurrency_{name}", labels)


def begin(name: str, subject: str = "alice") -> Descriptor:
    return of(("subject", subject), ("request_id", name))


def end(name: str, subject: str = "alice") -> Descriptor:
    return of(("subject", subject), ("request_id", name), hits=1, refund=True)


def test_each_value_above_the_request_id_has_its_own_slots() -> None:
    bench = Bench(LIMITS)
    assert [bench.ask(begin(name)).over_limit for name in "abc"] == [False, False, True]
    assert not bench.ask(begin("d", "bob")).over_limit
    bench.ask(end("c"))
    assert bench.ask(begin("e")).over_limit
    bench.ask(end("a"))
    assert not bench.ask(begin("f")).over_limit


def test_a_request_takes_one_slot_however_many_hits_it_has() -> None:
    bench = Bench(LIMITS)
    assert not bench.ask(begin("a"), hits=9).over_limit
    assert not bench.ask(begin("b"), hits=9).over_limit
    bench.ask(of(("subject", "alice"), ("request_id", "a"), hits=9, refund=True))
    assert bench.ask(begin("c")).statuses[0].remaining == 0
    assert bench.ask(begin("d")).over_limit


def test_a_request_that_another_limit_refuses_takes_no_slot() -> None:
    bench = Bench(LIMITS)
    for _ in range(3):
        assert not bench.ask(RATE).over_limit
    assert bench.ask(RATE, begin("a")).over_limit
    assert bench.ask(begin("b")).statuses[0].remaining == 1


def test_a_refused_request_may_ask_again_in_a_second_and_reaches_the_store_each_time() -> None:
    bench = Bench(LIMITS, deny_cache=True, store=None)
    for name in "ab":
        bench.ask(begin(name))
    refused = bench.ask(begin("c"))
    assert refused.retry_after_seconds == 1
    assert len(bench.limiter.deny_cache or ()) == 0
    bench.ask(end("a"))
    assert not bench.ask(begin("d")).over_limit


def test_a_reload_keeps_requests_in_flight_and_frees_them_by_the_new_time() -> None:
    bench = Bench(LIMITS)
    for name in "ab":
        bench.ask(begin(name))
    bench.limiter.use(bench.compiled(LIMITS.replace("30s", "5s")))
    assert bench.ask(begin("c")).over_limit
    bench.now_us += 5 * SECOND_US
    assert not bench.ask(begin("d")).over_limit


def test_a_rule_that_fails_local_grants_its_part_while_the_store_is_away() -> None:
    bench = Bench(LIMITS, store=AwayStore(), replicas=lambda: 2)
    assert [bench.ask(begin(name)).over_limit for name in "ab"] == [False, True]
    bench.ask(end("a"))
    assert not bench.ask(begin("c")).over_limit


@pytest.mark.parametrize(("on_failure", "refuses"), [("open", False), ("closed", True)])
def test_on_failure_answers_while_the_store_is_away(on_failure: str, *, refuses: bool) -> None:
    limits = LIMITS.replace("30s", f"30s, on_failure: {on_failure}")
    bench = Tracked(limits, store=AwayStore())
    assert bench.ask(begin("a")).over_limit is refuses
    assert not bench.ask(end("a")).over_limit
    assert not bench.metric("in_flight")


def test_the_metrics_say_what_is_in_flight_and_what_was_freed_by_time() -> None:
    bench = Tracked()
    for name in "abc":
        bench.ask(begin(name))
    assert (bench.metric("in_flight"), bench.metric("healed_total")) == (2, 0)
    bench.ask(end("c"))
    bench.ask(end("a"))
    bench.ask(end("a"))
    assert (bench.metric("in_flight"), bench.metric("healed_total")) == (1, 0)
    bench.now_us += 30 * SECOND_US
    assert (bench.metric("in_flight"), bench.metric("healed_total")) == (0, 1)


@pytest.mark.parametrize("on_failure", ["open", "closed", "local"])
def test_a_slot_whose_release_the_store_does_not_get_is_freed_by_time(on_failure: str) -> None:
    store = MemoryStore(lambda: NOW)
    bench = Tracked(LIMITS.replace("30s", f"30s, on_failure: {on_failure}"), store=store)
    bench.ask(begin("a"))
    bench.limiter.store = AwayStore()
    bench.ask(end("a"))
    assert (bench.metric("in_flight"), bench.metric("healed_total")) == (1, 0)
    bench.now_us += 30 * SECOND_US
    assert (bench.metric("in_flight"), bench.metric("healed_total")) == (0, 1)


def test_a_slot_of_this_process_is_given_back_while_the_store_is_away() -> None:
    bench = Tracked(store=AwayStore())
    bench.ask(begin("a"))
    assert bench.metric("in_flight") == 1
    bench.ask(end("a"))
    assert (bench.metric("in_flight"), bench.metric("healed_total")) == (0, 0)


def test_the_metrics_follow_a_bounded_number_of_slots() -> None:
    bench = Tracked(most=3)
    for number in range(9):
        bench.ask(begin("a", f"s{number}"))
    assert bench.metric("in_flight") == 3
    bench.now_us += 30 * SECOND_US
    bench.ask(begin("b"))
    assert (bench.metric("in_flight"), bench.metric("healed_total")) == (1, 3)


def test_hot_keys_leave_out_the_id_of_the_request() -> None:
    bench = Bench(LIMITS)
    limiter = Limiter(
        bench.limiter.limits, bench.memory, bench.memory, bench.stats, hot_keys=HotKeys(10, lambda: 0.0)
    )
    bench.limiter = limiter
    for name in "ab":
        bench.ask(begin(name))
    hottest, _ = limiter.hot_keys.hottest(5)
    assert [(key.descriptor, key.hits) for key in hottest] == [("subject=alice", 2)]


def _message(*, ends: bool) -> bytes:
    request = RateLimitRequest(domain="d")
    descriptor = request.descriptors.add(is_negative_hits=ends)
    for key, value in (("subject", "alice"), ("request_id", "a" if ends else "b")):
        descriptor.entries.append(RateLimitDescriptor.Entry(key=key, value=value))
    if ends:
        descriptor.hits_addend.value = 1
    return request.SerializeToString()


def test_messages_of_envoy_take_and_give_back() -> None:
    bench, responses = Bench(LIMITS), Responses(headers=None, retry_after=True, dynamic_metadata="rule")
    bench.ask(begin("a"))
    found = []
    for ends in (False, False, True, True, False):
        decision = bench.limiter.decide(bench.limiter.plan_message(_message(ends=ends)))
        found.append(RateLimitResponse.FromString(responses.encode(decision)))  # type: ignore[arg-type]
    assert [one.overall_code == RateLimitResponse.OVER_LIMIT for one in found] == [
        False, True, False, False, False,
    ]  # fmt: skip
    limit = found[0].statuses[0].current_limit
    assert (limit.requests_per_unit, limit.unit) == (2, RateLimitResponse.RateLimit.UNKNOWN)


def test_the_limit_in_words_and_as_data() -> None:
    bench = Bench(LIMITS)
    rule = bench.limiter.limits.rules[0]
    assert limit_text(rule) == "2 at once, release_after 30s, on_failure local"
    data = limits_data(bench.limiter.limits)["rules"][0]
    assert (data["concurrency"], data["release_after_seconds"], data["period"]) == (2, 30, None)
    explained = explain(bench.ask(begin("a")), full=False)
    assert explained["limit"] == 2
    assert "period" not in explained


@pytest.mark.parametrize(
    ("descriptor", "problem"),
    [
        ("{key: a, rate_limit: {concurrency: 0}}", "expected 1 to 1000, found 0"),
        ("{key: a, rate_limit: {concurrency: 1001}}", "expected 1 to 1000, found 1001"),
        ("{key: a, rate_limit: {concurrency: 2, release_after: 0s}}", "expected a time from 1s to 86400s"),
        ("{key: a, rate_limit: {concurrency: 2, release_after: 2d}}", "expected a time from 1s to 86400s"),
        ("{key: a, rate_limit: {concurrency: 2, unit: day}}", "should not specify unit with concurrency"),
        ("{key: a, rate_limit: {concurrency: 2, cost: 2}}", "should not specify cost with concurrency"),
        ("{key: a, value: b, rate_limit: {concurrency: 2}}", "needs a descriptor without a value"),
        ("{key: a, detailed_metric: true, rate_limit: {concurrency: 2}}", "would show the id of each"),
        ("{key: a, rate_limit: {unlimited: true, concurrency: 2}}", "should not specify concurrency when"),
        (
            "{key: a, rate_limit: {unit: day, requests_per_unit: 1, release_after: 1s}}",
            "release_after needs concurrency",
        ),
    ],
)
def test_what_is_wrong_is_said(descriptor: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        Bench(f"- {descriptor}")
