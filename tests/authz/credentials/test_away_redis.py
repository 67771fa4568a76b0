"""docs/authn.md, "Outages": Redis. A real one, stopped and paused, one test for each row."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from authz.credentials import Credentials
from authz.request.identity import Identity, RefusalReason
from sidecars.process.redis import connect
from sidecars.settings.redis import RedisSettings
from tests.support.credentials import World, reason_of
from tests.support.redis_server import Pair, RedisServer
from tests.support.signing import bearer, request, token
from tests.support.waiting import until

pytestmark = pytest.mark.redis

Start = Callable[[Credentials], Awaitable[Credentials]]
UNAVAILABLE = RefusalReason.SESSION_STORE_UNAVAILABLE


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """As the sidecars use it, but for its patience: this machine may be busy."""
    found = connect(RedisSettings(url=redis_server.url, operation_timeout_ms=2000, connect_timeout_ms=2000))
    yield found
    await found.aclose()


@pytest.fixture(autouse=True)
def now(world: World, client: Redis) -> None:
    world.redis = client
    world.clock.wall_seconds = time.time()


def block(world: World, lookup_timeout_seconds: float = 5, **changes: Any) -> dict[str, Any]:
    return {
        "issuers": [world.issuer(leeway_seconds=300)],
        "sessions": {"store": "redis", "cache_ttl_seconds": 30},
        "revocations": {"store": "redis", "max_stale_seconds": 120, "leeway_seconds": 300},
        "lookup_timeout_seconds": lookup_timeout_seconds,
    } | changes


def cookie(text: str) -> Any:
    return request(("cookie", f"session={text}"))


def jwt(**changes: Any) -> Any:
    now = time.time()
    return bearer(token(**({"iat": now - 60, "exp": now + 3600} | changes)))


async def gets(world: World, credentials: Credentials, of: Any) -> RefusalReason | None:
    found = await world.awaited(credentials, of)
    return None if isinstance(found, Identity) else reason_of(found)


async def session(credentials: Credentials) -> str:
    return str((await credentials.credential_admin.create_session("alice", [], [], {}))["token"])


def refused(world: World, reason: RefusalReason, credential: str = "session") -> float:
    return world.metric("authz_credentials_refused_total", credential=credential, reason=reason.value)


async def test_down_at_start(
    world: World, redis_server: RedisServer, started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.1)
    redis_server.stop()
    credentials = await started(world.credentials(block(world)))
    assert await gets(world, credentials, cookie("x" * 43)) == UNAVAILABLE
    assert await gets(world, credentials, cookie("bad token")) == RefusalReason.SESSION_UNKNOWN
    assert await gets(world, credentials, jwt()) == RefusalReason.REVOCATIONS_UNAVAILABLE
    assert world.metric("authz_revocation_subscription_connected") == 0
    redis_server.start()
    await until(lambda: world.metric("authz_revocation_subscription_connected") == 1)
    assert await gets(world, credentials, jwt()) is None


async def test_down_later(world: World, redis_server: RedisServer, started: Start) -> None:
    credentials = await started(world.credentials(block(world)))
    cached, fresh = await session(credentials), await session(credentials)
    assert await gets(world, credentials, cookie(cached)) is None
    seen = jwt(jti="seen")
    assert await gets(world, credentials, seen) is None
    redis_server.stop()
    await until(lambda: world.metric("authz_revocation_subscription_connected") == 0)
    assert isinstance(world.outcome(credentials, cookie(cached)), Identity)
    assert await gets(world, credentials, cookie(fresh)) == UNAVAILABLE
    assert await gets(world, credentials, seen) is None
    assert await gets(world, credentials, jwt(jti="new")) is None
    assert refused(world, UNAVAILABLE) >= 1
    # What is remembered serves to its stated age and no longer.
    world.clock.advance(30)
    assert await gets(world, credentials, cookie(cached)) == UNAVAILABLE
    world.clock.advance(91)
    unavailable = RefusalReason.REVOCATIONS_UNAVAILABLE
    await until(lambda: credentials.revocations is not None and credentials.revocations.epoch == -1)
    assert await gets(world, credentials, seen) == unavailable
    assert await gets(world, credentials, jwt(jti="newer")) == unavailable


async def test_slow(world: World, redis_server: RedisServer, started: Start) -> None:
    """Redis hangs: connections stay open without answers. After a few timeouts no request waits any more."""
    credentials = await started(world.credentials(block(world, lookup_timeout_seconds=0.05)))
    cached = await session(credentials)
    assert await gets(world, credentials, cookie(cached)) is None
    redis_server.pause()
    try:
        for number in range(5):
            assert await gets(world, credentials, cookie(f"{number}{'x' * 42}")) == UNAVAILABLE
        assert world.metric("authz_credentials_redis_breaker_opened_total") >= 1
        assert isinstance(world.outcome(credentials, cookie(cached)), Identity)
        await until(lambda: world.metric("authz_revocation_subscription_connected") == 0)
    finally:
        redis_server.resume()
    world.clock.advance(5)
    await until(lambda: world.metric("authz_revocation_subscription_connected") == 1)
    assert await gets(world, credentials, cookie(cached)) is None


async def test_failing_over(world: World, redis_server: RedisServer, started: Start, tmp_path: Path) -> None:
    """Another Redis answers at the address, and lacks what was written last; here: everything."""
    credentials = await started(world.credentials(block(world)))
    text, revoked = await session(credentials), await session(credentials)
    assert await gets(world, credentials, cookie(text)) is None
    await credentials.credential_admin.revoke_sessions("token", revoked)
    await credentials.credential_admin.revoke_tokens("jti", "bad")
    redis_server.restart()
    await until(lambda: world.metric("authz_revocation_subscription_interruptions_total") >= 1)
    world.clock.advance(3)
    await until(lambda: world.metric("authz_revocation_subscription_connected") == 1)
    # A session that the new one does not know is over, for all sidecars alike.
    assert await gets(world, credentials, cookie(text)) == RefusalReason.SESSION_UNKNOWN
    # Nothing that was revoked comes back.
    assert await gets(world, credentials, cookie(revoked)) == RefusalReason.REVOKED
    assert await gets(world, credentials, jwt(jti="bad")) == RefusalReason.REVOKED
    assert await gets(world, credentials, cookie(await session(credentials))) is None
    # Not for one that starts now, either: who knew it has told the new one.
    late = World(tmp_path)
    late.redis, late.clock.wall_seconds = world.redis, time.time()
    fresh = await started(late.credentials(block(late)))
    assert await gets(late, fresh, jwt(jti="bad")) == RefusalReason.REVOKED


async def test_failing_over_to_one_that_lacks_an_end(
    world: World, client: Redis, started: Start, tmp_path: Path
) -> None:
    """The deletion of a session was written last, and did not reach the replica."""
    credentials = await started(world.credentials(block(world)))
    text = await session(credentials)
    (name,) = [key async for key in client.scan_iter("sidecars:session:" + "[0-9a-f]" * 64)]
    value = await client.get(name) or b""
    await credentials.credential_admin.revoke_sessions("token", text)
    await client.set(name, value)
    assert credentials._subscriber is not None
    await credentials._subscriber.stop()
    credentials._subscriber.start()
    await until(lambda: credentials._subscriber is not None and credentials._subscriber.connected)
    late = World(tmp_path)
    late.redis, late.clock.wall_seconds = client, time.time()
    fresh = await started(late.credentials(block(late)))
    assert await gets(late, fresh, cookie(text)) == RefusalReason.SESSION_EXPIRED


async def test_a_replica_takes_over(world: World, redis_pair: Pair, started: Start, tmp_path: Path) -> None:
    """What was written goes on; the old master, demoted, is left after one refused write."""
    client = connect(RedisSettings(url=redis_pair.url, operation_timeout_ms=2000, connect_timeout_ms=2000))
    world.redis = client
    credentials = await started(world.credentials(block(world)))
    text, revoked = await session(credentials), await session(credentials)
    await credentials.credential_admin.revoke_sessions("token", revoked)
    await credentials.credential_admin.revoke_tokens("jti", "bad")
    redis_pair.fail_over()
    assert credentials.sessions is not None
    world.clock.advance(credentials.sessions.config.idle_timeout_seconds / 2)
    assert await gets(world, credentials, cookie(text)) is None
    await credentials.sessions.flush()
    assert world.metric("authz_session_renewals_lost_total") == 1
    other = World(tmp_path)
    other.redis, other.clock.wall_seconds = client, time.time()
    fresh = await started(other.credentials(block(other)))
    for of in (credentials, fresh):
        assert await gets(world, of, cookie(text)) is None
        assert await gets(world, of, cookie(revoked)) in {
            RefusalReason.REVOKED,
            RefusalReason.SESSION_EXPIRED,
        }
        assert await gets(world, of, jwt(jti="bad")) == RefusalReason.REVOKED
    later = await session(credentials)
    assert await gets(world, credentials, cookie(later)) is None
    await fresh.credential_admin.revoke_sessions("token", later)
    await until(lambda: not isinstance(world.outcome(credentials, cookie(later)), Identity))
    await fresh.stop()
    await credentials.stop()
    await client.aclose()


async def test_a_revocation_made_while_this_sidecar_was_cut_off_counts_afterwards(
    world: World, client: Redis, started: Start, tmp_path: Any
) -> None:
    here = await started(world.credentials(block(world)))
    other = World(tmp_path)
    other.redis, other.clock.wall_seconds = client, time.time()
    there = await started(other.credentials(block(other)))
    text = await session(here)
    of = jwt(jti="t1")
    assert await gets(world, here, cookie(text)) is None
    assert await gets(world, here, of) is None
    assert here._subscriber is not None
    await here._subscriber.stop()
    await there.credential_admin.revoke_sessions("token", text)
    await there.credential_admin.revoke_tokens("jti", "t1")
    here._subscriber.start()
    await until(lambda: here._subscriber is not None and here._subscriber.connected)
    assert await gets(world, here, cookie(text)) == RefusalReason.SESSION_EXPIRED
    assert await gets(world, here, of) == RefusalReason.REVOKED
