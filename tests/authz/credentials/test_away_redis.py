"""docs/authn.md, "Outages": Redis. A real one, stopped and paused, one test for each row."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from authz.credentials import Credentials
from authz.request.identity import Identity, RefusalReason
from common.circuit_breaker import CircuitState
from sidecars.process.redis import connect
from sidecars.settings.redis import RedisSettings
from tests.support.credentials import CredentialsHarness, reason_of
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
def now(harness: CredentialsHarness, client: Redis) -> None:
    harness.redis = client
    harness.clock.wall_seconds = time.time()


def block(harness: CredentialsHarness, lookup_timeout_seconds: float = 5, **changes: Any) -> dict[str, Any]:
    return {
        "issuers": [harness.issuer(leeway_seconds=300)],
        "sessions": {"store": "redis", "cache_ttl_seconds": 30},
        "revocations": {"store": "redis", "max_stale_seconds": 120, "leeway_seconds": 300},
        "lookup_timeout_seconds": lookup_timeout_seconds,
    } | changes


def cookie(text: str) -> Any:
    return request(("cookie", f"session={text}"))


def jwt(**changes: Any) -> Any:
    now = time.time()
    return bearer(token(**({"iat": now - 60, "exp": now + 3600} | changes)))


async def gets(harness: CredentialsHarness, credentials: Credentials, of: Any) -> RefusalReason | None:
    found = await harness.awaited(credentials, of)
    return None if isinstance(found, Identity) else reason_of(found)


async def session(credentials: Credentials) -> str:
    return str((await credentials.credential_admin.create_session("alice", [], [], {}))["token"])


def refused(harness: CredentialsHarness, reason: RefusalReason, credential: str = "session") -> float:
    return harness.metric("authz_credentials_refused_total", credential=credential, reason=reason.value)


async def test_down_at_start(
    harness: CredentialsHarness, redis_server: RedisServer, started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.1)
    redis_server.stop()
    credentials = await started(harness.credentials(block(harness)))
    assert await gets(harness, credentials, cookie("x" * 43)) == UNAVAILABLE
    assert await gets(harness, credentials, cookie("bad token")) == RefusalReason.SESSION_UNKNOWN
    assert await gets(harness, credentials, jwt()) == RefusalReason.REVOCATIONS_UNAVAILABLE
    assert harness.metric("authz_revocation_subscription_connected") == 0
    redis_server.start()
    await until(lambda: harness.metric("authz_revocation_subscription_connected") == 1)
    assert await gets(harness, credentials, jwt()) is None


async def test_down_later(harness: CredentialsHarness, redis_server: RedisServer, started: Start) -> None:
    credentials = await started(harness.credentials(block(harness)))
    cached, fresh = await session(credentials), await session(credentials)
    assert await gets(harness, credentials, cookie(cached)) is None
    seen = jwt(jti="seen")
    assert await gets(harness, credentials, seen) is None
    redis_server.stop()
    await until(lambda: harness.metric("authz_revocation_subscription_connected") == 0)
    assert isinstance(harness.outcome(credentials, cookie(cached)), Identity)
    assert await gets(harness, credentials, cookie(fresh)) == UNAVAILABLE
    assert await gets(harness, credentials, seen) is None
    assert await gets(harness, credentials, jwt(jti="new")) is None
    assert refused(harness, UNAVAILABLE) >= 1
    # What is remembered serves to its stated age and no longer.
    harness.clock.advance(30)
    assert await gets(harness, credentials, cookie(cached)) == UNAVAILABLE
    harness.clock.advance(91)
    unavailable = RefusalReason.REVOCATIONS_UNAVAILABLE
    await until(lambda: credentials.revocations is not None and credentials.revocations.epoch == -1)
    assert await gets(harness, credentials, seen) == unavailable
    assert await gets(harness, credentials, jwt(jti="newer")) == unavailable


async def test_slow(harness: CredentialsHarness, redis_server: RedisServer, started: Start) -> None:
    """Redis hangs: connections stay open without answers. After a few timeouts no request waits any more."""
    credentials = await started(harness.credentials(block(harness, lookup_timeout_seconds=0.05)))
    cached = await session(credentials)
    assert await gets(harness, credentials, cookie(cached)) is None
    redis_server.pause()
    try:
        for number in range(5):
            assert await gets(harness, credentials, cookie(f"{number}{'x' * 42}")) == UNAVAILABLE
        assert harness.metric("authz_credentials_redis_breaker_opened_total") >= 1
        assert harness.metric("authz_credentials_redis_breaker_state") == CircuitState.OPEN
        assert isinstance(harness.outcome(credentials, cookie(cached)), Identity)
        await until(lambda: harness.metric("authz_revocation_subscription_connected") == 0)
    finally:
        redis_server.resume()
    harness.clock.advance(5)
    await until(lambda: harness.metric("authz_revocation_subscription_connected") == 1)
    assert await gets(harness, credentials, cookie(cached)) is None


async def test_failing_over(
    harness: CredentialsHarness, redis_server: RedisServer, started: Start, tmp_path: Path
) -> None:
    """Another Redis answers at the address, and lacks what was written last; here: everything."""
    credentials = await started(harness.credentials(block(harness)))
    text, revoked = await session(credentials), await session(credentials)
    assert await gets(harness, credentials, cookie(text)) is None
    await credentials.credential_admin.revoke_sessions("token", revoked)
    await credentials.credential_admin.revoke_tokens("jti", "bad")
    redis_server.restart()
    await until(lambda: harness.metric("authz_revocation_subscription_interruptions_total") >= 1)
    harness.clock.advance(3)
    await until(lambda: harness.metric("authz_revocation_subscription_connected") == 1)
    # A session that the new one does not know is over, for all sidecars alike.
    assert await gets(harness, credentials, cookie(text)) == RefusalReason.SESSION_UNKNOWN
    # Nothing that was revoked comes back.
    assert await gets(harness, credentials, cookie(revoked)) == RefusalReason.REVOKED
    assert await gets(harness, credentials, jwt(jti="bad")) == RefusalReason.REVOKED
    assert await gets(harness, credentials, cookie(await session(credentials))) is None
    # Not for one that starts now, either: who knew it has told the new one.
    late = CredentialsHarness(tmp_path)
    late.redis, late.clock.wall_seconds = harness.redis, time.time()
    fresh = await started(late.credentials(block(late)))
    assert await gets(late, fresh, jwt(jti="bad")) == RefusalReason.REVOKED


async def test_failing_over_to_one_that_lacks_an_end(
    harness: CredentialsHarness, client: Redis, started: Start, tmp_path: Path
) -> None:
    """The deletion of a session was written last, and did not reach the replica."""
    credentials = await started(harness.credentials(block(harness)))
    text = await session(credentials)
    (name,) = [key async for key in client.scan_iter("sidecars:session:" + "[0-9a-f]" * 64)]
    value = await client.get(name) or b""
    await credentials.credential_admin.revoke_sessions("token", text)
    await client.set(name, value)
    assert credentials._subscriber is not None
    await credentials._subscriber.stop()
    credentials._subscriber.start()
    await until(lambda: credentials._subscriber is not None and credentials._subscriber.connected)
    late = CredentialsHarness(tmp_path)
    late.redis, late.clock.wall_seconds = client, time.time()
    fresh = await started(late.credentials(block(late)))
    assert await gets(late, fresh, cookie(text)) == RefusalReason.SESSION_EXPIRED


async def test_a_replica_takes_over(
    harness: CredentialsHarness, redis_pair: Pair, started: Start, tmp_path: Path
) -> None:
    """What was written goes on; the old master, demoted, is left after one refused write."""
    client = connect(RedisSettings(url=redis_pair.url, operation_timeout_ms=2000, connect_timeout_ms=2000))
    harness.redis = client
    credentials = await started(harness.credentials(block(harness)))
    text, revoked = await session(credentials), await session(credentials)
    await credentials.credential_admin.revoke_sessions("token", revoked)
    await credentials.credential_admin.revoke_tokens("jti", "bad")
    redis_pair.fail_over()
    assert credentials.sessions is not None
    harness.clock.advance(credentials.sessions.config.idle_timeout_seconds / 2)
    assert await gets(harness, credentials, cookie(text)) is None
    await credentials.sessions.flush()
    assert harness.metric("authz_session_renewals_lost_total") == 1
    other = CredentialsHarness(tmp_path)
    other.redis, other.clock.wall_seconds = client, time.time()
    fresh = await started(other.credentials(block(other)))
    for of in (credentials, fresh):
        assert await gets(harness, of, cookie(text)) is None
        assert await gets(harness, of, cookie(revoked)) in {
            RefusalReason.REVOKED,
            RefusalReason.SESSION_EXPIRED,
        }
        assert await gets(harness, of, jwt(jti="bad")) == RefusalReason.REVOKED
    later = await session(credentials)
    assert await gets(harness, credentials, cookie(later)) is None
    await fresh.credential_admin.revoke_sessions("token", later)
    await until(lambda: not isinstance(harness.outcome(credentials, cookie(later)), Identity))
    await fresh.stop()
    await credentials.stop()
    await client.aclose()


async def test_a_revocation_made_while_this_sidecar_was_cut_off_counts_afterwards(
    harness: CredentialsHarness, client: Redis, started: Start, tmp_path: Any
) -> None:
    here = await started(harness.credentials(block(harness)))
    other = CredentialsHarness(tmp_path)
    other.redis, other.clock.wall_seconds = client, time.time()
    there = await started(other.credentials(block(other)))
    text = await session(here)
    of = jwt(jti="t1")
    assert await gets(harness, here, cookie(text)) is None
    assert await gets(harness, here, of) is None
    assert here._subscriber is not None
    await here._subscriber.stop()
    await there.credential_admin.revoke_sessions("token", text)
    await there.credential_admin.revoke_tokens("jti", "t1")
    here._subscriber.start()
    await until(lambda: here._subscriber is not None and here._subscriber.connected)
    assert await gets(harness, here, cookie(text)) == RefusalReason.SESSION_EXPIRED
    assert await gets(harness, here, of) == RefusalReason.REVOKED
