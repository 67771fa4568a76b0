"""The ratelimit sidecar with leases on a real Redis: settings, metrics and shutdown."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sidecars.services.ratelimit import RatelimitSidecar, build
from tests.support.ratelimiting import awaited, dependencies, request, settings_with
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

pytestmark = pytest.mark.redis

LIMITS: Final = """
domain: edge
descriptors:
  - {key: leased, rate_limit: {unit: hour, requests_per_unit: 1000, lease: true}}
  - {key: plain, rate_limit: {unit: hour, requests_per_unit: 1000}}
"""
PATIENT: Final = {"store": "redis", "redis_timeout_ms": 5000, "replicas": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "edge.yaml").write_text(LIMITS)
    return tmp_path


@pytest.fixture
async def shared_client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), 0)) as client:
        yield client


async def remaining(sidecar: RatelimitSidecar, key: str, times: int) -> int:
    for _ in range(times):
        response = await awaited(sidecar, request({key: "1"}))
    return int(response.statuses[0].limit_remaining)


async def test_a_sidecar_answers_from_its_lease_and_returns_it_when_it_stops(
    folder: Path, shared_client: Redis
) -> None:
    around = dependencies(shared_client)
    sidecar = build(settings_with(folder, **PATIENT), around)
    await sidecar.start()
    value = around.registry.get_sample_value
    assert await remaining(sidecar, "leased", 5) == 995
    assert value("ratelimit_leases") == 1
    assert value("ratelimit_lease_tokens_out") == 5
    assert value("ratelimit_lease_decisions_total") == 3
    await sidecar.stop()
    assert value("ratelimit_lease_tokens_out") == 0
    assert value("ratelimit_lease_tokens_total", {"event": "returned"}) == 5
    other = build(settings_with(folder, **PATIENT), dependencies(shared_client))
    assert await remaining(other, "leased", 1) >= 994
    await other.stop()


async def test_rules_without_lease_have_one_if_the_settings_say_so(
    folder: Path, shared_client: Redis
) -> None:
    for by_default, leases in ((False, 0), (True, 1)):
        around = dependencies(shared_client)
        settings = settings_with(folder, leases={"by_default": by_default}, **PATIENT)
        sidecar = build(settings, around)
        await sidecar.start()
        await remaining(sidecar, "plain", 4)
        assert around.registry.get_sample_value("ratelimit_leases") == leases
        await sidecar.stop()


async def test_a_redis_that_is_away_at_the_end_does_not_hold_up_the_stop(
    folder: Path, redis_server: RedisServer, shared_client: Redis
) -> None:
    around = dependencies(shared_client)
    sidecar = build(settings_with(folder, **PATIENT), around)
    await sidecar.start()
    await remaining(sidecar, "leased", 3)
    redis_server.stop()
    await sidecar.stop()
    assert around.registry.get_sample_value("ratelimit_lease_tokens_total", {"event": "lost"}) == 7
