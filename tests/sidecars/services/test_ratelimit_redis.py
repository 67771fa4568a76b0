"""The ratelimit sidecar and a real Redis that it shares, and that goes away."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from structlog.testing import capture_logs

from common.configfile import ConfigError
from protos.ratelimit_pb2 import RateLimitResponse
from sidecars.services.ratelimit import build
from tests.support.ratelimiting import (
    ADDRESS,
    FakeCall,
    awaited,
    dependencies,
    folder,
    request,
    settings_with,
)
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["folder", "redis_server"]


@pytest.fixture
async def shared_client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), 0)) as client:
        yield client


PATIENT = {"store": "redis", "redis_timeout_ms": 5000, "breaker": {"failures": 2, "open_seconds": 0.05}}


@pytest.mark.redis
class TestRedis:
    async def test_two_sidecars_share_a_limit(self, folder: Path, shared_client: Redis) -> None:
        pair = [build(settings_with(folder, **PATIENT), dependencies(shared_client)) for _ in range(2)]
        codes = [(await awaited(sidecar, request({"closed": "1"}))).overall_code for sidecar in pair * 3]
        assert codes.count(RateLimitResponse.OK) == 3
        for sidecar in pair:
            await sidecar.stop()

    async def test_sidecars_count_themselves_and_grant_their_share_while_redis_is_away(
        self, folder: Path, redis_server: RedisServer, shared_client: Redis
    ) -> None:
        pair = [build(settings_with(folder, **PATIENT), dependencies(shared_client)) for _ in range(2)]
        for sidecar in pair:
            await sidecar.start()
        async with asyncio.timeout(30):
            while True:
                if [sidecar.describe()["replicas"] for sidecar in pair] == [2, 2]:
                    break
                await asyncio.sleep(0.05)
        redis_server.stop()
        for sidecar in pair:  # 3 a minute, so 2 for each
            codes = [(await awaited(sidecar, request(ADDRESS))).overall_code for _ in range(4)]
            assert codes.count(RateLimitResponse.OK) == 2
            await sidecar.stop()

    async def test_the_number_of_sidecars_may_be_set(self, folder: Path, shared_client: Redis) -> None:
        sidecar = build(settings_with(folder, replicas=3, **PATIENT), dependencies(shared_client))
        await sidecar.start()
        assert sidecar.describe()["replicas"] == 3
        await shared_client.ping()
        assert await shared_client.keys("*") == []
        await sidecar.stop()

    async def test_away_each_rule_answers_as_it_says_and_recovers(
        self, folder: Path, redis_server: RedisServer, shared_client: Redis
    ) -> None:
        around = dependencies(shared_client)
        sidecar = build(settings_with(folder, **PATIENT), around)
        redis_server.stop()
        closed, open_, local = request({"closed": "1"}), request({"open": "1"}), request(ADDRESS)
        assert (await awaited(sidecar, closed)).overall_code == RateLimitResponse.OVER_LIMIT
        assert (await awaited(sidecar, open_)).overall_code == RateLimitResponse.OK
        codes = [(await awaited(sidecar, local)).overall_code for _ in range(4)]
        assert codes == [RateLimitResponse.OK] * 3 + [RateLimitResponse.OVER_LIMIT]
        assert sidecar.describe()["breaker"] in {"open", "half_open"}
        redis_server.start()
        async with asyncio.timeout(20):
            while (await awaited(sidecar, closed)).overall_code != RateLimitResponse.OK:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            # An answer is handed out before the breaker is told of it.
            while sidecar.describe()["breaker"] != "closed":  # noqa: ASYNC110
                await asyncio.sleep(0)
        unreachable = {"reason": "store_unreachable"}
        assert (around.registry.get_sample_value("ratelimit_redis_failures_total", unreachable) or 0) >= 2
        await sidecar.stop()

    async def test_a_refusal_is_reported_in_its_own_words(
        self, folder: Path, redis_server: RedisServer, shared_client: Redis
    ) -> None:
        """In `/config`, in the log and as the cause of the breaker: not as a Redis that is away."""
        sidecar = build(settings_with(folder, **PATIENT), dependencies(shared_client))
        assert sidecar.describe()["last_refusal"] is None
        with redis_server.client() as admin, capture_logs() as logs:
            admin.config_set("min-replicas-to-write", 1)
            while sidecar.describe()["breaker"] == "closed":
                response = await awaited(sidecar, request({"closed": "1"}))
                assert MessageToDict(response.dynamic_metadata)["reason"] == "store_refused"
            result = sidecar.describe()
            assert "NOREPLICAS" in result["last_refusal"]["error"]
            assert result["breaker_cause"].startswith("store_refused: ")
            assert "NOREPLICAS" in result["breaker_cause"]
            admin.config_set("min-replicas-to-write", 0)
            async with asyncio.timeout(20):
                while True:
                    if sidecar.describe()["breaker"] == "closed":  # although no request comes
                        break
                    await asyncio.sleep(0.01)
        assert sidecar.describe()["breaker_cause"] is None
        events = [line["event"] for line in logs]
        # Asked again it may say no again: then the breaker has another line, and requests one a minute.
        assert events[:2] == [
            "redis refuses a request, its rules follow their on_failure",
            "redis refuses, rules follow their on_failure",
        ]
        assert events[-1] == "redis answers again"
        assert events.count(events[0]) == 1
        assert "NOREPLICAS" in logs[0]["error"]
        assert "NOREPLICAS" in logs[1]["cause"]
        await sidecar.stop()

    async def test_silent_it_answers_within_the_callers_deadline(
        self, folder: Path, redis_server: RedisServer, shared_client: Redis
    ) -> None:
        """The store may wait 5 s, the caller 0.1 s; without its deadline this test would take the 5."""
        sidecar = build(settings_with(folder, **PATIENT), dependencies(shared_client))
        await awaited(sidecar, request(ADDRESS))
        redis_server.pause()
        async with asyncio.timeout(4):
            call = FakeCall(deadline=time.monotonic() + 0.1)
            response = await awaited(sidecar, request(ADDRESS), call)
        assert MessageToDict(response.dynamic_metadata)["reason"] == "store_timeout"
        redis_server.resume()
        await sidecar.stop()

    async def test_after_the_deadline_no_request_is_made(self, folder: Path, shared_client: Redis) -> None:
        sidecar = build(settings_with(folder, **PATIENT), dependencies(shared_client))
        reply = sidecar.should_rate_limit(request(ADDRESS), FakeCall(deadline=time.monotonic()))
        assert isinstance(reply, bytes)
        metadata = MessageToDict(RateLimitResponse.FromString(reply).dynamic_metadata)
        assert metadata["reason"] == "store_no_time"
        await sidecar.stop()


class TestPerSecond:
    """A Redis of its own for windows of less than a minute (REDIS_PERSECOND)."""

    async def test_each_limit_is_counted_in_its_own(self, folder: Path) -> None:
        with RedisServer() as long, RedisServer() as short:
            async with Redis.from_url(long.url) as client, Redis.from_url(short.url) as per_second:
                around = replace(dependencies(client), redis_per_second=per_second)
                sidecar = build(settings_with(folder, store="redis", redis_timeout_ms=5000), around)
                await awaited(sidecar, request(ADDRESS, {"route": "login"}))
                await awaited(sidecar, request(ADDRESS))
                assert [len(await one.keys()) for one in (client, per_second)] == [1, 1]
                [key] = await per_second.keys()
                assert b"route=login" in key
                short.stop()
                response = await awaited(sidecar, request({"route": "login"}))
                metadata = MessageToDict(response.dynamic_metadata)
                assert metadata["reason"] in {"store_unreachable", "store_breaker_open"}
                again = MessageToDict((await awaited(sidecar, request(ADDRESS))).dynamic_metadata)
                assert "reason" not in again
                await sidecar.stop()

    def test_it_needs_the_store_redis(self, folder: Path) -> None:
        around = replace(dependencies(), redis_per_second=Redis())
        with pytest.raises(ConfigError, match="redis_per_second needs store: redis"):
            build(settings_with(folder), around)
