"""docs/authn.md, "Outages": introspection, clocks and overload. One test for each row."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from authz.credentials import Credentials
from authz.request.identity import Identity, RefusalReason
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.introspection import Introspected
from tests.support.signing import (
    AUDIENCE,
    ISSUER,
    NOW,
    bearer,
    jwk,
    key_set,
    private_key,
    request,
    token,
)
from tests.support.waiting import until
from tests.support.webserver import WebServer

Serve = Callable[[], Awaitable[WebServer]]
Start = Callable[[Credentials], Awaitable[Credentials]]
UNAVAILABLE = RefusalReason.INTROSPECTION_UNAVAILABLE


@pytest.fixture
async def asked(harness: CredentialsHarness, serve: Serve) -> Introspected:
    return Introspected(harness, await serve())


def failed(harness: CredentialsHarness) -> float:
    return harness.metric("authz_introspection_requests_total", outcome="failed")


class TestIntrospection:
    async def test_down(self, harness: CredentialsHarness, asked: Introspected, started: Start) -> None:
        credentials = await started(harness.credentials(asked.config(cache_ttl_seconds=30)))
        assert isinstance(await harness.awaited(credentials, bearer("cached")), Identity)
        asked.answers(active=False)
        bad = await harness.awaited(credentials, bearer("bad"))
        assert reason_of(bad) == RefusalReason.TOKEN_INACTIVE
        await asked.server.stop()
        assert isinstance(harness.outcome(credentials, bearer("cached")), Identity)
        assert reason_of(harness.outcome(credentials, bearer("bad"))) == RefusalReason.TOKEN_INACTIVE
        assert reason_of(await harness.awaited(credentials, bearer("new"))) == UNAVAILABLE
        assert failed(harness) == 1
        # Outages are not remembered as refusals, and what is remembered serves to its stated age.
        harness.clock.advance(30)
        assert reason_of(await harness.awaited(credentials, bearer("cached"))) == UNAVAILABLE
        asked.answers()
        await asked.server.start()
        assert isinstance(await harness.awaited(credentials, bearer("new")), Identity)

    async def test_after_a_few_failures_no_one_waits(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        await asked.server.stop()
        credentials = await started(harness.credentials(asked.config()))
        for number in range(5):
            await harness.awaited(credentials, bearer(f"new-{number}"))
        assert reason_of(harness.outcome(credentials, bearer("another"))) == UNAVAILABLE
        assert failed(harness) == 5
        await asked.server.start()
        harness.clock.advance(1)
        assert isinstance(await harness.awaited(credentials, bearer("another")), Identity)

    async def test_slow(self, harness: CredentialsHarness, asked: Introspected, started: Start) -> None:
        credentials = await started(
            harness.credentials(asked.config(timeout_seconds=0.2) | {"lookup_timeout_seconds": 0.02})
        )
        assert isinstance(await harness.awaited(credentials, bearer("cached")), Identity)
        asked.server.gate.clear()
        assert reason_of(await harness.awaited(credentials, bearer("good"))) == UNAVAILABLE
        asked.answers(active=False)
        assert reason_of(await harness.awaited(credentials, bearer("bad"))) == UNAVAILABLE
        assert isinstance(harness.outcome(credentials, bearer("cached")), Identity)
        await until(lambda: failed(harness) == 2)

    @pytest.mark.parametrize("status", [400, 413, 414, 431])
    async def test_rejecting_some_tokens(
        self, harness: CredentialsHarness, asked: Introspected, started: Start, status: int
    ) -> None:
        """Five odd tokens of anybody must not look like an outage to everybody."""

        async def answer(_request: web.Request) -> web.StreamResponse:
            if len(asked.server.forms[-1]["token"]) > 100:
                return web.Response(status=status)
            return web.Response(body=asked.server.bodies["/introspect"])

        asked.server.handler = answer
        credentials = await started(
            harness.credentials(asked.config() | {"throttle": {"address_failures": 10, "per_seconds": 600}})
        )
        for number in range(10):
            odd = bearer(f"{number}{'x' * 200}", "192.0.2.1")
            assert reason_of(await harness.awaited(credentials, odd)) == RefusalReason.TOKEN_MALFORMED
        assert reason_of(harness.outcome(credentials, odd)) == RefusalReason.TOKEN_MALFORMED
        another = bearer(f"another{'x' * 200}", "192.0.2.1")
        assert reason_of(harness.outcome(credentials, another)) == RefusalReason.THROTTLED
        assert harness.metric("authz_introspection_requests_total", outcome="rejected") == 10
        assert isinstance(await harness.awaited(credentials, bearer("good", "192.0.2.2")), Identity)

    @pytest.mark.parametrize(
        "body", [b"", b"<html>", b"[]", b"{}", b'{"active": "true"}', b'{"active": 1}', b" " * 70_000]
    )
    async def test_answering_garbage(
        self, harness: CredentialsHarness, asked: Introspected, started: Start, body: bytes
    ) -> None:
        asked.server.bodies["/introspect"] = body
        credentials = await started(harness.credentials(asked.config()))
        assert reason_of(await harness.awaited(credentials, bearer("opaque"))) == UNAVAILABLE
        assert failed(harness) == 1


class TestClock:
    async def test_a_jump_ahead_ends_what_has_expired_by_it(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()], "sessions": {}})
        assert credentials.sessions is not None
        session = request(("cookie", f"session={await credentials.sessions.create('alice', NOW)}"))
        good = bearer(token())
        assert isinstance(harness.outcome(credentials, good), Identity)
        assert isinstance(harness.outcome(credentials, session), Identity)
        harness.clock.wall_seconds += 86400
        assert reason_of(harness.outcome(credentials, good)) == RefusalReason.TOKEN_EXPIRED
        assert (
            harness.metric("authz_credentials_refused_total", credential="jwt", reason="token_expired") == 1
        )
        assert reason_of(harness.outcome(credentials, session)) == RefusalReason.SESSION_EXPIRED

    async def test_a_jump_back_prolongs_nothing_that_is_remembered(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()]})
        good = bearer(token(iat=None))
        assert isinstance(harness.outcome(credentials, good), Identity)
        harness.clock.wall_seconds -= 3600
        harness.outcome(credentials, good)
        assert harness.metric("authz_identity_cache_lookups_total", result="miss") == 2

    async def test_a_jump_back_refuses_what_was_issued_after_it(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()]})
        good = bearer(token(iat=NOW))
        assert isinstance(harness.outcome(credentials, good), Identity)
        harness.clock.wall_seconds -= 3600
        assert reason_of(harness.outcome(credentials, good)) == RefusalReason.TOKEN_NOT_YET_VALID

    async def test_keys_do_not_age_by_the_wall_clock(self, harness: CredentialsHarness, started: Any) -> None:
        harness.key_server.document = key_set(jwk(private_key("ES256")))
        jwks = {"url": "https://idp.example.com/keys", "max_stale_seconds": 600}
        issuer = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": jwks}
        credentials = await started(harness.credentials({"issuers": [issuer]}))
        harness.clock.wall_seconds += 86400
        later = token(exp=harness.clock.wall_seconds + 60)
        assert isinstance(harness.outcome(credentials, bearer(later)), Identity)

    async def test_a_revocation_outlives_a_jump_back(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()], "revocations": {}})
        await credentials.credential_admin.revoke_tokens("jti", "t1")
        harness.clock.wall_seconds -= 50
        found = harness.outcome(credentials, bearer(token(jti="t1")))
        assert reason_of(found) == RefusalReason.REVOKED
