"""The key set at a URL: when it is fetched, who waits, and what serves when it is away."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from authz.credentials import Credentials
from authz.credentials.core.http import FetchError
from authz.request.identity import Authentication, Identity, Refusal, RefusalReason
from tests.support.credentials import CredentialsHarness
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
def harness(harness: CredentialsHarness) -> CredentialsHarness:
    harness.key_server.document = key_set(jwk(OLD, "old"))
    return harness


def reason(outcome: Authentication) -> RefusalReason | None:
    return outcome.reason if isinstance(outcome, Refusal) else None


def old_token(**changes: Any) -> str:
    return token(key=OLD, kid="old", **changes)


def new_token() -> str:
    return token("ES384", key=NEW, kid="new")


def fetches(harness: CredentialsHarness, outcome: str) -> float:
    return harness.metric("authz_key_set_fetches_total", issuer=ISSUER, outcome=outcome)


class TestServing:
    async def test_a_known_key_is_answered_without_waiting(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        credentials = await started(harness.credentials(block()))
        assert isinstance(harness.outcome(credentials, bearer(old_token())), Identity)
        assert harness.key_server.calls == 1

    async def test_a_request_waits_for_the_first_fetch_on_its_way(
        self, harness: CredentialsHarness, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.001)
        harness.key_server.gate.clear()
        credentials = await started(harness.credentials(block()))
        waiting = [
            asyncio.ensure_future(harness.awaited(credentials, bearer(old_token()))) for _ in range(50)
        ]
        await asyncio.sleep(0)
        harness.key_server.gate.set()
        assert all(isinstance(outcome, Identity) for outcome in await asyncio.gather(*waiting))
        assert harness.key_server.calls == 1

    async def test_a_request_waits_no_longer_than_configured(
        self, harness: CredentialsHarness, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.001)
        harness.key_server.gate.clear()
        credentials = await started(harness.credentials(block() | {"lookup_timeout_seconds": 0.01}))
        outcome = await harness.awaited(credentials, bearer(old_token()))
        assert reason(outcome) == RefusalReason.KEYS_UNAVAILABLE

    async def test_a_waiter_that_gives_up_does_not_end_the_fetch(
        self, harness: CredentialsHarness, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.001)
        harness.key_server.gate.clear()
        credentials = await started(harness.credentials(block()))
        gone = asyncio.ensure_future(harness.awaited(credentials, bearer(old_token())))
        await asyncio.sleep(0)
        gone.cancel()
        stays = asyncio.ensure_future(harness.awaited(credentials, bearer(old_token())))
        await asyncio.sleep(0)
        harness.key_server.gate.set()
        assert isinstance(await stays, Identity)


class TestRotation:
    async def test_gateway_6520_a_new_kid_is_fetched_at_once(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        credentials = await started(harness.credentials(block()))
        harness.key_server.document = key_set(jwk(OLD, "old"), jwk(NEW, "new"))
        harness.clock.advance(31)
        assert isinstance(await harness.awaited(credentials, bearer(new_token())), Identity)
        assert harness.key_server.calls == 2

    async def test_what_a_withdrawn_key_has_proven_is_void(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        credentials = await started(harness.credentials(block()))
        text = old_token()
        assert isinstance(harness.outcome(credentials, bearer(text)), Identity)
        harness.key_server.document = key_set(jwk(NEW, "new"))
        assert isinstance(await harness.awaited(credentials, bearer(new_token())), Identity)
        harness.clock.advance(31)
        assert reason(await harness.awaited(credentials, bearer(text))) == RefusalReason.KEY_RETIRED

    async def test_a_key_that_comes_back_serves_again(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        """One of several servers behind a name may be late to know it."""
        credentials = await started(harness.credentials(block()))
        harness.key_server.document = key_set(jwk(NEW, "new"))
        await harness.awaited(credentials, bearer(new_token()))
        harness.key_server.document = key_set(jwk(NEW, "new"), jwk(OLD, "old"))
        harness.clock.advance(31)
        assert isinstance(await harness.awaited(credentials, bearer(old_token())), Identity)

    async def test_a_kid_is_fetched_at_once_also_right_after_a_scheduled_fetch(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        """The cool-down is between fetches that key ids ask for: a rotation may follow any other at once."""
        credentials = await started(harness.credentials(block()))
        harness.key_server.document = key_set(jwk(OLD, "old"), jwk(NEW, "new"))
        assert isinstance(await harness.awaited(credentials, bearer(new_token())), Identity)
        assert harness.key_server.calls == 2

    async def test_what_a_remaining_key_has_proven_stays(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        credentials = await started(harness.credentials(block()))
        text = old_token()
        harness.outcome(credentials, bearer(text))
        harness.key_server.document = key_set(jwk(NEW, "new"), jwk(OLD, "old"))
        harness.clock.advance(31)
        await harness.awaited(credentials, bearer(new_token()))
        harness.outcome(credentials, bearer(text))
        assert harness.metric("authz_identity_cache_lookups_total", result="hit") == 1

    async def test_the_set_is_fetched_again_before_it_is_old(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        """With the smallest jitter: refresh_seconds; with the largest: four fifths of it."""
        await started(harness.credentials(block(refresh_seconds=0.02)))
        for _ in range(3):
            harness.clock.advance(0.02)
            await harness.next_fetch()


class TestUnknownKeyIds:
    async def test_cve_2026_48524_unknown_kids_do_not_hammer_the_issuer(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        """PyJWT asked the URL once for every token with an unknown kid."""
        credentials = await started(harness.credentials(block()))
        reasons = []
        for number in range(200):
            outcome = await harness.awaited(credentials, bearer(token(key=OLD, kid=f"bogus-{number}")))
            reasons.append(reason(outcome))
        assert reasons == [RefusalReason.KEY_UNKNOWN, *[RefusalReason.KEYS_UNAVAILABLE] * 199]
        assert harness.key_server.calls == 2

    async def test_the_fetch_that_the_cool_down_put_off_begins_another(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        credentials = await started(harness.credentials(block()))
        for number in range(2):
            await harness.awaited(credentials, bearer(token(key=OLD, kid=f"bogus-{number}")))
        harness.clock.advance(30)
        (source,) = credentials._serving.remote_keys()
        source._wake.set()
        await harness.next_fetch()
        await source.ready()
        outcome = harness.outcome(credentials, bearer(token(key=OLD, kid="bogus-2")))
        assert (reason(outcome), harness.key_server.calls) == (RefusalReason.KEYS_UNAVAILABLE, 3)

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
        self, harness: CredentialsHarness, started: Start, changes: dict[str, Any], expected: RefusalReason
    ) -> None:
        """Never a fetch on the path of a request that could be answered without."""
        credentials = await started(harness.credentials(block()))
        outcome = harness.outcome(credentials, bearer(token(key=OLD, kid="bogus", **changes)))
        assert (reason(outcome), harness.key_server.calls) == (expected, 1)

    async def test_nor_does_it_wait_for_one_that_is_on_its_way(
        self, harness: CredentialsHarness, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.001)
        harness.key_server.gate.clear()
        credentials = await started(harness.credentials(block()))
        outcome = harness.outcome(credentials, bearer(old_token(iat=NOW - 2000, exp=NOW - 1000)))
        assert reason(outcome) == RefusalReason.TOKEN_EXPIRED

    async def test_a_kid_that_a_fetch_did_not_bring_asks_for_no_other(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        credentials = await started(harness.credentials(block()))
        bogus = bearer(token(key=OLD, kid="bogus"))
        harness.clock.advance(31)
        await harness.awaited(credentials, bogus)
        harness.clock.advance(31)
        assert reason(harness.outcome(credentials, bogus)) == RefusalReason.KEY_UNKNOWN
        assert harness.key_server.calls == 2

    async def test_cve_2026_48524_a_failed_fetch_keeps_the_good_keys(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        credentials = await started(harness.credentials(block()))
        harness.key_server.document = FetchError("connection refused")
        harness.clock.advance(31)
        outcome = await harness.awaited(credentials, bearer(token(key=OLD, kid="bogus")))
        assert reason(outcome) == RefusalReason.KEYS_UNAVAILABLE
        assert isinstance(harness.outcome(credentials, bearer(old_token())), Identity)

    async def test_a_kid_that_came_in_the_cool_down_is_fetched_after_it(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        """The first refusal schedules the fetch, so no second request is needed."""
        credentials = await started(harness.credentials(block(cooldown_seconds=0.05)))
        await harness.awaited(credentials, bearer(token(key=OLD, kid="bogus")))
        harness.key_server.document = key_set(jwk(NEW, "new"))
        assert reason(harness.outcome(credentials, bearer(new_token()))) == RefusalReason.KEYS_UNAVAILABLE
        harness.clock.advance(0.05)
        await until(lambda: harness.key_server.calls == 3)
        await until(lambda: isinstance(harness.outcome(credentials, bearer(new_token())), Identity))

    async def test_a_fetch_that_had_begun_before_decides_nothing_about_a_kid(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        """The server may have answered before the key was in use: another fetch is asked for."""
        credentials = await started(harness.credentials(block()))
        before = key_set(jwk(OLD, "old"))

        async def late(_: Any) -> bytes:
            harness.key_server.calls += 1
            await harness.key_server.gate.wait()
            return before

        (source,) = credentials._serving.remote_keys()
        harness.key_server.gate.clear()
        object.__setattr__(source.dependencies, "fetch", late)
        first = asyncio.ensure_future(harness.awaited(credentials, bearer(token(key=OLD, kid="made-up"))))
        await until(lambda: harness.key_server.calls == 2)
        second = asyncio.ensure_future(harness.awaited(credentials, bearer(new_token())))
        await asyncio.sleep(0)
        harness.key_server.gate.set()
        assert reason(await first) == RefusalReason.KEY_UNKNOWN
        assert reason(await second) == RefusalReason.KEYS_UNAVAILABLE
        before = key_set(jwk(OLD, "old"), jwk(NEW, "new"))
        harness.clock.advance(30)
        assert isinstance(await harness.awaited(credentials, bearer(new_token())), Identity)
        assert harness.key_server.calls == 3

    async def test_nor_does_the_first_one(
        self, harness: CredentialsHarness, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.001)
        harness.key_server.gate.clear()
        credentials = await started(harness.credentials(block()))
        await until(lambda: harness.key_server.calls == 1)
        waits = asyncio.ensure_future(harness.awaited(credentials, bearer(new_token())))
        await asyncio.sleep(0)
        harness.key_server.gate.set()
        assert reason(await waits) == RefusalReason.KEYS_UNAVAILABLE
        harness.key_server.document = key_set(jwk(OLD, "old"), jwk(NEW, "new"))
        harness.clock.advance(31)
        assert isinstance(await harness.awaited(credentials, bearer(new_token())), Identity)

    async def test_what_no_key_would_make_good_is_not_remembered(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        """It cost nothing, and would push out what did."""
        credentials = await started(harness.credentials(block()))
        for number in range(5):
            expired = token(key=OLD, kid=f"bogus-{number}", iat=NOW - 2000, exp=NOW - 1000)
            assert reason(harness.outcome(credentials, bearer(expired))) == RefusalReason.TOKEN_EXPIRED
        assert len(credentials._serving.tokens._failed) == 0

    async def test_a_token_without_kid_asks_for_no_fetch(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        credentials = await started(harness.credentials(block()))
        harness.clock.advance(31)
        outcome = harness.outcome(credentials, bearer(token("RS256", key=rsa_key(2048), kid=None)))
        assert reason(outcome) == RefusalReason.KEY_UNKNOWN


class TestAway:
    @pytest.mark.parametrize("answer", [FetchError("connection refused"), b"<html>", OSError("boom")])
    async def test_away_at_start_denies_without_waiting(
        self, harness: CredentialsHarness, started: Start, answer: Any
    ) -> None:
        harness.key_server.document = answer
        credentials = await started(harness.credentials(block()))
        outcome = harness.outcome(credentials, bearer(old_token()))
        assert reason(outcome) == RefusalReason.KEYS_UNAVAILABLE

    async def test_it_recovers_by_itself(self, harness: CredentialsHarness, started: Start) -> None:
        good = harness.key_server.document
        harness.key_server.document = FetchError("connection refused")
        credentials = await started(harness.credentials(block(refresh_seconds=0.01)))
        harness.key_server.document = good
        harness.clock.advance(1)
        await until(lambda: fetches(harness, "ok") >= 1)
        assert isinstance(harness.outcome(credentials, bearer(old_token())), Identity)

    @pytest.mark.parametrize(
        ("answer", "outcome"),
        [
            (FetchError("connection refused"), "unreachable"),
            (b"<html>", "invalid"),
            (b'{"keys":[]}', "invalid"),
        ],
    )
    async def test_the_last_good_set_serves_to_its_stated_age(
        self, harness: CredentialsHarness, started: Start, answer: Any, outcome: str
    ) -> None:
        credentials = await started(harness.credentials(block(refresh_seconds=0.01, max_stale_seconds=60)))
        text = old_token()
        harness.key_server.document = answer
        harness.clock.advance(1)
        await until(lambda: fetches(harness, outcome) >= 1)
        harness.clock.advance(58)
        assert isinstance(harness.outcome(credentials, bearer(text)), Identity)

    async def test_cve_2026_31837_a_key_past_its_stated_age_is_not_used(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        credentials = await started(harness.credentials(block(refresh_seconds=60, max_stale_seconds=60)))
        harness.key_server.document = FetchError("connection refused")
        harness.key_server.gate.clear()
        await credentials.stop()
        harness.clock.advance(61)
        outcome = harness.outcome(credentials, bearer(old_token()))
        assert reason(outcome) == RefusalReason.KEYS_UNAVAILABLE

    async def test_gateway_6525_failures_wait_longer_each_time(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        harness.key_server.document = FetchError("connection refused")
        credentials = await started(harness.credentials(block(refresh_seconds=3600)))
        (source,) = credentials._serving.remote_keys()
        waits = []
        for _ in range(8):
            waits.append(source._due_at - harness.clock.monotonic())
            harness.clock.advance(waits[-1])
            source._wake.set()
            await harness.next_fetch()
            await source.ready()
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]

    async def test_a_document_of_refused_keys_shows_in_the_state(
        self, harness: CredentialsHarness, started: Start
    ) -> None:
        harness.key_server.document = key_set(jwk(OLD, "old"), jwk(rsa_key(1024), "weak"))
        credentials = await started(harness.credentials(block()))
        (issuer,) = credentials.describe()["issuers"]
        assert issuer["key_set"]["keys"] == ["old"]
        assert "1024 bits" in issuer["key_set"]["refused_keys"][0]


async def test_the_metrics_show_the_number_of_keys_and_their_age(
    harness: CredentialsHarness, started: Start
) -> None:
    await started(harness.credentials(block()))
    harness.clock.advance(7)
    assert harness.metric("authz_key_set_keys", issuer=ISSUER) == 1
    assert harness.metric("authz_key_set_age_seconds", issuer=ISSUER) == 7
    assert fetches(harness, "ok") == 1
