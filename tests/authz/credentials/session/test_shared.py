"""Sessions kept alive by use, remembered, listed, and revoked on every sidecar at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from authz.credentials import Credentials
from authz.credentials.session.verifier import MAX_RENEWALS
from authz.request.identity import Identity, RefusalReason
from tests.support.credentials import CredentialsHarness, reason_of, sessions_of
from tests.support.signing import NOW, request
from tests.support.waiting import until

Start = Callable[[Credentials], Awaitable[Credentials]]


def cookie(token: str) -> Any:
    return request(("cookie", f"session={token}"))


class TestSliding:
    """On both stores."""

    @pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
    def credentials(self, harness: CredentialsHarness, request: pytest.FixtureRequest) -> Credentials:
        if request.param == "redis":
            harness.redis = request.getfixturevalue("redis")
        sessions = {
            "store": request.param,
            "idle_timeout_seconds": 60,
            "absolute_timeout_seconds": 200,
            "cache_ttl_seconds": 1,
        }
        return harness.credentials({"sessions": sessions, "lookup_timeout_seconds": 5})

    async def test_use_keeps_a_session_alive(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        token = await sessions_of(credentials).create("alice", NOW)
        for _ in range(4):
            harness.clock.advance(45)
            assert isinstance(await harness.awaited(credentials, cookie(token)), Identity)
            await sessions_of(credentials).flush()

    async def test_not_beyond_its_end(self, harness: CredentialsHarness, credentials: Credentials) -> None:
        token = await sessions_of(credentials).create("alice", NOW)
        for _ in range(4):
            harness.clock.advance(45)
            await harness.awaited(credentials, cookie(token))
            await sessions_of(credentials).flush()
        harness.clock.advance(20)
        outcome = await harness.awaited(credentials, cookie(token))
        assert reason_of(outcome) in {RefusalReason.SESSION_EXPIRED, RefusalReason.SESSION_UNKNOWN}

    async def test_a_use_counts_before_it_is_written(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        token = await sessions_of(credentials).create("alice", NOW)
        for _ in range(3):
            harness.clock.advance(45)
            assert isinstance(await harness.awaited(credentials, cookie(token)), Identity)

    async def test_uses_close_to_each_other_are_one_write(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        token = await sessions_of(credentials).create("alice", NOW)
        for _ in range(50):
            harness.clock.advance(0.1)
            await harness.awaited(credentials, cookie(token))
        assert len(sessions_of(credentials)._renewals) == 0
        harness.clock.advance(2)
        for _ in range(5):
            await harness.awaited(credentials, cookie(token))
        assert len(sessions_of(credentials)._renewals) == 1

    async def test_a_renewal_does_not_bring_back_what_was_revoked(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        sessions = sessions_of(credentials)
        token = await sessions.create("alice", NOW)
        harness.clock.advance(30)
        await harness.awaited(credentials, cookie(token))
        (key, renewed) = next(iter(sessions._renewals.items()))
        await sessions.revoke(token)
        await sessions.store.renew({key: renewed}, harness.clock.wall_seconds)
        assert await sessions.store.read([key]) == []

    async def test_renewals_that_wait_have_a_bound(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        sessions = sessions_of(credentials)
        token = await sessions.create("alice", NOW)
        filler = (await sessions.store.read([next(iter(await sessions.store.keys(None)))]))[0][1]
        sessions._renewals = {str(number): filler for number in range(MAX_RENEWALS)}
        harness.clock.advance(30)
        assert isinstance(await harness.awaited(credentials, cookie(token)), Identity)
        assert len(sessions._renewals) == MAX_RENEWALS
        assert harness.metric("authz_session_renewals_lost_total") == 1

    async def test_stopping_writes_what_waits(
        self, harness: CredentialsHarness, credentials: Credentials, started: Start
    ) -> None:
        await started(credentials)
        token = await sessions_of(credentials).create("alice", NOW)
        harness.clock.advance(30)
        await harness.awaited(credentials, cookie(token))
        await credentials.stop()
        (_, kept) = (await sessions_of(credentials).find(None, 1))[0]
        assert kept.idle_until == NOW + 90

    async def test_it_is_written_after_the_answer(
        self, harness: CredentialsHarness, credentials: Credentials, started: Start
    ) -> None:
        await started(credentials)
        token = await sessions_of(credentials).create("alice", NOW)
        harness.clock.advance(30)
        await harness.awaited(credentials, cookie(token))
        assert harness.metric("authz_session_renewals_total") == 0
        await until(lambda: harness.metric("authz_session_renewals_total") == 1)


class TestDesk:
    @pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
    def credentials(self, harness: CredentialsHarness, request: pytest.FixtureRequest) -> Credentials:
        if request.param == "redis":
            harness.redis = request.getfixturevalue("redis")
        sessions = {"store": request.param}
        return harness.credentials({"sessions": sessions, "lookup_timeout_seconds": 5})

    async def test_sessions_are_listed_by_subject(self, credentials: Credentials) -> None:
        credential_admin = credentials.credential_admin
        for subject in ("alice", "bob", "alice"):
            await credential_admin.create_session(subject, ["read"], [], {"email": "x"})
        assert [found["subject"] for found in await credential_admin.list_sessions("alice")] == [
            "alice",
            "alice",
        ]
        assert len(await credential_admin.list_sessions(None)) == 3
        assert len(await credential_admin.list_sessions(None, 2)) == 2
        assert await credential_admin.list_sessions("unknown") == []

    async def test_a_session_is_shown_by_token_and_by_id(self, credentials: Credentials) -> None:
        made = await credentials.credential_admin.create_session("alice", ["read"], ["staff"], {"email": "x"})
        by_token = await credentials.credential_admin.show_session(made["token"])
        assert by_token is not None
        assert by_token == await credentials.credential_admin.show_session(made["id"])
        assert (by_token["subject"], by_token["roles"], by_token["claims"]) == (
            "alice",
            ["staff"],
            {"email": "x"},
        )
        assert await credentials.credential_admin.show_session("x" * 43) is None

    @pytest.mark.parametrize("target", ["token", "id"])
    async def test_one_is_revoked(
        self, harness: CredentialsHarness, credentials: Credentials, target: str
    ) -> None:
        made = await credentials.credential_admin.create_session("alice", [], [], {})
        await harness.awaited(credentials, cookie(made["token"]))
        assert await credentials.credential_admin.revoke_sessions(target, made[target]) == 1
        assert reason_of(await harness.awaited(credentials, cookie(made["token"]))) == RefusalReason.REVOKED
        assert await credentials.credential_admin.revoke_sessions(target, made[target]) == 0

    async def test_all_of_a_subject_are_revoked(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        made = [
            await credentials.credential_admin.create_session(name, [], [], {})
            for name in ("alice", "bob", "alice")
        ]
        assert await credentials.credential_admin.revoke_sessions("subject", "alice") == 2
        found = [await harness.awaited(credentials, cookie(one["token"])) for one in made]
        assert [isinstance(one, Identity) for one in found] == [False, True, False]

    async def test_all_before_a_time_are_revoked(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        old = await credentials.credential_admin.create_session("alice", [], [], {})
        harness.clock.advance(10)
        new = await credentials.credential_admin.create_session("alice", [], [], {})
        assert await credentials.credential_admin.revoke_sessions("before", NOW + 10) == 1
        assert reason_of(await harness.awaited(credentials, cookie(old["token"]))) == RefusalReason.REVOKED
        assert isinstance(await harness.awaited(credentials, cookie(new["token"])), Identity)

    async def test_more_than_a_batch_at_once(self, credentials: Credentials) -> None:
        for _ in range(601):
            await credentials.credential_admin.create_session("alice", [], [], {})
        assert await credentials.credential_admin.revoke_sessions("subject", "alice") == 601
        assert await credentials.credential_admin.list_sessions("alice") == []


@pytest.mark.redis
class TestTwoSidecars:
    @pytest.fixture
    async def pair(self, harness: CredentialsHarness, tmp_path: Any, redis: Redis, started: Start) -> Any:
        other = CredentialsHarness(tmp_path)
        found = []
        for one in (harness, other):
            one.redis = redis
            one.clock.wall_seconds = time.time()
            sessions = {"store": "redis", "cache_ttl_seconds": 300}
            found.append(
                (one, await started(one.credentials({"sessions": sessions, "lookup_timeout_seconds": 5})))
            )
        return found

    async def test_a_session_is_remembered_without_redis(self, pair: Any) -> None:
        (here, ours), _ = pair
        token = await sessions_of(ours).create("alice", here.clock.wall_seconds)
        first = await here.awaited(ours, cookie(token))
        assert here.outcome(ours, cookie(token)) is first

    @pytest.mark.parametrize("target", ["token", "id", "subject", "before"])
    async def test_a_revoked_session_is_refused_by_the_other_too(self, pair: Any, target: str) -> None:
        """Everywhere within a second; measured by `python -m bench authn`."""
        (here, ours), (there, theirs) = pair
        made = await ours.credential_admin.create_session("alice", [], [], {})
        for one, credentials in pair:
            assert isinstance(await one.awaited(credentials, cookie(made["token"])), Identity)
        values = {**made, "subject": "alice", "before": here.clock.wall_seconds + 1}
        assert await ours.credential_admin.revoke_sessions(target, values[target]) == 1
        await until(lambda: not isinstance(there.outcome(theirs, cookie(made["token"])), Identity))
        assert reason_of(there.outcome(theirs, cookie(made["token"]))) == RefusalReason.REVOKED

    async def test_a_revocation_that_overtakes_an_answer_wins(self, pair: Any) -> None:
        """Redis has answered the look-up, then the session is revoked, then the answer is read."""
        (here, ours), _ = pair
        sessions = sessions_of(ours)
        token = await sessions.create("alice", here.clock.wall_seconds)
        original = sessions.store.get

        async def slow(key: str) -> Any:
            found = await original(key)  # type: ignore[misc]
            await sessions.revoke(token)
            return found

        sessions.store.get = slow  # type: ignore[method-assign]
        assert reason_of(await here.awaited(ours, cookie(token))) == RefusalReason.REVOKED

    async def test_a_deletion_that_redis_lost_does_not_bring_a_session_back(
        self, pair: Any, redis: Redis
    ) -> None:
        """A replica that takes over may lack the last writes."""
        (here, ours), _ = pair
        made = await ours.credential_admin.create_session("alice", [], [], {})
        value = await redis.get(f"sidecars:session:{made['id']}")
        await ours.credential_admin.revoke_sessions("token", made["token"])
        await redis.set(f"sidecars:session:{made['id']}", value or b"")
        assert reason_of(await here.awaited(ours, cookie(made["token"]))) == RefusalReason.REVOKED

    async def test_a_message_lost_while_the_feed_was_away_is_made_up_for(
        self, pair: Any, redis: Redis
    ) -> None:
        (_, ours), (there, theirs) = pair
        made = await ours.credential_admin.create_session("alice", [], [], {})
        assert isinstance(await there.awaited(theirs, cookie(made["token"])), Identity)
        await theirs._subscriber.stop()
        await ours.credential_admin.revoke_sessions("token", made["token"])
        theirs._subscriber.start()
        await until(lambda: theirs._subscriber.connected)
        found = await there.awaited(theirs, cookie(made["token"]))
        assert reason_of(found) == RefusalReason.SESSION_EXPIRED

    async def test_a_connection_that_is_cut_comes_back(self, pair: Any, redis: Redis) -> None:
        _, (there, _theirs) = pair
        await redis.client_kill_filter(_type="pubsub")
        await until(lambda: there.metric("authz_revocation_subscription_interruptions_total") >= 1)
        await until(lambda: there.metric("authz_revocation_subscription_connected") == 1)

    @pytest.mark.parametrize("message", [b"", b"garbage", b"{}", b"[7]", b'["zz"]', b"null"])
    async def test_garbage_on_the_channel_changes_nothing(
        self, pair: Any, redis: Redis, message: bytes
    ) -> None:
        (_, ours), (there, theirs) = pair
        made = await ours.credential_admin.create_session("alice", [], [], {})
        await there.awaited(theirs, cookie(made["token"]))
        await redis.publish("sidecars:session:revoked", message)
        await ours.credential_admin.revoke_sessions("token", made["token"])
        await until(lambda: not isinstance(there.outcome(theirs, cookie(made["token"])), Identity))
        assert theirs._subscriber.interruptions == 0

    async def test_a_use_that_is_not_written_yet_brings_back_no_revoked_session(
        self, harness: CredentialsHarness, redis: Redis, started: Start, tmp_path: Any
    ) -> None:
        """While messages do not arrive: asked again, Redis says that it has ended, and that counts."""
        block = {
            "sessions": {"store": "redis", "idle_timeout_seconds": 60, "cache_ttl_seconds": 10},
            "lookup_timeout_seconds": 5,
        }
        other = CredentialsHarness(tmp_path)
        harness.redis = other.redis = redis
        here, there = harness.credentials(block), other.credentials(block)
        text = await sessions_of(here).create("alice", NOW)
        assert isinstance(await harness.awaited(here, cookie(text)), Identity)
        await sessions_of(there).revoke(text)
        harness.clock.advance(9.8)
        assert isinstance(await harness.awaited(here, cookie(text)), Identity), "the stated age of the cache"
        assert len(sessions_of(here)._renewals) == 1
        harness.clock.advance(0.3)
        assert reason_of(await harness.awaited(here, cookie(text))) == RefusalReason.SESSION_EXPIRED
        await sessions_of(here).flush()
        assert reason_of(await harness.awaited(here, cookie(text))) == RefusalReason.SESSION_EXPIRED

    async def test_a_caller_whose_session_has_ended_is_not_throttled(
        self, harness: CredentialsHarness, redis: Redis, started: Start
    ) -> None:
        """On a Monday a whole office comes back with old cookies: that is not an attack from its address."""

        def at_home(text: str) -> Any:
            return request(("cookie", f"session={text}"), address="192.0.2.1")

        harness.redis = redis
        harness.clock.wall_seconds = time.time()
        block = {
            "sessions": {"store": "redis", "idle_timeout_seconds": 0.2, "absolute_timeout_seconds": 3600},
            "throttle": {"address_failures": 3},
            "lookup_timeout_seconds": 5,
        }
        credentials = await started(harness.credentials(block))
        sessions = sessions_of(credentials)
        old = [await sessions.create("alice", harness.clock.wall_seconds) for _ in range(5)]
        revoked = await sessions.create("alice", harness.clock.wall_seconds)
        assert isinstance(await harness.awaited(credentials, at_home(old[0])), Identity)
        await redis.delete(*[key async for key in redis.scan_iter("sidecars:session:" + "[0-9a-f]" * 64)])
        harness.clock.advance(1)
        for text in (*old, revoked):
            assert (
                reason_of(await harness.awaited(credentials, at_home(text))) == RefusalReason.SESSION_EXPIRED
            )
            assert reason_of(harness.outcome(credentials, at_home(text))) == RefusalReason.SESSION_EXPIRED
        names = [key async for key in redis.scan_iter("sidecars:session:ended:*")]
        assert all([86_000 < await redis.ttl(name) <= 86_401 for name in names])
        assert len(names) == 6
        new = await sessions.create("alice", harness.clock.wall_seconds)
        assert isinstance(await harness.awaited(credentials, at_home(new)), Identity)
        for number in range(3):
            guess = str(number) * 43
            assert (
                reason_of(await harness.awaited(credentials, at_home(guess))) == RefusalReason.SESSION_UNKNOWN
            )
        assert reason_of(await harness.awaited(credentials, at_home("x" * 43))) == RefusalReason.THROTTLED

    async def test_a_renewal_keeps_that_knowledge_alive(
        self, harness: CredentialsHarness, redis: Redis, started: Start
    ) -> None:
        harness.redis = redis
        sessions_block = {
            "store": "redis",
            "idle_timeout_seconds": 60,
            "absolute_timeout_seconds": 3600,
            "ended_retention_seconds": 100,
        }
        credentials = await started(
            harness.credentials({"sessions": sessions_block, "lookup_timeout_seconds": 5})
        )
        text = await sessions_of(credentials).create("alice", NOW)
        (name,) = [key async for key in redis.scan_iter("sidecars:session:ended:*")]
        await redis.expire(name, 1)
        harness.clock.advance(30)
        await harness.awaited(credentials, cookie(text))
        await sessions_of(credentials).flush()
        assert 150 < await redis.ttl(name) <= 160

    async def test_an_unknown_token_is_asked_about_once_in_a_while(self, pair: Any) -> None:
        (here, ours), _ = pair
        text = "x" * 43
        assert reason_of(await here.awaited(ours, cookie(text))) == RefusalReason.SESSION_UNKNOWN
        assert reason_of(here.outcome(ours, cookie(text))) == RefusalReason.SESSION_UNKNOWN
        here.clock.advance(10)
        pending = ours.authenticate(cookie(text), here.clock.wall_seconds)
        assert asyncio.iscoroutine(pending)
        await pending

    async def test_what_is_remembered_has_a_bound(
        self, harness: CredentialsHarness, redis: Redis, started: Start
    ) -> None:
        harness.redis = redis
        sessions = {"store": "redis", "cache_max_entries": 2}
        credentials = await started(harness.credentials({"sessions": sessions, "lookup_timeout_seconds": 5}))
        for _ in range(5):
            token = await sessions_of(credentials).create("alice", NOW)
            await harness.awaited(credentials, cookie(token))
        assert harness.metric("authz_cache_entries", cache="sessions") == 2
