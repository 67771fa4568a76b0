"""The key set at a URL: when it is fetched, who waits, and what serves when it is away."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from authz.credentials import Credentials
from authz.credentials.core.http import FetchError
from authz.request.identity import Authentication, Identity, Refusal, RefusalReason
from tests.support.credentials import World
from tests.support.signing import (
    AUDIENCE,
    ISSUER,
    NOW,
    bearer,
    jwk,
    key_set,
    private_key,
    rsa_key,
    token,
)
from tests.support.waiting import until

Start = Callable[[Credentials], Any]

OLD, NEW = private_key("ES256"), private_key("ES384")


def block(**jwks: Any) -> dict[str, Any]:
    issuer = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "algorithms": ["ES256", "ES384", "RS256"],
        "jwks": {"url": "https://idp.example.com/keys"} | jwks,
    }
    return {"issuers": [issuer], "lookup_timeout_seconds": 5}


@pytest.fixture
def world(world: World) -> World:
    world.key_server.document = key_set(jwk(OLD, "old"))
    return world


def reason(outcome: Authentication) -> RefusalReason | None:
    return outcome.reason if isinstance(outcome, Refusal) else None


def old_token(**changes: Any) -> str:
    return token(key=OLD, kid="old", **changes)


def new_token() -> str:
    return token("ES384", key=NEW, kid="new")


def fetches(world: World, outcome: str) -> float:
    return world.metric("authz_key_set_fetches_total", issuer=ISSUER, outcome=outcome)


class TestServing:
    async def test_a_known_key_is_answered_without_waiting(self, world: World, started: Start) -> None:
        credentials = await started(world.credentials(block()))
        assert isinstance(world.outcome(credentials, bearer(old_token())), Identity)
        assert world.key_server.calls == 1

    async def test_a_request_waits_for_the_first_fetch_on_its_way(
        self, world: World, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.001)
        world.key_server.gate.clear()
        credentials = await started(world.credentials(block()))
        waiting = [asyncio.ensure_future(world.awaited(credentials, bearer(old_token()))) for _ in range(50)]
        await asyncio.sleep(0)
        world.key_server.gate.set()
        assert all(isinstance(outcome, Identity) for outcome in await asyncio.gather(*waiting))
        assert world.key_server.calls == 1

    async def test_a_request_waits_no_longer_than_configured(
        self, world: World, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.001)
        world.key_server.gate.clear()
        credentials = await started(world.credentials(block() | {"lookup_timeout_seconds": 0.01}))
        outcome = await world.awaited(credentials, bearer(old_token()))
        assert reason(outcome) == RefusalReason.KEYS_UNAVAILABLE

    async def test_a_waiter_that_gives_up_does_not_end_the_fetch(
        self, world: World, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.001)
        world.key_server.gate.clear()
        credentials = await started(world.credentials(block()))
        gone = asyncio.ensure_future(world.awaited(credentials, bearer(old_token())))
        await asyncio.sleep(0)
        gone.cancel()
        stays = asyncio.ensure_future(world.awaited(credentials, bearer(old_token())))
        await asyncio.sleep(0)
        world.key_server.gate.set()
        assert isinstance(await stays, Identity)


class TestRotation:
    async def test_gateway_6520_a_new_kid_is_fetched_at_once(self, world: World, started: Start) -> None:
        credentials = await started(world.credentials(block()))
        world.key_server.document = key_set(jwk(OLD, "old"), jwk(NEW, "new"))
        world.clock.advance(31)
        assert isinstance(await world.awaited(credentials, bearer(new_token())), Identity)
        assert world.key_server.calls == 2

    async def test_what_a_withdrawn_key_has_proven_is_void(self, world: World, started: Start) -> None:
        credentials = await started(world.credentials(block()))
        text = old_token()
        assert isinstance(world.outcome(credentials, bearer(text)), Identity)
        world.key_server.document = key_set(jwk(NEW, "new"))
        assert isinstance(await world.awaited(credentials, bearer(new_token())), Identity)
        world.clock.advance(31)
        assert reason(await world.awaited(credentials, bearer(text))) == RefusalReason.KEY_RETIRED

    async def test_a_key_that_comes_back_serves_again(self, world: World, started: Start) -> None:
        """One of several servers behind a name may be late to know it."""
        credentials = await started(world.credentials(block()))
        world.key_server.document = key_set(jwk(NEW, "new"))
        await world.awaited(credentials, bearer(new_token()))
        world.key_server.document = key_set(jwk(NEW, "new"), jwk(OLD, "old"))
        world.clock.advance(31)
        assert isinstance(await world.awaited(credentials, bearer(old_token())), Identity)

    async def test_a_kid_is_fetched_at_once_also_right_after_a_scheduled_fetch(
        self, world: World, started: Start
    ) -> None:
        """The cool-down is between fetches that key ids ask for: a rotation may follow any other at once."""
        credentials = await started(world.credentials(block()))
        world.key_server.document = key_set(jwk(OLD, "old"), jwk(NEW, "new"))
        assert isinstance(await world.awaited(credentials, bearer(new_token())), Identity)
        assert world.key_server.calls == 2

    async def test_what_a_remaining_key_has_proven_stays(self, world: World, started: Start) -> None:
        credentials = await started(world.credentials(block()))
        text = old_token()
        world.outcome(credentials, bearer(text))
        world.key_server.document = key_set(jwk(NEW, "new"), jwk(OLD, "old"))
        world.clock.advance(31)
        await world.awaited(credentials, bearer(new_token()))
        world.outcome(credentials, bearer(text))
        assert world.metric("authz_identity_cache_lookups_total", result="hit") == 1

    async def test_the_set_is_fetched_again_before_it_is_old(self, world: World, started: Start) -> None:
        """With the smallest jitter: refresh_seconds; with the largest: four fifths of it."""
        await started(world.credentials(block(refresh_seconds=0.02)))
        for _ in range(3):
            world.clock.advance(0.02)
            await world.next_fetch()


class TestUnknownKeyIds:
    async def test_cve_2026_48524_unknown_kids_do_not_hammer_the_issuer(
        self, world: World, started: Start
    ) -> None:
        """PyJWT asked the URL once for every token with an unknown kid."""
        credentials = await started(world.credentials(block()))
        reasons = []
        for number in range(200):
            outcome = await world.awaited(credentials, bearer(token(key=OLD, kid=f"bogus-{number}")))
            reasons.append(reason(outcome))
        assert reasons == [RefusalReason.KEY_UNKNOWN, *[RefusalReason.KEYS_UNAVAILABLE] * 199]
        assert world.key_server.calls == 2

    async def test_the_fetch_that_the_cool_down_put_off_begins_another(
        self, world: World, started: Start
    ) -> None:
        credentials = await started(world.credentials(block()))
        for number in range(2):
            await world.awaited(credentials, bearer(token(key=OLD, kid=f"bogus-{number}")))
        world.clock.advance(30)
        (source,) = credentials._serving.remote_keys()
        source._wake.set()
        await world.next_fetch()
        await source.ready()
        outcome = world.outcome(credentials, bearer(token(key=OLD, kid="bogus-2")))
        assert (reason(outcome), world.key_server.calls) == (RefusalReason.KEYS_UNAVAILABLE, 3)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"iat": NOW - 2000, "exp": NOW - 1000}, RefusalReason.TOKEN_EXPIRED),
            ({"nbf": NOW + 9000}, RefusalReason.TOKEN_NOT_YET_VALID),
            ({"aud": "other"}, RefusalReason.AUDIENCE_MISMATCH),
            ({"sub": None}, RefusalReason.CLAIM_MISSING),
        ],
    )
    async def test_what_no_key_would_make_good_causes_no_fetch(
        self, world: World, started: Start, changes: dict[str, Any], expected: RefusalReason
    ) -> None:
        """Never a fetch on the path of a request that could be answered without."""
        credentials = await started(world.credentials(block()))
        outcome = world.outcome(credentials, bearer(token(key=OLD, kid="bogus", **changes)))
        assert (reason(outcome), world.key_server.calls) == (expected, 1)

    async def test_nor_does_it_wait_for_one_that_is_on_its_way(
        self, world: World, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.001)
        world.key_server.gate.clear()
        credentials = await started(world.credentials(block()))
        outcome = world.outcome(credentials, bearer(old_token(iat=NOW - 2000, exp=NOW - 1000)))
        assert reason(outcome) == RefusalReason.TOKEN_EXPIRED

    async def test_a_kid_that_a_fetch_did_not_bring_asks_for_no_other(
        self, world: World, started: Start
    ) -> None:
        credentials = await started(world.credentials(block()))
        bogus = bearer(token(key=OLD, kid="bogus"))
        world.clock.advance(31)
        await world.awaited(credentials, bogus)
        world.clock.advance(31)
        assert reason(world.outcome(credentials, bogus)) == RefusalReason.KEY_UNKNOWN
        assert world.key_server.calls == 2

    async def test_cve_2026_48524_a_failed_fetch_keeps_the_good_keys(
        self, world: World, started: Start
    ) -> None:
        credentials = await started(world.credentials(block()))
        world.key_server.document = FetchError("connection refused")
        world.clock.advance(31)
        outcome = await world.awaited(credentials, bearer(token(key=OLD, kid="bogus")))
        assert reason(outcome) == RefusalReason.KEYS_UNAVAILABLE
        assert isinstance(world.outcome(credentials, bearer(old_token())), Identity)

    async def test_a_kid_that_came_in_the_cool_down_is_fetched_after_it(
        self, world: World, started: Start
    ) -> None:
        """The first refusal schedules the fetch, so no second request is needed."""
        credentials = await started(world.credentials(block(cooldown_seconds=0.05)))
        await world.awaited(credentials, bearer(token(key=OLD, kid="bogus")))
        world.key_server.document = key_set(jwk(NEW, "new"))
        assert reason(world.outcome(credentials, bearer(new_token()))) == RefusalReason.KEYS_UNAVAILABLE
        world.clock.advance(0.05)
        await until(lambda: world.key_server.calls == 3)
        await until(lambda: isinstance(world.outcome(credentials, bearer(new_token())), Identity))

    async def test_a_fetch_that_had_begun_before_decides_nothing_about_a_kid(
        self, world: World, started: Start
    ) -> None:
        """The server may have answered before the key was in use: another fetch is asked for."""
        credentials = await started(world.credentials(block()))
        before = key_set(jwk(OLD, "old"))

        async def late(_: Any) -> bytes:
            world.key_server.calls += 1
            await world.key_server.gate.wait()
            return before

        (source,) = credentials._serving.remote_keys()
        world.key_server.gate.clear()
        object.__setattr__(source.dependencies, "fetch", late)
        first = asyncio.ensure_future(world.awaited(credentials, bearer(token(key=OLD, kid="made-up"))))
        await until(lambda: world.key_server.calls == 2)
        second = asyncio.ensure_future(world.awaited(credentials, bearer(new_token())))
        await asyncio.sleep(0)
        world.key_server.gate.set()
        assert reason(await first) == RefusalReason.KEY_UNKNOWN
        assert reason(await second) == RefusalReason.KEYS_UNAVAILABLE
        before = key_set(jwk(OLD, "old"), jwk(NEW, "new"))
        world.clock.advance(30)
        assert isinstance(await world.awaited(credentials, bearer(new_token())), Identity)
        assert world.key_server.calls == 3

    async def test_nor_does_the_first_one(
        self, world: World, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.001)
        world.key_server.gate.clear()
        credentials = await started(world.credentials(block()))
        await until(lambda: world.key_server.calls == 1)
        waits = asyncio.ensure_future(world.awaited(credentials, bearer(new_token())))
        await asyncio.sleep(0)
        world.key_server.gate.set()
        assert reason(await waits) == RefusalReason.KEYS_UNAVAILABLE
        world.key_server.document = key_set(jwk(OLD, "old"), jwk(NEW, "new"))
        world.clock.advance(31)
        assert isinstance(await world.awaited(credentials, bearer(new_token())), Identity)

    async def test_what_no_key_would_make_good_is_not_remembered(self, world: World, started: Start) -> None:
        """It cost nothing, and would push out what did."""
        credentials = await started(world.credentials(block()))
        for number in range(5):
            expired = token(key=OLD, kid=f"bogus-{number}", iat=NOW - 2000, exp=NOW - 1000)
            assert reason(world.outcome(credentials, bearer(expired))) == RefusalReason.TOKEN_EXPIRED
        assert len(credentials._serving.tokens._failed) == 0

    async def test_a_token_without_kid_asks_for_no_fetch(self, world: World, started: Start) -> None:
        credentials = await started(world.credentials(block()))
        world.clock.advance(31)
        outcome = world.outcome(credentials, bearer(token("RS256", key=rsa_key(2048), kid=None)))
        assert reason(outcome) == RefusalReason.KEY_UNKNOWN


class TestAway:
    @pytest.mark.parametrize("answer", [FetchError("connection refused"), b"<html>", OSError("boom")])
    async def test_away_at_start_denies_without_waiting(
        self, world: World, started: Start, answer: Any
    ) -> None:
        world.key_server.document = answer
        credentials = await started(world.credentials(block()))
        outcome = world.outcome(credentials, bearer(old_token()))
        assert reason(outcome) == RefusalReason.KEYS_UNAVAILABLE

    async def test_it_recovers_by_itself(self, world: World, started: Start) -> None:
        good = world.key_server.document
        world.key_server.document = FetchError("connection refused")
        credentials = await started(world.credentials(block(refresh_seconds=0.01)))
        world.key_server.document = good
        world.clock.advance(1)
        await until(lambda: fetches(world, "ok") >= 1)
        assert isinstance(world.outcome(credentials, bearer(old_token())), Identity)

    @pytest.mark.parametrize(
        ("answer", "outcome"),
        [
            (FetchError("connection refused"), "unreachable"),
            (b"<html>", "invalid"),
            (b'{"keys":[]}', "invalid"),
        ],
    )
    async def test_the_last_good_set_serves_to_its_stated_age(
        self, world: World, started: Start, answer: Any, outcome: str
    ) -> None:
        credentials = await started(world.credentials(block(refresh_seconds=0.01, max_stale_seconds=60)))
        text = old_token()
        world.key_server.document = answer
        world.clock.advance(1)
        await until(lambda: fetches(world, outcome) >= 1)
        world.clock.advance(58)
        assert isinstance(world.outcome(credentials, bearer(text)), Identity)

    async def test_cve_2026_31837_a_key_past_its_stated_age_is_not_used(
        self, world: World, started: Start
    ) -> None:
        credentials = await started(world.credentials(block(refresh_seconds=60, max_stale_seconds=60)))
        world.key_server.document = FetchError("connection refused")
        world.key_server.gate.clear()
        await credentials.stop()
        world.clock.advance(61)
        outcome = world.outcome(credentials, bearer(old_token()))
        assert reason(outcome) == RefusalReason.KEYS_UNAVAILABLE

    async def test_gateway_6525_failures_wait_longer_each_time(self, world: World, started: Start) -> None:
        world.key_server.document = FetchError("connection refused")
        credentials = await started(world.credentials(block(refresh_seconds=3600)))
        (source,) = credentials._serving.remote_keys()
        waits = []
        for _ in range(8):
            waits.append(source._due_at - world.clock.monotonic())
            world.clock.advance(waits[-1])
            source._wake.set()
            await world.next_fetch()
            await source.ready()
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]

    async def test_a_document_of_refused_keys_shows_in_the_state(self, world: World, started: Start) -> None:
        world.key_server.document = key_set(jwk(OLD, "old"), jwk(rsa_key(1024), "weak"))
        credentials = await started(world.credentials(block()))
        (issuer,) = credentials.describe()["issuers"]
        assert issuer["key_set"]["keys"] == ["old"]
        assert "1024 bits" in issuer["key_set"]["refused_keys"][0]


async def test_the_metrics_show_the_number_of_keys_and_their_age(world: World, started: Start) -> None:
    await started(world.credentials(block()))
    world.clock.advance(7)
    assert world.metric("authz_key_set_keys", issuer=ISSUER) == 1
    assert world.metric("authz_key_set_age_seconds", issuer=ISSUER) == 7
    assert fetches(world, "ok") == 1
