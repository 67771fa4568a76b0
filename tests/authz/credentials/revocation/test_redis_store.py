"""Revocations that sidecars share through Redis, across failovers and full lists."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from authz.credentials import Credentials
from authz.credentials.core.store_errors import StoreUnavailableError
from authz.credentials.revocation.revocation_list import Revocation, RevocationsFullError, Revoked
from authz.request.identity import RefusalReason
from common.configfile import ConfigError
from tests.support.credentials import CredentialsHarness, verdict
from tests.support.redis_server import RedisServer
from tests.support.signing import token
from tests.support.waiting import until

Start = Callable[[Credentials], Awaitable[Credentials]]


@pytest.mark.redis
class TestRedis:
    """Two sidecars, one Redis."""

    @pytest.fixture
    async def pair(self, harness: CredentialsHarness, tmp_path: Any, redis: Redis, started: Start) -> Any:
        other = CredentialsHarness(tmp_path)
        found = []
        for one in (harness, other):
            one.redis = redis
            one.clock.wall_seconds = time.time()
            found.append((one, await started(one.credentials(self.block(one)))))
        return found

    @staticmethod
    def block(harness: CredentialsHarness, **changes: Any) -> dict[str, Any]:
        return {
            "issuers": [harness.issuer(leeway_seconds=300)],
            "revocations": {"store": "redis", "leeway_seconds": 300, **changes},
            "lookup_timeout_seconds": 5,
        }

    @staticmethod
    def token(**changes: Any) -> str:
        now = time.time()
        return token(**({"iat": now - 60, "exp": now + 600} | changes))

    @pytest.mark.parametrize(("target", "claim"), [("jti", "jti"), ("sid", "sid"), ("sub", "sub")])
    async def test_it_arrives_on_the_other_by_itself(self, pair: Any, target: str, claim: str) -> None:
        (here, ours), (there, theirs) = pair
        text = self.token(**{claim: "x1"})
        assert verdict(here, ours, text) is None
        assert verdict(there, theirs, text) is None
        await ours.credential_admin.revoke_tokens(target, "x1")
        assert verdict(here, ours, text) == RefusalReason.REVOKED
        await until(lambda: verdict(there, theirs, text) == RefusalReason.REVOKED)

    async def test_who_starts_later_knows_it_from_the_start(
        self, harness: CredentialsHarness, pair: Any, redis: Redis, started: Start, tmp_path: Any
    ) -> None:
        (_, ours), _ = pair
        for number in range(3):
            await ours.credential_admin.revoke_tokens("jti", str(number))
        late = CredentialsHarness(tmp_path)
        late.redis, late.clock.wall_seconds = redis, time.time()
        credentials = await started(late.credentials(self.block(late)))
        assert verdict(late, credentials, self.token(jti="2")) == RefusalReason.REVOKED
        assert verdict(late, credentials, self.token(jti="3")) is None

    async def test_redis_forgets_what_has_had_its_time(self, pair: Any, redis: Redis) -> None:
        (_, ours), _ = pair
        await ours.credential_admin.revoke_tokens("jti", "1")
        over = {f'["jti","","over-{number}"]': time.time() - 1 for number in range(2_500)}
        for name in ("list", "before"):
            await redis.zadd(f"sidecars:revoked:{name}", over)
        await ours.credential_admin.revoke_tokens("jti", "2")
        for name in ("list", "before"):
            assert await redis.zcard(f"sidecars:revoked:{name}") == 2
            assert await redis.ttl(f"sidecars:revoked:{name}") > 172_790

    async def test_a_subject_has_one_entry_however_often_it_is_revoked(
        self, harness: CredentialsHarness, redis: Redis, started: Start
    ) -> None:
        """Its logouts would fill the list for everybody."""
        harness.redis = redis
        credentials = await started(harness.credentials(self.block(harness, max_entries=2)))
        for _ in range(5):
            await credentials.credential_admin.revoke_tokens("sub", "alice")
        await credentials.credential_admin.revoke_tokens("sub", "bob")
        listed = await credentials.credential_admin.list_revocations()
        assert sorted(entry["value"] for entry in listed) == ["alice", "bob"]

    async def test_of_two_times_the_later_one_counts_everywhere(
        self, harness: CredentialsHarness, pair: Any, redis: Redis, started: Start, tmp_path: Any
    ) -> None:
        (_, ours), _ = pair
        now = time.time()
        for seconds in (3600, 30, 7200):
            await ours.credential_admin.revoke_tokens("before", now - seconds)
        late = CredentialsHarness(tmp_path)
        late.redis, late.clock.wall_seconds = redis, now
        credentials = await started(late.credentials(self.block(late)))
        assert verdict(late, credentials, self.token(iat=now - 40)) == RefusalReason.REVOKED
        assert verdict(late, credentials, self.token(iat=now - 20)) is None

    async def test_until_now_means_by_the_time_of_redis(
        self, pair: Any, redis: Redis, started: Start, tmp_path: Any
    ) -> None:
        """The clock of the operator may be late."""
        (here, ours), _ = pair
        behind = CredentialsHarness(tmp_path)
        behind.redis, behind.clock.wall_seconds = redis, time.time() - 6000
        for target, value in (("sub", "alice"), ("before", "now")):
            made = await behind.credentials(
                {"revocations": {"store": "redis"}, "lookup_timeout_seconds": 5}
            ).credential_admin.revoke_tokens(target, value)
            assert made["before"] >= time.time() - 10
            assert made["until"] >= time.time() + 172_790
        await until(lambda: verdict(here, ours, self.token()) == RefusalReason.REVOKED)

    async def test_an_unreadable_entry_refuses_every_caller_until_it_is_removed(
        self, harness: CredentialsHarness, redis: Redis, started: Start
    ) -> None:
        """It may name any token; the log and the command say which it is."""
        harness.redis = redis
        await redis.zadd(
            "sidecars:revoked:list", {b'["jkt","","x"]': time.time() + 600, b'["jti","","x"]': inf}
        )
        credentials = harness.credentials(self.block(harness))
        harness.clock.wall_seconds = time.time()
        with capture_logs() as logs:
            await started(credentials)
        assert verdict(harness, credentials, self.token()) == RefusalReason.REVOCATIONS_UNAVAILABLE
        (lost,) = (entry for entry in logs if entry["event"] == "revocation subscription lost")
        assert "sidecars:revoked:list is not a revocation" in lost["problem"]
        assert "sidecars token clean" in lost["problem"]
        with pytest.raises(StoreUnavailableError, match="token clean"):
            await credentials.credential_admin.list_revocations()
        removed = await credentials.credential_admin.clean_revocations()
        assert sorted(removed) == sorted([repr(b'["jkt","","x"]'), repr(b'["jti","","x"]')])
        await until(lambda: verdict(harness, credentials, self.token()) is None)

    async def test_a_redis_that_takes_no_writes_is_heard_all_the_same(
        self, harness: CredentialsHarness, pair: Any, redis: Redis
    ) -> None:
        """What it lost cannot be given back; what it has still counts."""
        (here, ours), _ = pair
        await ours.credential_admin.revoke_tokens("jti", "1")
        await redis.flushall()
        try:
            await redis.config_set("min-replicas-to-write", 1)
            await ours._subscriber.stop()
            ours._subscriber.start()
            await until(lambda: ours._subscriber.connected)
            assert verdict(here, ours, self.token(jti="1")) == RefusalReason.REVOKED
            assert verdict(here, ours, self.token(jti="2")) is None
        finally:
            await redis.config_set("min-replicas-to-write", 0)

    async def test_what_was_lost_is_written_once_redis_takes_writes(
        self, pair: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A replica that is to become the master refuses them at first."""
        monkeypatch.setattr("authz.credentials.reconciler.RETRY_SECONDS", 0.01)
        (_, ours), _ = pair
        for number in range(120):
            await ours.credential_admin.revoke_tokens("jti", str(number))
        await redis.flushall()
        try:
            await redis.config_set("min-replicas-to-write", 1)
            with capture_logs() as logs:
                await ours._subscriber.stop()
                ours._subscriber.start()
                await until(lambda: any(one["event"] == "revocations not restored yet" for one in logs))
        finally:
            await redis.config_set("min-replicas-to-write", 0)
        async with asyncio.timeout(10):
            while await redis.zcard("sidecars:revoked:list") < 120:  # noqa: ASYNC110 - Redis has no event for it
                await asyncio.sleep(0.01)

    async def test_others_are_heard_while_what_was_lost_is_written(
        self, pair: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (here, ours), (_, theirs) = pair
        await ours.credential_admin.revoke_tokens("jti", "1")
        await redis.flushall()
        writing, gate = asyncio.Event(), asyncio.Event()

        async def slow(*_: Any) -> None:
            writing.set()
            await gate.wait()

        monkeypatch.setattr(ours.revocations.store, "add", slow)
        await ours._subscriber.stop()
        ours._subscriber.start()
        await asyncio.wait_for(writing.wait(), 10)
        await theirs.credential_admin.revoke_tokens("jti", "2")
        await until(lambda: verdict(here, ours, self.token(jti="2")) == RefusalReason.REVOKED)
        gate.set()

    async def test_what_redis_clears_while_it_is_read_refuses_no_one(
        self, harness: CredentialsHarness, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        harness.redis = redis
        credentials = harness.credentials(self.block(harness))
        assert credentials.revocations is not None
        store: Any = credentials.revocations.store
        await credentials.credential_admin.revoke_tokens("before", 5)
        read = redis.zmscore

        async def cleared_before(*arguments: Any) -> Any:
            await redis.delete("sidecars:revoked:list", "sidecars:revoked:before")
            return await read(*arguments)

        monkeypatch.setattr(redis, "zmscore", cleared_before)
        assert await store.load(10) == []

    async def test_a_clock_that_is_ahead_for_a_while_forgives_nothing_for_good(
        self, harness: CredentialsHarness, pair: Any, redis: Redis, started: Start, tmp_path: Any
    ) -> None:
        """Neither in Redis, where that one sidecar would clear the list of all, nor in its own list."""
        (here, ours), (there, theirs) = pair
        await ours.credential_admin.revoke_tokens("jti", "1")
        await until(lambda: verdict(there, theirs, self.token(jti="1")) == RefusalReason.REVOKED)
        ahead = CredentialsHarness(tmp_path)
        ahead.redis, ahead.clock.wall_seconds = redis, time.time() + 3 * 86400
        credentials = await started(ahead.credentials(self.block(ahead)))
        await credentials.credential_admin.revoke_tokens("jti", "2")
        here.clock.wall_seconds += 3 * 86400
        assert ours.revocations is not None
        await ours.revocations.load([])
        for one in (here, ahead):
            one.clock.wall_seconds -= 3 * 86400
        for one, its in ((here, ours), (there, theirs), (ahead, credentials)):
            assert verdict(one, its, self.token(jti="1")) == RefusalReason.REVOKED

    async def test_the_bound_holds_for_all_together(
        self, harness: CredentialsHarness, redis: Redis, started: Start
    ) -> None:
        harness.redis = redis
        credentials = await started(harness.credentials(self.block(harness, max_entries=2)))
        for number in range(2):
            await credentials.credential_admin.revoke_tokens("jti", str(number))
        with pytest.raises(RevocationsFullError):
            await credentials.credential_admin.revoke_tokens("jti", "2")

    async def test_a_full_list_forgets_no_time_over_a_restart(
        self, harness: CredentialsHarness, pair: Any, redis: Redis, started: Start, tmp_path: Any
    ) -> None:
        """Each time is an entry of its own in Redis, and exempt from the bound."""
        (_, ours), _ = pair
        for number in range(3):
            await ours.credential_admin.revoke_tokens("jti", str(number))
        for seconds in (7200, 3600, 1800, 0):
            await ours.credential_admin.revoke_tokens("before", time.time() - seconds)
        restarted = CredentialsHarness(tmp_path)
        restarted.redis, restarted.clock.wall_seconds = redis, time.time()
        credentials = await started(restarted.credentials(self.block(restarted, max_entries=3)))
        assert verdict(restarted, credentials, self.token(jti="x")) == RefusalReason.REVOKED

    async def test_a_long_list_is_taken_in_piece_by_piece(self, pair: Any) -> None:
        """Other calls are answered during the load."""
        (_, ours), _ = pair
        entries = [Revocation(Revoked.TOKEN, str(number), time.time() + 60) for number in range(2_000)]
        sizes: list[int] = []

        async def look() -> None:
            while len(ours.revocations or ()) < 2_000:
                sizes.append(len(ours.revocations or ()))
                await asyncio.sleep(0)

        assert ours.revocations is not None
        await asyncio.gather(ours.revocations.load(entries), look())
        assert sizes == [500, 1_000, 1_500]

    async def test_a_list_that_is_longer_than_it_may_be_denies_until_it_is_shorter(
        self, harness: CredentialsHarness, pair: Any, redis: Redis, started: Start, tmp_path: Any
    ) -> None:
        """An entry that does not fit may name the token of a request, so the list is read again later."""
        (_, ours), _ = pair
        for number in range(5):
            await ours.credential_admin.revoke_tokens("jti", str(number))
        small = CredentialsHarness(tmp_path)
        small.redis, small.clock.wall_seconds = redis, time.time()
        credentials = await started(small.credentials(self.block(small, max_entries=2)))
        assert verdict(small, credentials, self.token()) == RefusalReason.REVOCATIONS_UNAVAILABLE
        await redis.zrem("sidecars:revoked:list", '["jti","","3"]', '["jti","","4"]')
        assert credentials.revocations is not None
        credentials.revocations._entries.clear()
        small.clock.advance(31)
        await until(lambda: verdict(small, credentials, self.token()) is None)
        assert verdict(small, credentials, self.token(jti="0")) == RefusalReason.REVOKED

    async def test_more_that_does_not_fit_puts_that_off_no_further(
        self, harness: CredentialsHarness, redis: Redis
    ) -> None:
        harness.redis = redis
        revocations = harness.credentials(self.block(harness, max_entries=1)).revocations
        assert revocations is not None
        for number in range(8):
            harness.clock.advance(10)
            revocations.add(Revocation(Revoked.TOKEN, str(number), harness.clock.wall_seconds + 600))
        assert revocations.needs_resync

    async def test_what_a_failover_lost_and_what_came_since_fit_both(
        self, harness: CredentialsHarness, redis: Redis, started: Start, tmp_path: Any
    ) -> None:
        """The store keeps to the bound, and so has room for new ones where it has lost the old."""
        other = CredentialsHarness(tmp_path)
        harness.redis = other.redis = redis
        harness.clock.wall_seconds = other.clock.wall_seconds = time.time()
        ours, theirs = [
            await started(one.credentials(self.block(one, max_entries=3))) for one in (harness, other)
        ]
        for number in range(3):
            await ours.credential_admin.revoke_tokens("jti", str(number))
        await redis.flushall()
        await theirs.credential_admin.revoke_tokens("jti", "new")
        await until(lambda: verdict(harness, ours, self.token(jti="new")) == RefusalReason.REVOKED)
        assert verdict(harness, ours, self.token(jti="0")) == RefusalReason.REVOKED
        assert verdict(harness, ours, self.token(jti="good")) is None

    async def test_before_the_list_is_loaded_every_request_is_refused(
        self, harness: CredentialsHarness, redis: Redis
    ) -> None:
        harness.redis = redis
        credentials = harness.credentials(self.block(harness))
        assert verdict(harness, credentials, token()) == RefusalReason.REVOCATIONS_UNAVAILABLE

    async def test_a_revocation_that_cannot_be_kept_is_an_error(
        self, harness: CredentialsHarness, redis_server: RedisServer, started: Start
    ) -> None:
        client: Redis = Redis.from_url(redis_server.url)
        harness.redis = client
        credentials = await started(harness.credentials(self.block(harness)))
        redis_server.stop()
        with pytest.raises(StoreUnavailableError):
            await credentials.credential_admin.revoke_tokens("jti", "1")
        await credentials.stop()
        await client.aclose()

    async def test_garbage_on_the_channel_changes_nothing(self, pair: Any, redis: Redis) -> None:
        (here, ours), _ = pair
        for message in (b"", b"garbage", b"[]", b'["[]", null, 1]', b'[7, 1, "x"]', b"null", b"[[1], 2, 3]"):
            await redis.publish("sidecars:revoked:list", message)
        await ours.credential_admin.revoke_tokens("jti", "1")
        assert ours._subscriber is not None
        await until(lambda: verdict(here, ours, self.token(jti="1")) == RefusalReason.REVOKED)
        assert ours._subscriber.connected

    def test_without_redis_it_is_a_configuration_error(self, harness: CredentialsHarness) -> None:
        with pytest.raises(ConfigError, match="revocations"):
            harness.credentials(self.block(harness))
