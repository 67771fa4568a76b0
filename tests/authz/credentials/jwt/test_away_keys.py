"""docs/authn.md, "Outages": key sets. A real HTTP server, one test for each row."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from authz.credentials import Credentials
from authz.request.identity import Identity, RefusalReason
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.signing import AUDIENCE, ISSUER, bearer, jwk, key_set, private_key, token
from tests.support.waiting import until
from tests.support.webserver import WebServer

Serve = Callable[[], Awaitable[WebServer]]
Start = Callable[[Credentials], Awaitable[Credentials]]

OLD, NEW = private_key("ES256"), private_key("ES256", 1)


@pytest.fixture
async def server(harness: CredentialsHarness, serve: Serve) -> WebServer:
    harness.real_fetch = True
    found = await serve()
    found.bodies["/keys"] = key_set(jwk(OLD, "old"))
    return found


def block(server: WebServer, lookup_timeout_seconds: float = 5, **changes: Any) -> dict[str, Any]:
    jwks = {
        "url": f"{server.url}/keys",
        "allow_http": True,
        "allow_addresses": ["127.0.0.0/8"],
        "refresh_seconds": 0.02,
        "max_stale_seconds": 600,
        "cooldown_seconds": 0.01,
    } | changes
    issuer = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": jwks}
    return {"issuers": [issuer], "lookup_timeout_seconds": lookup_timeout_seconds}


def good(number: int = 0) -> str:
    return token(key=OLD, kid="old", jti=str(number))


def fetches(harness: CredentialsHarness, outcome: str) -> float:
    return harness.metric("authz_key_set_fetches_total", issuer=ISSUER, outcome=outcome)


async def fails_again(harness: CredentialsHarness, outcome: str) -> None:
    """Returns when the next fetch has failed in this way."""
    before = fetches(harness, outcome)
    harness.clock.advance(60)
    await until(lambda: fetches(harness, outcome) > before)


class Row:
    """What the callers of one row get, at once."""

    def __init__(self, harness: CredentialsHarness, credentials: Credentials) -> None:
        self.harness, self.credentials = harness, credentials

    def gets(self, text: str) -> RefusalReason | None:
        found = self.harness.outcome(self.credentials, bearer(text))
        return None if isinstance(found, Identity) else reason_of(found)


async def test_down_at_start(harness: CredentialsHarness, server: WebServer, started: Start) -> None:
    await server.stop()
    credentials = await started(harness.credentials(block(server)))
    row = Row(harness, credentials)
    assert row.gets(good()) == RefusalReason.KEYS_UNAVAILABLE
    assert row.gets("not.a.token") == RefusalReason.TOKEN_MALFORMED
    assert fetches(harness, "unreachable") >= 1
    await server.start()
    harness.clock.advance(60)
    await until(lambda: fetches(harness, "ok") >= 1)
    assert row.gets(good()) is None


async def test_down_later(harness: CredentialsHarness, server: WebServer, started: Start) -> None:
    credentials = await started(harness.credentials(block(server)))
    row = Row(harness, credentials)
    cached = good(1)
    assert row.gets(cached) is None
    await server.stop()
    await fails_again(harness, "unreachable")
    assert row.gets(cached) is None
    assert row.gets(good(2)) is None
    assert row.gets(token(key=NEW, kid="old")) == RefusalReason.TOKEN_SIGNATURE
    assert harness.metric("authz_key_set_age_seconds", issuer=ISSUER) >= 60
    assert harness.metric("authz_key_set_refresh_seconds", issuer=ISSUER) == 0.02
    assert harness.metric("authz_key_set_max_age_seconds", issuer=ISSUER) == 600
    harness.clock.advance(600)
    assert row.gets(token(key=OLD, kid="old", exp=harness.clock.wall_seconds + 60)) == (
        RefusalReason.KEYS_UNAVAILABLE
    )


async def test_an_unknown_key_id_while_it_is_down(
    harness: CredentialsHarness, server: WebServer, started: Start
) -> None:
    """Whether a fetch would bring it cannot be told; and key ids, which anybody makes up, cause none."""
    credentials = await started(harness.credentials(block(server)))
    await server.stop()
    await fails_again(harness, "unreachable")
    before = fetches(harness, "unreachable")
    for number in range(20):
        unknown = token(key=NEW, kid=f"new-{number}", exp=harness.clock.wall_seconds + 60)
        assert Row(harness, credentials).gets(unknown) == RefusalReason.KEYS_UNAVAILABLE
    assert fetches(harness, "unreachable") == before
    await server.start()
    server.bodies["/keys"] = key_set(jwk(OLD, "old"), jwk(NEW, "new-0"))
    harness.clock.advance(60)
    await until(lambda: fetches(harness, "ok") >= 2)
    found = token(key=NEW, kid="new-0", exp=harness.clock.wall_seconds + 60)
    assert Row(harness, credentials).gets(found) is None


async def test_slow_at_start_bounds_the_wait_of_a_request(
    harness: CredentialsHarness, server: WebServer, started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz.credentials.service.START_WAIT_SECONDS", 0.02)
    server.gate.clear()
    credentials = await started(harness.credentials(block(server, lookup_timeout_seconds=0.02)))
    found = await harness.awaited(credentials, bearer(good()))
    assert reason_of(found) == RefusalReason.KEYS_UNAVAILABLE
    server.gate.set()
    await until(lambda: fetches(harness, "ok") >= 1)
    assert Row(harness, credentials).gets(good()) is None


async def test_a_slow_call_delays_no_other(
    harness: CredentialsHarness, server: WebServer, started: Start
) -> None:
    credentials = await started(harness.credentials(block(server)))
    row = Row(harness, credentials)
    asked = len(server.asked)
    server.gate.clear()
    harness.clock.advance(60)
    await until(lambda: len(server.asked) > asked)
    assert row.gets(good()) is None


async def test_slow_later_a_token_that_its_key_did_not_sign_waits(
    harness: CredentialsHarness, server: WebServer, started: Start
) -> None:
    """The fetch on its way may bring another key of that id."""
    credentials = await started(harness.credentials(block(server, lookup_timeout_seconds=0.02)))
    asked = len(server.asked)
    server.gate.clear()
    harness.clock.advance(60)
    await until(lambda: len(server.asked) > asked)
    found = await harness.awaited(credentials, bearer(token(key=NEW, kid="old")))
    assert reason_of(found) == RefusalReason.TOKEN_SIGNATURE


async def test_slow_later_an_unknown_key_id_waits(
    harness: CredentialsHarness, server: WebServer, started: Start
) -> None:
    """The fetch on its way may bring it."""
    credentials = await started(harness.credentials(block(server, lookup_timeout_seconds=0.02)))
    asked = len(server.asked)
    server.gate.clear()
    harness.clock.advance(60)
    await until(lambda: len(server.asked) > asked)
    found = await harness.awaited(credentials, bearer(token(key=NEW, kid="new")))
    assert reason_of(found) == RefusalReason.KEYS_UNAVAILABLE


async def test_slow_beyond_its_time_cap(
    harness: CredentialsHarness, server: WebServer, started: Start
) -> None:
    credentials = await started(harness.credentials(block(server, timeout_seconds=0.05)))
    server.gate.clear()
    await fails_again(harness, "unreachable")
    assert "no answer within" in credentials.describe()["issuers"][0]["key_set"]["problem"]
    assert Row(harness, credentials).gets(good()) is None
    assert Row(harness, credentials).gets(token(key=NEW, kid="old")) == RefusalReason.TOKEN_SIGNATURE


@pytest.mark.parametrize(
    "body", [b"", b"<html>busy</html>", b"{}", b'{"keys": []}', b'{"keys": 7}', b"\xff\xfe", b"[" * 10_000]
)
async def test_answering_garbage(
    harness: CredentialsHarness, server: WebServer, started: Start, body: bytes
) -> None:
    credentials = await started(harness.credentials(block(server)))
    server.bodies["/keys"] = body
    await fails_again(harness, "invalid")
    row = Row(harness, credentials)
    assert row.gets(good()) is None
    assert row.gets(token(key=NEW, kid="old")) == RefusalReason.TOKEN_SIGNATURE


async def test_answering_ten_megabytes(
    harness: CredentialsHarness, server: WebServer, started: Start
) -> None:
    credentials = await started(harness.credentials(block(server)))
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(160):
            await response.write(b" " * 65536)
            sent += 65536
        return response

    server.handler = endless
    await fails_again(harness, "unreachable")
    assert sent < 10 * 1024 * 1024
    assert "larger than" in credentials.describe()["issuers"][0]["key_set"]["problem"]
    assert Row(harness, credentials).gets(good()) is None
    assert Row(harness, credentials).gets(token(key=NEW, kid="old")) == RefusalReason.TOKEN_SIGNATURE


async def test_rotating(harness: CredentialsHarness, server: WebServer, started: Start) -> None:
    """The new key is published together with the old one, signs, and then the old one goes."""
    credentials = await started(harness.credentials(block(server, refresh_seconds=300)))
    row = Row(harness, credentials)
    cached = good(1)
    assert row.gets(cached) is None
    server.bodies["/keys"] = key_set(jwk(OLD, "old"), jwk(NEW, "new"))
    assert isinstance(await harness.awaited(credentials, bearer(token(key=NEW, kid="new"))), Identity)
    assert row.gets(cached) is None
    server.bodies["/keys"] = key_set(jwk(NEW, "new"))
    newer = token(key=NEW, kid="newer")
    assert row.gets(newer) == RefusalReason.KEYS_UNAVAILABLE
    harness.clock.advance(31)
    assert reason_of(await harness.awaited(credentials, bearer(newer))) == RefusalReason.KEY_UNKNOWN
    assert (harness.metric("authz_key_set_keys", issuer=ISSUER), fetches(harness, "ok")) == (1, 3)
    assert row.gets(newer) == RefusalReason.KEY_UNKNOWN
    assert row.gets(cached) == RefusalReason.KEYS_UNAVAILABLE
    harness.clock.advance(31)
    assert reason_of(await harness.awaited(credentials, bearer(good(1)))) == RefusalReason.KEY_RETIRED
    assert row.gets(good(2)) == RefusalReason.KEY_RETIRED
