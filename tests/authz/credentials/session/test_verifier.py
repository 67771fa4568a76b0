"""Sessions, on every store."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from authz.credentials import Credentials
from authz.credentials.core.store_errors import StoreUnavailableError
from authz.credentials.session.model import MAX_RECORD_BYTES, StoreFullError, key_of
from authz.request.identity import Authentication, CredentialKind, Identity, Refusal, RefusalReason
from common.configfile import ConfigError
from tests.support.credentials import CredentialsHarness, sessions_of
from tests.support.redis_server import RedisServer
from tests.support.signing import NOW, request


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def credentials(harness: CredentialsHarness, request: pytest.FixtureRequest) -> Credentials:
    if request.param == "redis":
        harness.redis = request.getfixturevalue("redis")
    sessions = {"store": request.param, "idle_timeout_seconds": 60, "absolute_timeout_seconds": 600}
    return harness.credentials({"sessions": sessions, "lookup_timeout_seconds": 5})


def reason(outcome: Authentication) -> RefusalReason:
    assert isinstance(outcome, Refusal), outcome
    return outcome.reason


def cookie(token: str) -> Any:
    return request(("cookie", f"theme=dark; session={token}"))


async def test_a_token_does_not_look_like_an_option(
    harness: CredentialsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = sessions_of(harness.credentials({"sessions": {}}))
    drawn = iter([b"\xf8" * 32, b"\xfb" * 32, b"\x00" * 32])
    monkeypatch.setattr(sessions, "_random_bytes", lambda _length: next(drawn))
    assert await sessions.create("alice", NOW) == "A" * 43


class TestEveryStore:
    async def test_a_session_is_who_it_was_created_for(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        token = await sessions_of(credentials).create(
            "alice", NOW, scopes=("read",), roles=("admin",), claims={"email": "alice@example.com"}
        )
        assert await harness.awaited(credentials, cookie(token)) == Identity(
            CredentialKind.SESSION,
            "alice",
            scopes=frozenset({"read"}),
            roles=frozenset({"admin"}),
            claims={"email": "alice@example.com"},
            expires_at=NOW + 60,
        )

    async def test_a_revoked_session_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        token = await sessions_of(credentials).create("alice", NOW)
        assert await sessions_of(credentials).revoke(token)
        assert reason(await harness.awaited(credentials, cookie(token))) == RefusalReason.REVOKED
        assert not await sessions_of(credentials).revoke(token)

    async def test_a_session_that_was_not_used_is_over(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        token = await sessions_of(credentials).create("alice", NOW)
        harness.clock.advance(60)
        assert reason(await harness.awaited(credentials, cookie(token))) == RefusalReason.SESSION_EXPIRED

    @pytest.mark.parametrize("token", ["x", "x" * 129, "a.b", "é" * 43, "x" * 42 + "=", "../" * 20])
    async def test_what_is_not_a_token_is_refused_without_asking_the_store(
        self, harness: CredentialsHarness, credentials: Credentials, token: str
    ) -> None:
        assert reason(harness.outcome(credentials, cookie(token))) == RefusalReason.SESSION_UNKNOWN

    async def test_an_unknown_token_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        outcome = await harness.awaited(credentials, cookie("x" * 43))
        assert reason(outcome) == RefusalReason.SESSION_UNKNOWN

    async def test_tokens_are_long_and_differ(self, credentials: Credentials) -> None:
        tokens = {await sessions_of(credentials).create("alice", NOW) for _ in range(20)}
        assert len(tokens) == 20
        assert {len(token) for token in tokens} == {43}

    async def test_a_session_needs_a_subject(self, credentials: Credentials) -> None:
        with pytest.raises(ValueError, match="subject"):
            await sessions_of(credentials).create("", NOW)


class TestMemory:
    async def test_a_full_store_takes_no_more(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"sessions": {"max_sessions": 2}})
        for _ in range(2):
            await sessions_of(credentials).create("alice", NOW)
        with pytest.raises(StoreFullError):
            await sessions_of(credentials).create("alice", NOW)

    async def test_sessions_that_are_over_make_room(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"sessions": {"max_sessions": 2}})
        for _ in range(2):
            await sessions_of(credentials).create("alice", NOW)
        assert await sessions_of(credentials).create("alice", NOW + 1800)


@pytest.mark.redis
class TestRedis:
    @pytest.fixture
    def credentials(self, harness: CredentialsHarness, redis: Redis) -> Credentials:
        harness.redis = redis
        return harness.credentials({"sessions": {"store": "redis"}, "lookup_timeout_seconds": 5})

    async def test_the_token_is_not_in_the_store(self, credentials: Credentials, redis: Redis) -> None:
        """Who reads Redis cannot take over a session."""
        token = await sessions_of(credentials).create("alice", NOW)
        assert f"sidecars:session:{key_of(token)}".encode() in await redis.keys("*")
        assert not [key for key in await redis.keys("*") if token.encode() in key]
        value = await redis.get(f"sidecars:session:{key_of(token)}")
        assert token not in str(value)

    async def test_redis_forgets_a_session_that_is_over(self, credentials: Credentials, redis: Redis) -> None:
        token = await sessions_of(credentials).create("alice", NOW)
        milliseconds = await redis.pttl(f"sidecars:session:{key_of(token)}")
        assert 1_790_000 < milliseconds <= 1_800_000

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"garbage",
            b"[]",
            b"{}",
            b"null",
            json.dumps({"subject": "alice"}).encode(),
            json.dumps(
                {
                    "subject": 7,
                    "created_at": 1,
                    "idle_until": 9e12,
                    "ends_at": 9e12,
                    "scopes": [],
                    "roles": [],
                    "claims": {},
                }
            ).encode(),
            b" " * (MAX_RECORD_BYTES + 1),
        ],
    )
    async def test_a_value_that_is_not_a_session_is_none(
        self, harness: CredentialsHarness, credentials: Credentials, redis: Redis, value: bytes
    ) -> None:
        await redis.set(f"sidecars:session:{key_of('x' * 43)}", value)
        outcome = await harness.awaited(credentials, cookie("x" * 43))
        assert reason(outcome) == RefusalReason.SESSION_UNKNOWN

    async def test_a_session_from_before_versions_were_written_is_read(
        self, harness: CredentialsHarness, credentials: Credentials, redis: Redis
    ) -> None:
        token = await sessions_of(credentials).create("alice", NOW)
        key = f"sidecars:session:{key_of(token)}"
        stored = json.loads(await redis.get(key) or "")
        assert stored.pop("version") == 1
        await redis.set(key, json.dumps(stored))
        outcome = await harness.awaited(credentials, cookie(token))
        assert isinstance(outcome, Identity)

    async def test_a_session_of_a_later_version_is_unknown_and_named(
        self, harness: CredentialsHarness, credentials: Credentials, redis: Redis
    ) -> None:
        token = await sessions_of(credentials).create("alice", NOW)
        key = f"sidecars:session:{key_of(token)}"
        await redis.set(key, json.dumps(json.loads(await redis.get(key) or "") | {"version": 2}))
        with capture_logs() as logs:
            outcome = await harness.awaited(credentials, cookie(token))
        assert reason(outcome) == RefusalReason.SESSION_UNKNOWN
        [line] = [log for log in logs if log["event"] == "session unreadable"]
        assert line["problem"] == "it has version 2 of the format, this program reads 1"

    async def test_a_key_of_another_type_is_unavailable(
        self, harness: CredentialsHarness, credentials: Credentials, redis: Redis
    ) -> None:
        await redis.rpush(f"sidecars:session:{key_of('x' * 43)}", "x")
        outcome = await harness.awaited(credentials, cookie("x" * 43))
        assert reason(outcome) == RefusalReason.SESSION_STORE_UNAVAILABLE

    def test_redis_has_to_be_configured(self, harness: CredentialsHarness) -> None:
        harness.redis = None
        with pytest.raises(ConfigError, match=r"is required by credentials.sessions.store"):
            harness.credentials({"sessions": {"store": "redis"}})


@pytest.mark.redis
class TestRedisAway:
    @pytest.fixture
    async def credentials(
        self, harness: CredentialsHarness, redis_server: RedisServer
    ) -> AsyncIterator[Callable[[float], Credentials]]:
        harness.redis = Redis.from_url(redis_server.url)
        yield lambda wait: harness.credentials(
            {"sessions": {"store": "redis"}, "lookup_timeout_seconds": wait}
        )
        await harness.redis.aclose()

    async def test_away_is_refused_with_its_own_reason_and_recovers(
        self,
        harness: CredentialsHarness,
        redis_server: RedisServer,
        credentials: Callable[[float], Credentials],
    ) -> None:
        serving = credentials(5)
        token = await sessions_of(serving).create("alice", NOW)
        redis_server.stop()
        outcome = await harness.awaited(serving, cookie(token))
        assert reason(outcome) == RefusalReason.SESSION_STORE_UNAVAILABLE
        with pytest.raises(StoreUnavailableError):
            await sessions_of(serving).create("alice", NOW)
        redis_server.start()
        token = await sessions_of(serving).create("alice", NOW)
        assert isinstance(await harness.awaited(serving, cookie(token)), Identity)

    async def test_a_redis_that_hangs_is_waited_for_no_longer_than_configured(
        self,
        harness: CredentialsHarness,
        redis_server: RedisServer,
        credentials: Callable[[float], Credentials],
    ) -> None:
        token = await sessions_of(credentials(5)).create("alice", NOW)
        harness.registry = type(harness.registry)()
        serving = credentials(0.05)
        redis_server.pause()
        try:
            outcome = await harness.awaited(serving, cookie(token))
            assert reason(outcome) == RefusalReason.SESSION_STORE_UNAVAILABLE
        finally:
            redis_server.resume()
        for _ in range(50):
            outcome = await harness.awaited(serving, cookie(token))
            if isinstance(outcome, Identity):
                return
            await asyncio.sleep(0.05)
        pytest.fail("it did not recover")
