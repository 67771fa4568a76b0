"""Many look-ups at once, against a real Redis over the pool that the sidecars use."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from authz.credentials.core.redis_caller import RedisCaller
from authz.credentials.core.store_errors import StoreUnavailableError
from authz.credentials.session import read_batcher as reads
from authz.credentials.session.read_batcher import ReadBatcher
from authz.request.identity import Identity, RefusalReason
from common.circuit_breaker import CircuitBreaker
from sidecars.process.redis import connect
from sidecars.settings.redis import RedisSettings
from tests.support.credentials import CredentialsHarness, reason_of, sessions_of
from tests.support.redis_server import RedisServer
from tests.support.signing import request

pytestmark = pytest.mark.redis

MANY = 700
"""More than one question holds, and many more than there are connections."""


@pytest.fixture
async def client(shared_redis: RedisServer) -> AsyncIterator[Redis]:
    found = connect(
        RedisSettings(
            url=shared_redis.url, max_connections=4, operation_timeout_ms=5000, connect_timeout_ms=5000
        )
    )
    yield found
    await found.aclose()


@pytest.fixture
def asker(client: Redis) -> RedisCaller:
    return RedisCaller(client, 5.0, CircuitBreaker(lambda: 0.0, lambda: 0.0))


async def commands(client: Redis, name: str) -> int:
    found: dict[str, Any] = await client.info("commandstats")
    return int(found.get(f"cmdstat_{name}", {"calls": 0})["calls"])


async def test_any_number_at_once_is_answered_over_few_connections(client: Redis, asker: RedisCaller) -> None:
    await client.mset({f"k{number}": str(number) for number in range(0, MANY, 2)})
    before = await commands(client, "mget")
    found = ReadBatcher(asker)
    answers = await asyncio.gather(*(found.get(f"k{number}") for number in range(MANY)))
    assert answers == [str(n).encode() if n % 2 == 0 else None for n in range(MANY)]
    assert await commands(client, "mget") - before <= 2


async def test_a_key_is_fetched_once_however_many_wait(client: Redis, asker: RedisCaller) -> None:
    await client.set("a", "1")
    found = ReadBatcher(asker)
    before = await commands(client, "mget")
    first, *others = await asyncio.gather(found.get("other"), *(found.get("a") for _ in range(50)))
    assert (first, set(others)) == (None, {b"1"})
    assert await commands(client, "mget") - before == 1


async def test_one_that_gives_up_does_not_end_the_others(client: Redis, asker: RedisCaller) -> None:
    await client.set("a", "1")
    found = ReadBatcher(asker)
    tasks = [asyncio.ensure_future(found.get("a")) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[2].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answers[1], answers[3]] == [b"1", b"1"]
    assert await found.get("a") == b"1"


async def test_a_request_that_waits_while_redis_fails_is_refused_with_this_reason(
    redis_server: RedisServer,
) -> None:
    client = connect(RedisSettings(url=redis_server.url, operation_timeout_ms=5000))
    redis_server.stop()
    found = ReadBatcher(RedisCaller(client, 5.0, CircuitBreaker(lambda: 0.0, lambda: 0.0)))
    answers = await asyncio.gather(*(found.get(f"k{n}") for n in range(5)), return_exceptions=True)
    assert [type(one) for one in answers] == [StoreUnavailableError] * 5
    redis_server.start()
    await client.aclose()


async def test_the_line_has_a_bound(asker: RedisCaller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "MAX_WAITING", 3)
    found = ReadBatcher(asker)
    answers = await asyncio.gather(*(found.get(f"k{n}") for n in range(6)), return_exceptions=True)
    assert sum(isinstance(one, StoreUnavailableError) for one in answers) == 2


async def test_a_burst_of_sessions_does_not_count_as_an_outage(
    harness: CredentialsHarness, client: Redis
) -> None:
    """The same happens when a lost subscription voids every cached session."""
    harness.redis = client
    credentials = harness.credentials({"sessions": {"store": "redis"}, "lookup_timeout_seconds": 5})
    tokens = [
        await sessions_of(credentials).create("alice", harness.clock.wall_seconds) for _ in range(MANY // 2)
    ]
    pending = [harness.awaited(credentials, request(("cookie", f"session={one}"))) for one in tokens]
    assert all(isinstance(one, Identity) for one in await asyncio.gather(*pending))


async def test_failures_that_were_on_their_way_together_are_all_counted(
    harness: CredentialsHarness, client: Redis
) -> None:
    """Otherwise a client with many concurrent requests passes as soon as one more is allowed."""
    harness.redis = client
    limits = {"address_failures": 5, "per_seconds": 50}
    credentials = harness.credentials(
        {"sessions": {"store": "redis"}, "lookup_timeout_seconds": 5, "throttle": limits}
    )

    def ask(number: int) -> Any:
        token = f"{number:05}{'x' * 38}"
        return harness.awaited(credentials, request(("cookie", f"session={token}"), address="192.0.2.1"))

    found = [reason_of(one) for one in await asyncio.gather(*(ask(number) for number in range(10)))]
    assert set(found) == {RefusalReason.SESSION_UNKNOWN}
    # Ten seconds would have brought one failure back; those five beyond the limit are owed first.
    harness.clock.advance(59)
    assert reason_of(await ask(100)) == RefusalReason.THROTTLED
    harness.clock.advance(1)
    assert reason_of(await ask(101)) == RefusalReason.SESSION_UNKNOWN
