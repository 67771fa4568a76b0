"""docs/authn.md, "Outages": introspection, clocks and overload. One test for each row."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from authz.credentials import Credentials
from authz.request.identity import Identity, RefusalReason
from tests.support.credentials import World, reason_of
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
async def asked(world: World, serve: Serve) -> Introspected:
    return Introspected(world, await serve())


def failed(world: World) -> float:
    return world.metric("authz_introspection_requests_total", outcome="failed")


class TestIntrospection:
    async def test_down(self, world: World, asked: Introspected, started: Start) -> None:
        credentials = await started(world.credentials(asked.config(cache_ttl_seconds=30)))
        assert isinstance(await world.awaited(credentials, bearer("cached")), Identity)
        asked.answers(active=False)
        bad = await world.awaited(credentials, bearer("bad"))
        assert reason_of(bad) == RefusalReason.TOKEN_INACTIVE
        await asked.server.stop()
        assert isinstance(world.outcome(credentials, bearer("cached")), Identity)
        assert reason_of(world.outcome(credentials, bearer("bad"))) == RefusalReason.TOKEN_INACTIVE
        assert reason_of(await world.awaited(credentials, bearer("new"))) == UNAVAILABLE
        assert failed(world) == 1
        # Outages are not remembered as refusals, and what is remembered serves to its stated age.
        world.clock.advance(30)
        assert reason_of(await world.awaited(credentials, bearer("cached"))) == UNAVAILABLE
        asked.answers()
        await asked.server.start()
        assert isinstance(await world.awaited(credentials, bearer("new")), Identity)

    async def test_after_a_few_failures_no_one_waits(
        self, world: World, asked: Introspected, started: Start
    ) -> None:
        await asked.server.stop()
        credentials = await started(world.credentials(asked.config()))
        for number in range(5):
            await world.awaited(credentials, bearer(f"new-{number}"))
        assert reason_of(world.outcome(credentials, bearer("another"))) == UNAVAILABLE
        assert failed(world) == 5
        await asked.server.start()
        world.clock.advance(1)
        assert isinstance(await world.awaited(credentials, bearer("another")), Identity)

    async def test_slow(self, world: World, asked: Introspected, started: Start) -> None:
        credentials = await started(
            world.credentials(asked.config(timeout_seconds=0.2) | {"lookup_timeout_seconds": 0.02})
        )
        assert isinstance(await world.awaited(credentials, bearer("cached")), Identity)
        asked.server.gate.clear()
        assert reason_of(await world.awaited(credentials, bearer("good"))) == UNAVAILABLE
        asked.answers(active=False)
        assert reason_of(await world.awaited(credentials, bearer("bad"))) == UNAVAILABLE
        assert isinstance(world.outcome(credentials, bearer("cached")), Identity)
        await until(lambda: failed(world) == 2)

    @pytest.mark.parametrize("status", [400, 413, 414, 431])
    async def test_rejecting_some_tokens(
        self, world: World, asked: Introspected, started: Start, status: int
    ) -> None:
        """Five odd tokens of anybody must not look like an outage to everybody."""

        async def answer(_request: web.Request) -> web.StreamResponse:
            if len(asked.server.forms[-1]["token"]) > 100:
                return web.Response(status=status)
            return web.Response(body=asked.server.bodies["/introspect"])

        asked.server.handler = answer
        credentials = await started(
            world.credentials(asked.config() | {"throttle": {"address_failures": 10, "per_seconds": 600}})
        )
        for number in range(10):
            odd = bearer(f"{number}{'x' * 200}", "192.0.2.1")
            assert reason_of(await world.awaited(credentials, odd)) == RefusalReason.TOKEN_MALFORMED
        assert reason_of(world.outcome(credentials, odd)) == RefusalReason.TOKEN_MALFORMED
        another = bearer(f"another{'x' * 200}", "192.0.2.1")
        assert reason_of(world.outcome(credentials, another)) == RefusalReason.THROTTLED
        assert world.metric("authz_introspection_requests_total", outcome="rejected") == 10
        assert isinstance(await world.awaited(credentials, bearer("good", "192.0.2.2")), Identity)

    @pytest.mark.parametrize(
        "body", [b"", b"<html>", b"[]", b"{}", b'{"active": "true"}', b'{"active": 1}', b" " * 70_000]
    )
    async def test_answering_garbage(
        self, world: World, asked: Introspected, started: Start, body: bytes
    ) -> None:
        asked.server.bodies["/introspect"] = body
        credentials = await started(world.credentials(asked.config()))
        assert reason_of(await world.awaited(credentials, bearer("opaque"))) == UNAVAILABLE
        assert failed(world) == 1


class TestClock:
    async def test_a_jump_ahead_ends_what_has_expired_by_it(self, world: World) -> None:
        credentials = world.credentials({"issuers": [world.issuer()], "sessions": {}})
        assert credentials.sessions is not None
        session = request(("cookie", f"session={await credentials.sessions.create('alice', NOW)}"))
        good = bearer(token())
        assert isinstance(world.outcome(credentials, good), Identity)
        assert isinstance(world.outcome(credentials, session), Identity)
        world.clock.wall_seconds += 86400
        assert reason_of(world.outcome(credentials, good)) == RefusalReason.TOKEN_EXPIRED
        assert world.metric("authz_credentials_refused_total", credential="jwt", reason="token_expired") == 1
        assert reason_of(world.outcome(credentials, session)) == RefusalReason.SESSION_EXPIRED

    async def test_a_jump_back_prolongs_nothing_that_is_remembered(self, world: World) -> None:
        credentials = world.credentials({"issuers": [world.issuer()]})
        good = bearer(token(iat=None))
        assert isinstance(world.outcome(credentials, good), Identity)
        world.clock.wall_seconds -= 3600
        world.outcome(credentials, good)
        assert world.metric("authz_identity_cache_lookups_total", result="miss") == 2

    async def test_a_jump_back_refuses_what_was_issued_after_it(self, world: World) -> None:
        credentials = world.credentials({"issuers": [world.issuer()]})
        good = bearer(token(iat=NOW))
        assert isinstance(world.outcome(credentials, good), Identity)
        world.clock.wall_seconds -= 3600
        assert reason_of(world.outcome(credentials, good)) == RefusalReason.TOKEN_NOT_YET_VALID

    async def test_keys_do_not_age_by_the_wall_clock(self, world: World, started: Any) -> None:
        world.key_server.document = key_set(jwk(private_key("ES256")))
        jwks = {"url": "https://idp.example.com/keys", "max_stale_seconds": 600}
        issuer = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": jwks}
        credentials = await started(world.credentials({"issuers": [issuer]}))
        world.clock.wall_seconds += 86400
        later = token(exp=world.clock.wall_seconds + 60)
        assert isinstance(world.outcome(credentials, bearer(later)), Identity)

    async def test_a_revocation_outlives_a_jump_back(self, world: World) -> None:
        credentials = world.credentials({"issuers": [world.issuer()], "revocations": {}})
        await credentials.credential_admin.revoke_tokens("jti", "t1")
        world.clock.wall_seconds -= 50
        found = world.outcome(credentials, bearer(token(jti="t1")))
        assert reason_of(found) == RefusalReason.REVOKED
