"""Requests under a rule with high priority are shed last."""

from pathlib import Path

import pytest

from common.configfile import ConfigError
from protos.ratelimit_pb2 import RateLimitRequest
from ratelimit.listing import limit_text
from sidecars.services.ratelimit import RatelimitSidecar, build
from sidecars.transport.api.service import Unary
from tests.support.limiter import Bench
from tests.support.ratelimiting import dependencies, request, settings_with

LIMITS = """
domain: edge
descriptors:
  - key: route
    value: checkout
    rate_limit: {unit: second, requests_per_unit: 5, priority: high}
  - {key: route, rate_limit: {unit: second, requests_per_unit: 5}}
  - {key: staff, rate_limit: {unlimited: true, priority: high}}
"""


def sidecar(folder: Path, limits: str = LIMITS) -> RatelimitSidecar:
    (folder / "edge.yaml").write_text(limits)
    return build(settings_with(folder), dependencies())


@pytest.mark.parametrize(
    ("descriptors", "urgent"),
    [
        ([{"route": "checkout"}], True),
        ([{"route": "search"}], False),
        ([{"route": "search"}, {"route": "checkout"}], True),
        ([{"staff": "1"}], True),
        ([{"unknown": "1"}], False),
    ],
)
def test_one_rule_with_high_priority_makes_a_call_urgent(
    descriptors: list[dict[str, str]], *, urgent: bool, tmp_path: Path
) -> None:
    made = sidecar(tmp_path)
    assert made.is_urgent(request(*descriptors)) is urgent


@pytest.mark.parametrize(
    "message", [b"\xff", b"", request(domain="edge"), request({"a": "b"}, domain="shop")]
)
def test_what_cannot_be_answered_is_not_urgent(message: bytes, tmp_path: Path) -> None:
    made = sidecar(tmp_path)
    assert not made.is_urgent(message)
    assert made._limiter.stats.requests == 0


def test_the_release_of_a_slot_is_urgent_and_the_request_for_one_is_not(tmp_path: Path) -> None:
    limits = "domain: edge\ndescriptors: [{key: id, rate_limit: {concurrency: 2}}]\n"
    made = sidecar(tmp_path, limits)
    assert not made.is_urgent(request({"id": "a"}))
    release = RateLimitRequest.FromString(request({"id": "a"}))
    release.descriptors[0].is_negative_hits = True
    assert made.is_urgent(release.SerializeToString())


def test_without_priorities_no_message_is_read(tmp_path: Path) -> None:
    made = sidecar(tmp_path, LIMITS.replace("high", "normal"))
    made._limiter.plan_message = None  # type: ignore[assignment, method-assign]
    assert not made.is_urgent(request({"route": "checkout"}))


def test_the_transport_asks_the_sidecar(tmp_path: Path) -> None:
    made = sidecar(tmp_path)
    method = made.services[0].methods["ShouldRateLimit"]
    assert isinstance(method, Unary)
    assert method.urgent is not None
    assert method.urgent(request({"route": "checkout"}))


def test_the_listing_tells_of_the_priority() -> None:
    rule = Bench(
        "- {key: a, rate_limit: {unit: day, requests_per_unit: 2, priority: high}}"
    ).limiter.limits.rules[0]
    assert limit_text(rule) == "2 per day, token_bucket, priority high, on_failure local"


def test_another_priority_is_an_error() -> None:
    with pytest.raises(ConfigError, match="expected normal or high, found 'urgent'"):
        Bench("- {key: a, rate_limit: {unit: day, requests_per_unit: 2, priority: urgent}}")
