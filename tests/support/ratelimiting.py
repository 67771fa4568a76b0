"""A ratelimit sidecar in the process of the test."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from protos.ratelimit_descriptor_pb2 import RateLimitDescriptor
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from sidecars.services.ratelimit import RatelimitSidecar
from sidecars.services.sidecar import Dependencies
from sidecars.settings.ratelimit import RatelimitSettings

LIMITS = """
domain: edge
descriptors:
  - key: remote_address
    rate_limit: {unit: minute, requests_per_unit: 3, name: per_address}
  - key: route
    value: login
    rate_limit: {unit: second, unit_multiplier: 30, requests_per_unit: 2}
  - {key: closed, rate_limit: {unit: hour, requests_per_unit: 3, on_failure: closed}}
  - {key: open, rate_limit: {unit: hour, requests_per_unit: 3, on_failure: open}}
  - {key: free, rate_limit: {unlimited: true}}
"""


@dataclass
class FakeCall:
    deadline: float | None = None
    method: str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
    peer: str = "unix:"
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    cancelled: bool = False


CALL = FakeCall()


def settings_with(folder: Path, **more: Any) -> RatelimitSettings:
    return RatelimitSettings.model_validate({"listen": ["127.0.0.1:0"], "limits": [str(folder)], **more})


def dependencies(redis: Redis | None = None, wall_clock: Callable[[], float] = time.time) -> Dependencies:
    return Dependencies(CollectorRegistry(), wall_clock, time.monotonic, lambda: 0.0, redis)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "edge.yaml").write_text(LIMITS)
    return tmp_path


def request(*descriptors: Mapping[str, str], domain: str = "edge", hits: int = 0) -> bytes:
    message = RateLimitRequest(domain=domain, hits_addend=hits)
    for descriptor in descriptors:
        entries = [RateLimitDescriptor.Entry(key=key, value=value) for key, value in descriptor.items()]
        message.descriptors.add(entries=entries)
    return message.SerializeToString()


ADDRESS = {"remote_address": "10.0.0.1"}
LOGIN = {"route": "login"}


def answered(sidecar: RatelimitSidecar, message: bytes) -> RateLimitResponse:
    reply = sidecar.should_rate_limit(message, CALL)
    assert isinstance(reply, bytes)
    return RateLimitResponse.FromString(reply)


async def awaited(sidecar: RatelimitSidecar, message: bytes, call: FakeCall = CALL) -> RateLimitResponse:
    reply = sidecar.should_rate_limit(message, call)
    return RateLimitResponse.FromString(reply if isinstance(reply, bytes) else await reply)


small_text = st.text("abc_=|é", max_size=4)
numbers = st.integers(0, 3) | st.integers(0, 2**32 - 1)


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    message = RateLimitRequest(domain=draw(st.sampled_from(["edge", "edge", ""])), hits_addend=draw(numbers))
    for _ in range(draw(st.integers(0, 3))):
        descriptor = message.descriptors.add(is_negative_hits=draw(st.booleans()))
        for _ in range(draw(st.integers(0, 2))):
            key = draw(st.sampled_from(["remote_address", "route", "free"]) | small_text)
            descriptor.entries.add(key=key, value=draw(small_text))
        if draw(st.booleans()):
            descriptor.hits_addend.value = draw(st.integers(0, 2**64 - 1))
        if draw(st.booleans()):
            descriptor.limit.requests_per_unit = draw(numbers)
            descriptor.limit.unit = draw(st.integers(0, 8))  # type: ignore[assignment]
            if draw(st.booleans()):
                descriptor.limit.unit_multiplier.value = draw(numbers)
    return message.SerializeToString()


requests = _requests()
