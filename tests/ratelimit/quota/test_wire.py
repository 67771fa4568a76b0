from collections.abc import Callable

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from protos.rate_limit_quota_pb2 import RateLimitQuotaResponse, RateLimitQuotaUsageReports
from ratelimit.quota.assignment import Action
from ratelimit.quota.limit import BucketId
from ratelimit.quota.quotas import QuotaBounds, Quotas, Subscriber
from ratelimit.quota.refused import QuotaError
from ratelimit.quota.wire import read_report, write_actions
from ratelimit.stats import Stats
from tests.support.quota_simulation import Clock, login_limit

TEXTS = st.text(max_size=4) | st.sampled_from(["route", "login", "edge"])
COUNTS = st.integers(0, 2**64 - 1)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    report = RateLimitQuotaUsageReports(domain=draw(TEXTS))
    for _ in range(draw(st.integers(0, 3))):
        usage = report.bucket_quota_usages.add()
        usage.num_requests_allowed, usage.num_requests_denied = draw(COUNTS), draw(COUNTS)
        usage.time_elapsed.seconds = draw(st.integers(-(2**63), 2**63 - 1))
        usage.bucket_id.bucket.update(draw(st.dictionaries(TEXTS, TEXTS, max_size=3)))
    data = bytearray(report.SerializeToString())
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=2)):
        if place < len(data):
            data[place] = byte
    return bytes(data)


def collector(into: dict[int, tuple[BucketId, Action]]) -> Callable[[BucketId, Action], None]:
    """Return what keeps each delivery."""

    def deliver(bucket_id: BucketId, action: Action) -> None:
        into[len(into)] = bucket_id, action

    return deliver


@given(st.lists(messages(), max_size=8))
def test_any_message_is_refused_or_answered_for_buckets_that_were_reported(sent: list[bytes]) -> None:
    clock = Clock()
    quotas = Quotas(login_limit(20, 20), clock, QuotaBounds(), stats=Stats())
    reported, answered = set(), set()
    for message in sent:
        clock.ticks += 100
        delivered: dict[int, tuple[BucketId, Action]] = {}
        subscriber = Subscriber(collector(delivered))
        quotas.open(subscriber)
        try:
            report = read_report(message)
            reported |= {frozenset(usage.bucket_id.items()) for usage in report.usages}
            quotas.report(subscriber, report)
        except (DecodeError, QuotaError):
            continue
        response = RateLimitQuotaResponse.FromString(write_actions(delivered.values()))
        answered |= {frozenset(action.bucket_id.bucket.items()) for action in response.bucket_action}
    assert answered <= reported
