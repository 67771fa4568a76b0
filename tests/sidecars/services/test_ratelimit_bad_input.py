"""Bad and odd requests over gRPC to a real process: the documented status, a counter, and no crash."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit.request import BadInput
from tests.support.running import SIDECARS, Running, call, connect

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
LIMITS = """
domain: edge
descriptors:
  - {key: route, rate_limit: {unit: day, requests_per_unit: 3}}
"""
BOUNDS = {"max_descriptors": 5, "max_entries": 4, "max_key_length": 100}
OK, OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
Change = Callable[[RateLimitRequest], object]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("b")  # short: a unix socket path has at most 107 bytes
    (folder / "edge.yaml").write_text(LIMITS)
    section = {"listen": [f"unix:{folder}/s"], "limits": [str(folder / "edge.yaml")], **BOUNDS}
    with Running(folder, {"ratelimit": section}, program=SIDECARS) as process:
        yield process.wait_until_ready()


def asked(running: Running, message: bytes) -> RateLimitResponse:
    with connect(f"unix:{running.folder}/s") as channel:
        return RateLimitResponse.FromString(call(channel, METHOD, message))


def counted(running: Running) -> Mapping[str, float]:
    """Return `ratelimit_service_bad_input` by reason, without zeros."""
    families = text_string_to_metric_families(running.get("/metrics")[1])
    samples = [sample for family in families for sample in family.samples]
    found = [sample for sample in samples if sample.name == "ratelimit_service_bad_input"]
    assert {sample.labels["reason"] for sample in found} == set(BadInput)
    return {sample.labels["reason"]: sample.value for sample in found if sample.value}


def message(value: str, change: Change = lambda _: None) -> bytes:
    """A request with one descriptor, changed."""
    request = RateLimitRequest(domain="edge")
    request.descriptors.add().entries.add(key="route", value=value)
    change(request)
    return request.SerializeToString()


def limit(**fields: Any) -> Change:
    def change(request: RateLimitRequest) -> None:
        override = request.descriptors[0].limit
        override.requests_per_unit = 5
        if "unit" in fields:
            override.unit = fields["unit"]
        if "multiplier" in fields:
            override.unit_multiplier.value = fields["multiplier"]

    return change


def hits(number: int, *, refund: bool = False) -> Change:
    def change(request: RateLimitRequest) -> None:
        request.descriptors[0].hits_addend.value = number
        request.descriptors[0].is_negative_hits = refund

    return change


def more_entries(number: int) -> Change:
    return lambda request: [request.descriptors[0].entries.add(key="k", value="v") for _ in range(number)]


def more_descriptors(number: int) -> Change:
    return lambda request: [request.descriptors.add() for _ in range(number)]


@pytest.mark.parametrize(
    ("sent", "reason", "text"),
    [
        (b"\xff\xff\xff", "not_a_request", "the message is not a RateLimitRequest"),
        (message("cut")[:-1], "not_a_request", "the message is not a RateLimitRequest"),
        (b"", "no_domain", "rate limit domain must not be empty"),
        (message("a", lambda request: request.ClearField("domain")), "no_domain", "domain must not be empty"),
        (RateLimitRequest(domain="edge").SerializeToString(), "no_descriptors", "list must not be empty"),
        (message("a", more_descriptors(5)), "too_many_descriptors", "list must not be longer than 5"),
        (message("a", more_entries(4)), "too_many_entries", "must not have more than 4 entries"),
        (message("a", limit()), "bad_override", "override has no unit that is known here: 0"),
        (message("a", limit(unit=99)), "bad_override", "override has no unit that is known here: 99"),
        (message("a", limit(unit=-1)), "bad_override", "override has no unit that is known here: -1"),
        (message("a", limit(unit=6, multiplier=0)), "bad_override", "unit_multiplier must be 1 to 10, not 0"),
        (message("a", limit(unit=6, multiplier=11)), "bad_override", "must be 1 to 10, not 11"),
    ],
)
def test_refused(running: Running, sent: bytes, reason: str, text: str) -> None:
    before = counted(running).get(reason, 0)
    with pytest.raises(grpc.RpcError) as caught:
        asked(running, sent)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in error.details()
    assert counted(running)[reason] == before + 1


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        (message("long" * 30), OK, "long_key"),
        (message("x" * 1_000_000), OK, "long_key"),
        (message("all", hits(2**64 - 1)), OVER_LIMIT, "huge_hits"),
        (message("back", hits(2**64 - 1, refund=True)), OK, "huge_hits"),
        (
            message("none", lambda request: setattr(request, "hits_addend", 2**32 - 1)),
            OVER_LIMIT,
            "huge_hits",
        ),
        (message("QQ").replace(b"QQ", b"\xff\xfe"), OK, "not_utf8"),
        (message("RR").replace(b"route", b"rou\xff\xfe"), OK, "not_utf8"),
    ],
)
def test_odd_and_answered(running: Running, sent: bytes, code: int, reason: str) -> None:
    """The same bytes again are counted again."""
    before = counted(running).get(reason, 0)
    assert [asked(running, sent).overall_code for _ in range(2)] == [code, code]
    assert counted(running)[reason] == before + 2


@pytest.mark.parametrize(
    "sent",
    [
        message("", lambda _: None),
        message("plain", more_entries(3)),
        message("plain", more_descriptors(4)),
        message("nul\0"),
        message("line\nfeed"),
        message("check", hits(0)),
        message("refund", hits(3, refund=True)),
        message("other domain", lambda request: setattr(request, "domain", "edge\xe9")),
        message("unknown field") + b"\x98\x06\x01",
        message("week", limit(unit=7)),
        message("no entries", lambda request: request.descriptors[0].ClearField("entries")),
    ],
)
def test_unusual_but_good(running: Running, sent: bytes) -> None:
    before = counted(running)
    assert asked(running, sent).overall_code == OK
    assert counted(running) == before


@pytest.mark.parametrize(("one", "other"), [(b"\xc3\x28", b"\xc3\x29"), (b"y" * 50, b"y" * 51)])
def test_different_values_have_counts_of_their_own(running: Running, one: bytes, other: bytes) -> None:
    def three_hits(value: bytes) -> bytes:
        entry = _field(1, b"route") + _field(2, value)
        return _field(1, b"edge") + _field(2, _field(1, entry) + _field(3, b"\x08\x03"))

    sent = [three_hits(value) for value in (one, other, one)]
    assert [asked(running, text).overall_code for text in sent] == [OK, OK, OVER_LIMIT]


def _field(number: int, content: bytes) -> bytes:
    """A field of protobuf's wire format with fewer than 128 bytes, which need not be UTF-8."""
    return bytes([number << 3 | 2, len(content)]) + content
