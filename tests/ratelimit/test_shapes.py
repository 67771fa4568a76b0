"""Plans by shape against plans made one by one, for random limits and requests."""

from typing import Any

import orjson
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from common.configfile import ConfigError, parse
from protos.ratelimit_pb2 import RateLimitRequest
from ratelimit.config import compile_limits
from ratelimit.decision import LimitPlan
from ratelimit.limiter import MAX_RECENT, Limiter
from ratelimit.match import MAX_KEY_LENGTH
from ratelimit.request import RequestError, UnconfiguredError
from ratelimit.rules import Options
from ratelimit.stats import Stats
from ratelimit.stores.memory import MemoryStore
from ratelimit.wire import read_request, split
from tests.support.ratelimiting import requests as any_requests

KEYS = ["a", "b", "a_b", "path"]
VALUES = ["", "x", "y", "x*", "*", " x", "%s", "a|b=%", "é", "/A/../b", "b_x", "\U0010ffff", "x" * 300]


@st.composite
def _descriptors(draw: st.DrawFn, depth: int = 2) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for key in draw(st.lists(st.sampled_from(KEYS), min_size=1, unique=True, max_size=3)):
        normalise = {"normalise": "path"} if key == "path" else {}
        values = draw(st.lists(st.sampled_from([None, "x", "y", "x*", "/b", "b_x"]), unique=True, max_size=3))
        for value in values or [None]:
            one: dict[str, Any] = {"key": key, **normalise}
            if value is not None:
                one["value"] = f"/{value}" if key == "path" and value[0] != "/" else value
            if value == "x*" and draw(st.booleans()):
                one["share_threshold"] = True
            if draw(st.integers(0, 3)):
                one["rate_limit"] = draw(_limits())
            one |= draw(
                st.dictionaries(
                    st.sampled_from(["shadow_mode", "quota_mode", "value_to_metric"]), st.just(True)
                )
            )
            if draw(st.integers(0, 9)) == 0:
                one["detailed_metric"] = True
            if depth and draw(st.booleans()):
                one["descriptors"] = draw(_descriptors(depth - 1))
            found.append(one)
    return found


@st.composite
def _limits(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.integers(0, 4)) == 0:
        return {"unlimited": True}
    limit: dict[str, Any] = {"unit": "minute", "requests_per_unit": draw(st.integers(0, 3))}
    limit["algorithm"] = draw(st.sampled_from(["token_bucket", "fixed_window", "sliding_window"]))
    limit |= draw(
        st.sampled_from([{}, {}, {"cost": 2}, {"name": "n"}, {"name": "m", "replaces": [{"name": "n"}]}])
    )
    return limit


@st.composite
def _plain_requests(draw: st.DrawFn) -> bytes:
    message = RateLimitRequest(
        domain="d", hits_addend=draw(st.sampled_from([0, 0, 1, 2, 127, 128, 2**32 - 1]))
    )
    for _ in range(draw(st.integers(0, 3))):
        descriptor = message.descriptors.add()
        for _ in range(draw(st.integers(0, 3))):
            value = draw(st.sampled_from(VALUES) | st.text(max_size=5))
            descriptor.entries.add(key=draw(st.sampled_from(KEYS)), value=value)
    return message.SerializeToString()


def limiter_with(descriptors: list[dict[str, Any]], **modes: Any) -> Limiter | None:
    text = orjson.dumps({"domain": "d", "descriptors": descriptors}).decode()
    try:
        limits = compile_limits([parse(text, "limits.yaml")], Options(), "r1")
    except ConfigError:
        return None
    memory = MemoryStore(lambda: 1_790_000_040_000_000)
    return Limiter(limits, memory, memory, Stats(), **modes)


def comparable(plan: LimitPlan) -> tuple[Any, ...]:
    request = plan.request
    asked = (request.domain, tuple(request.descriptors), request.hits_addend)
    return (asked, list(plan.statuses), list(plan.charges), list(plan.takes), list(plan.unlimited), plan[6:8])


def planned(limiter: Limiter, message: bytes, *, by_shape: bool) -> tuple[Any, ...] | str:
    try:
        plan = limiter.plan_message(message) if by_shape else limiter.plan(read_request(message))
    except (RequestError, UnconfiguredError) as error:
        return str(error)
    return comparable(plan)


@given(
    _descriptors().map(limiter_with).filter(bool),
    st.lists(_plain_requests() | any_requests, min_size=2, max_size=12),
)
def test_a_plan_by_shape_is_the_plan_made_by_itself(limiter: Limiter, messages: list[bytes]) -> None:
    for message in (*messages, *reversed(messages)):
        assert planned(limiter, message, by_shape=True) == planned(limiter, message, by_shape=False)


@given(st.lists(_plain_requests(), min_size=2, max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_modes_are_part_of_a_plan_by_shape(
    messages: list[bytes], shadow_mode: bool, quota_mode: bool, spare_others: bool
) -> None:
    descriptors = [
        {"key": key, "rate_limit": {"unit": "minute", "requests_per_unit": 1}} for key in ("a", "b", "path")
    ]
    limiter = limiter_with(
        descriptors, shadow_mode=shadow_mode, quota_mode=quota_mode, spare_others=spare_others
    )
    assert limiter is not None
    for message in (*messages, *messages):
        assert planned(limiter, message, by_shape=True) == planned(limiter, message, by_shape=False)


@given(_plain_requests() | any_requests | st.binary(max_size=60))
def test_what_is_split_is_what_protobuf_reads(message: bytes) -> None:
    parts = split(message)
    if parts is None:
        return
    request = RateLimitRequest.FromString(message)
    keys = [[entry.key for entry in descriptor.entries] for descriptor in request.descriptors]
    values = [entry.value for descriptor in request.descriptors for entry in descriptor.entries]
    shape = [request.domain, *[key for own in keys for key in (None, *own)]]
    assert parts == (tuple(shape), values, request.hits_addend)
    assert all(not d.HasField("limit") and not d.HasField("hits_addend") for d in request.descriptors)


@given(_plain_requests(), st.data())
def test_a_message_with_a_changed_byte_is_read_alike_or_not_at_all(
    message: bytes, data: st.DataObject
) -> None:
    if not message:
        return
    at = data.draw(st.integers(0, len(message) - 1))
    changed = message[:at] + bytes([data.draw(st.integers(0, 255))]) + message[at + 1 :]
    for broken in (changed, message[:at]):
        try:
            RateLimitRequest.FromString(broken)
        except DecodeError:
            assert split(broken) is None
        else:
            test_what_is_split_is_what_protobuf_reads.hypothesis.inner_test(broken)  # type: ignore[attr-defined]


def message_of(value: str) -> bytes:
    message = RateLimitRequest(domain="d")
    message.descriptors.add().entries.add(key="a", value=value)
    return message.SerializeToString()


@pytest.mark.parametrize("value", ["v" * 127, "v" * 128, "v" * 300, "v" * 20_000])
def test_long_values_have_a_shape_too(value: str) -> None:
    limiter = limiter_with([{"key": "a", "rate_limit": {"unit": "minute", "requests_per_unit": 1}}])
    assert limiter is not None
    assert split(message_of(value)) == (("d", None, "a"), [value], 0)
    for message in (message_of("first"), message_of(value)):
        assert planned(limiter, message, by_shape=True) == planned(limiter, message, by_shape=False)
    (take,) = limiter.plan_message(message_of(value)).takes
    assert len(take.key) <= MAX_KEY_LENGTH


def test_other_values_on_the_same_way_share_what_is_encoded() -> None:
    limiter = limiter_with([{"key": "a", "rate_limit": {"unit": "minute", "requests_per_unit": 1}}])
    assert limiter is not None
    plans = [limiter.plan_message(message_of(value)) for value in ("x", "y", "z")]
    assert plans[0].memos is plans[1].memos is plans[2].memos is not None
    assert len({plan.takes[0].key for plan in plans}) == 3


def test_a_message_that_comes_again_has_its_plan_kept_until_the_limits_change() -> None:
    limiter = limiter_with([{"key": "a", "rate_limit": {"unit": "minute", "requests_per_unit": 1}}])
    assert limiter is not None
    plans = [limiter.plan_message(message_of("x")) for _ in range(4)]
    assert plans[0] is not plans[1]
    assert plans[1] is plans[2] is plans[3]
    limiter.use(limiter.limits)
    assert limiter.plan_message(message_of("x")) is not plans[3]


def test_plans_of_many_callers_are_not_kept() -> None:
    limiter = limiter_with([{"key": "a", "rate_limit": {"unit": "minute", "requests_per_unit": 1}}])
    assert limiter is not None
    for _ in range(2):
        for number in range(3 * MAX_RECENT):
            limiter.plan_message(message_of(f"{number}"))
    assert not limiter._recent
    assert len(limiter._latest) <= MAX_RECENT
