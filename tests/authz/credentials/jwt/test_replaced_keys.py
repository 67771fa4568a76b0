"""An issuer that puts another key under the same id, and tokens that look the same but are bad."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from authz.credentials import Credentials
from authz.credentials.core.http import FetchError
from authz.credentials.jwt.suspicion import MAX_SUSPICIONS
from authz.credentials.throttle.throttle import MAX_SUBJECT_CHARACTERS
from authz.request.identity import Identity, RefusalReason
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.logout import CLIENT, logout_token, receive
from tests.support.signing import NOW, bearer, jwk, key_set, private_key, token
from tests.support.waiting import until

Start = Callable[[Credentials], Any]

OLD, NEW = private_key("ES256"), private_key("ES256", 1)
HOME, AWAY = "192.0.2.1", "198.51.100.7"


@pytest.fixture
def block(harness: CredentialsHarness) -> dict[str, Any]:
    harness.key_server.document = key_set(jwk(OLD, "k1"))
    issuer = harness.issuer(jwks={"url": "https://idp.example.com/keys"})
    limits = {"address_failures": 3, "subject_failures": None, "per_seconds": 60}
    return {"issuers": [issuer], "throttle": limits, "lookup_timeout_seconds": 5}


def of(key: Any, number: int = 0, kid: str | None = "k1", **changes: Any) -> str:
    return token("ES256", key=key, kid=kid, jti=str(number), **changes)


async def failed(
    harness: CredentialsHarness, credentials: Credentials, number: int, address: str = HOME
) -> RefusalReason:
    return reason_of(await harness.awaited(credentials, bearer(of(NEW, number), address)))


async def fetched_again(harness: CredentialsHarness, credentials: Credentials) -> None:
    """Returns once the fetch that the cool-down put off has ended."""
    [source] = credentials._serving.remote_keys()
    before = harness.key_server.calls
    harness.clock.advance(30)
    source._wake.set()
    await until(lambda: harness.key_server.calls > before and not source._fetching)


async def test_a_token_of_the_new_key_is_good_after_one_fetch(
    harness: CredentialsHarness, block: dict[str, Any], started: Start
) -> None:
    credentials = await started(harness.credentials(block))
    old = of(OLD)
    assert isinstance(harness.outcome(credentials, bearer(old)), Identity)
    harness.key_server.document = key_set(jwk(NEW, "k1"))
    assert isinstance(await harness.awaited(credentials, bearer(of(NEW))), Identity)
    assert harness.key_server.calls == 2
    # What the old key has proven is void, and the old key is used no more.
    assert reason_of(harness.outcome(credentials, bearer(old))) == RefusalReason.TOKEN_SIGNATURE


async def test_so_is_one_of_a_key_of_another_kind(
    harness: CredentialsHarness, block: dict[str, Any], started: Start
) -> None:
    credentials = await started(harness.credentials(block))
    harness.key_server.document = key_set(jwk(private_key("RS256"), "k1"))
    assert isinstance(await harness.awaited(credentials, bearer(token("RS256"))), Identity)


async def test_so_is_one_without_a_key_id(
    harness: CredentialsHarness, block: dict[str, Any], started: Start
) -> None:
    harness.key_server.document = key_set(jwk(OLD, None))
    credentials = await started(harness.credentials(block))
    harness.key_server.document = key_set(jwk(NEW, None))
    assert isinstance(await harness.awaited(credentials, bearer(of(NEW, kid=None))), Identity)


async def test_bad_tokens_do_not_hammer_the_issuer(
    harness: CredentialsHarness, block: dict[str, Any], started: Start
) -> None:
    """As CVE-2026-48524 did with key ids: one fetch in `cooldown_seconds`, no other token waits."""
    credentials = await started(harness.credentials(block | {"throttle": None}))
    assert await failed(harness, credentials, 0) == RefusalReason.TOKEN_SIGNATURE
    for number in range(1, 50):
        outcome = harness.outcome(credentials, bearer(of(NEW, number)))
        assert reason_of(outcome) == RefusalReason.TOKEN_SIGNATURE
    assert harness.key_server.calls == 2


@pytest.mark.parametrize(
    "changes", [{"iat": NOW - 2000, "exp": NOW - 1000}, {"aud": "other"}, {"sub": None}], ids=str
)
async def test_what_no_key_would_make_good_asks_for_no_fetch(
    harness: CredentialsHarness, block: dict[str, Any], started: Start, changes: dict[str, Any]
) -> None:
    credentials = await started(harness.credentials(block))
    outcome = harness.outcome(credentials, bearer(of(NEW, **changes)))
    assert (reason_of(outcome), harness.key_server.calls) == (RefusalReason.TOKEN_SIGNATURE, 1)


async def test_many_that_wait_cause_one_fetch(
    harness: CredentialsHarness, block: dict[str, Any], started: Start
) -> None:
    credentials = await started(harness.credentials(block))
    harness.key_server.document = key_set(jwk(NEW, "k1"))
    harness.key_server.gate.clear()
    waiting = [asyncio.ensure_future(harness.awaited(credentials, bearer(of(NEW, n)))) for n in range(20)]
    await until(lambda: harness.key_server.calls == 2)
    harness.key_server.gate.set()
    assert all(isinstance(outcome, Identity) for outcome in await asyncio.gather(*waiting))
    assert harness.key_server.calls == 2


async def test_a_fetch_that_began_before_does_not_count(
    harness: CredentialsHarness, block: dict[str, Any], started: Start
) -> None:
    """It may bring the answer of before: one more is due, although no other token asks."""
    credentials = await started(harness.credentials(block))
    harness.key_server.gate.clear()
    credentials.prepare(harness.config(block))()
    await until(lambda: harness.key_server.calls == 2)
    waiting = asyncio.ensure_future(harness.awaited(credentials, bearer(of(NEW))))
    await asyncio.sleep(0)
    harness.key_server.gate.set()
    assert reason_of(await waiting) == RefusalReason.TOKEN_SIGNATURE
    await until(lambda: harness.key_server.calls == 3)


class TestThrottle:
    async def test_no_one_is_charged_for_a_key_that_was_replaced(
        self, harness: CredentialsHarness, block: dict[str, Any], started: Start
    ) -> None:
        """A rotation within the cool-down of a fetch that a bad token asked for: honest clients must wait."""
        credentials = await started(harness.credentials(block))
        assert await failed(harness, credentials, 0, AWAY) == RefusalReason.TOKEN_SIGNATURE
        harness.key_server.document = key_set(jwk(NEW, "k1"))
        for number in range(1, 10):
            assert await failed(harness, credentials, number) == RefusalReason.TOKEN_SIGNATURE
        await fetched_again(harness, credentials)
        # Also those that were refused from memory a moment ago.
        for number in range(1, 10):
            assert isinstance(harness.outcome(credentials, bearer(of(NEW, number), HOME)), Identity)

    async def test_a_client_with_bad_tokens_is_charged_once_a_fetch_has_confirmed_it(
        self, harness: CredentialsHarness, block: dict[str, Any], started: Start
    ) -> None:
        credentials = await started(harness.credentials(block))
        for number in range(6):
            assert await failed(harness, credentials, number) == RefusalReason.TOKEN_SIGNATURE
        await fetched_again(harness, credentials)
        assert await failed(harness, credentials, 100) == RefusalReason.THROTTLED
        assert isinstance(harness.outcome(credentials, bearer(of(OLD), AWAY)), Identity)

    async def test_while_the_issuer_is_away_the_charges_wait(
        self, harness: CredentialsHarness, block: dict[str, Any], started: Start
    ) -> None:
        credentials = await started(harness.credentials(block))
        good, harness.key_server.document = harness.key_server.document, FetchError("connection refused")
        for number in range(6):
            assert await failed(harness, credentials, number) == RefusalReason.TOKEN_SIGNATURE
        await fetched_again(harness, credentials)
        assert await failed(harness, credentials, 6) == RefusalReason.TOKEN_SIGNATURE
        harness.key_server.document = good
        await fetched_again(harness, credentials)
        assert await failed(harness, credentials, 7) == RefusalReason.THROTTLED

    async def test_the_charges_that_wait_have_a_bound(
        self, harness: CredentialsHarness, block: dict[str, Any], started: Start
    ) -> None:
        credentials = await started(harness.credentials(block))
        harness.key_server.document = FetchError("connection refused")
        for number in range(MAX_SUSPICIONS + 3):
            await failed(harness, credentials, number)
        [source] = credentials._serving.remote_keys()
        assert len(source._suspicions) == MAX_SUSPICIONS
        assert await failed(harness, credentials, number + 1) == RefusalReason.THROTTLED

    async def test_a_charge_that_waits_holds_no_long_subject(
        self, harness: CredentialsHarness, block: dict[str, Any], started: Start
    ) -> None:
        """Clients choose it: a thousand of 6 KB would be 6 MB for each key set."""
        credentials = await started(harness.credentials(block))
        harness.key_server.document = FetchError("connection refused")
        await harness.awaited(credentials, bearer(of(NEW, sub="s" * 5_000)))
        [source] = credentials._serving.remote_keys()
        [(_, _, charge)] = source._suspicions._waiting
        assert isinstance(charge, partial)
        assert max(map(len, charge.args)) <= MAX_SUBJECT_CHARACTERS

    def test_of_a_file_they_are_due_at_once(self, harness: CredentialsHarness, block: dict[str, Any]) -> None:
        credentials = harness.credentials(block | {"issuers": [harness.issuer()]})
        for number in range(3):
            outcome = harness.outcome(credentials, bearer(of(NEW, number), HOME))
            assert reason_of(outcome) == RefusalReason.TOKEN_SIGNATURE
        outcome = harness.outcome(credentials, bearer(of(NEW, 3), HOME))
        assert reason_of(outcome) == RefusalReason.THROTTLED


async def test_a_logout_token_of_the_new_key_is_good_too(
    harness: CredentialsHarness, block: dict[str, Any], started: Start
) -> None:
    [issuer] = block["issuers"]
    changes = {"issuers": [issuer | {"logout": {"audiences": [CLIENT]}}], "revocations": {}}
    credentials = await started(harness.credentials(block | changes))
    harness.key_server.document = key_set(jwk(NEW, "k1"))
    ended = await receive(credentials, logout_token(key=NEW))
    assert ended.session == "s1"


async def test_a_reload_fetches_again(
    harness: CredentialsHarness, block: dict[str, Any], started: Start
) -> None:
    """SIGHUP, for the operator who knows that a key was replaced."""
    credentials = await started(harness.credentials(block))
    harness.key_server.document = key_set(jwk(NEW, "k1"))
    credentials.prepare(harness.config(block))()
    await until(lambda: harness.key_server.calls == 2)
    await until(lambda: isinstance(harness.outcome(credentials, bearer(of(NEW))), Identity))


async def test_a_reload_fetches_again_also_while_failures_wait_longer(
    harness: CredentialsHarness, block: dict[str, Any], started: Start
) -> None:
    good, harness.key_server.document = harness.key_server.document, FetchError("connection refused")
    credentials = await started(harness.credentials(block))
    harness.key_server.document = good
    credentials.prepare(harness.config(block))()
    await until(lambda: isinstance(harness.outcome(credentials, bearer(of(OLD))), Identity))
