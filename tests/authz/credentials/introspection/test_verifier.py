"""Opaque tokens: a real HTTP server is asked about them (RFC 7662)."""

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from authz.credentials import Credentials
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason
from common.configfile import ConfigError
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.introspection import Introspected
from tests.support.signing import NOW, bearer, token
from tests.support.waiting import until
from tests.support.webserver import WebServer

Serve = Callable[[], Awaitable[WebServer]]


@pytest.fixture
async def asked(harness: CredentialsHarness, serve: Serve) -> Introspected:
    return Introspected(harness, await serve())


Start = Callable[[Credentials], Awaitable[Credentials]]


class TestAnswers:
    async def test_an_active_token_identifies_the_caller_that_the_server_names(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        credentials = await started(harness.credentials(asked.config()))
        found = await harness.awaited(credentials, bearer("opaque-token"))
        assert isinstance(found, Identity)
        assert (found.kind, found.subject, found.scopes) == (
            CredentialKind.INTROSPECTION,
            "alice",
            frozenset({"read", "write"}),
        )
        assert asked.server.forms == [{"token": "opaque-token", "token_type_hint": "access_token"}]

    @pytest.mark.parametrize(
        ("claims", "reason"),
        [
            ({"active": False}, RefusalReason.TOKEN_INACTIVE),
            ({"aud": "other"}, RefusalReason.AUDIENCE_MISMATCH),
            ({"aud": None}, RefusalReason.AUDIENCE_MISMATCH),
            ({"exp": NOW - 31}, RefusalReason.TOKEN_EXPIRED),
            ({"nbf": NOW + 31}, RefusalReason.TOKEN_NOT_YET_VALID),
            ({"sub": None}, RefusalReason.CLAIM_MISSING),
            ({"sub": 7}, RefusalReason.SUBJECT_MALFORMED),
            ({"token_type": "refresh_token"}, RefusalReason.TOKEN_TYPE),
            ({"token_type": "DPoP"}, RefusalReason.TOKEN_TYPE),
            ({"exp": "soon"}, RefusalReason.TOKEN_MALFORMED),
        ],
    )
    async def test_cve_2022_29226_not_any_token_will_do(
        self,
        harness: CredentialsHarness,
        asked: Introspected,
        started: Start,
        claims: dict[str, Any],
        reason: RefusalReason,
    ) -> None:
        asked.answers(**claims)
        credentials = await started(harness.credentials(asked.config()))
        found = await harness.awaited(credentials, bearer("opaque"))
        assert reason_of(found) == reason
        assert found.kind == CredentialKind.INTROSPECTION  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("issuer", "answered", "accepted"),
        [
            ("https://a", "https://a", True),
            ("https://a", "https://b", False),
            ("https://a", None, True),
            ("", "https://b", True),
        ],
    )
    async def test_the_issuer_is_the_configured_one(
        self,
        harness: CredentialsHarness,
        asked: Introspected,
        started: Start,
        issuer: str,
        answered: str | None,
        accepted: bool,
    ) -> None:
        asked.answers(iss=answered)
        credentials = await started(harness.credentials(asked.config(issuer=issuer)))
        found = await harness.awaited(credentials, bearer("opaque"))
        assert isinstance(found, Identity) is accepted

    async def test_required_and_forbidden_claims_count(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        asked.answers(cnf={"x5t#S256": "x"})
        credentials = await started(harness.credentials(asked.config(forbidden_claims=["cnf"])))
        found = await harness.awaited(credentials, bearer("opaque"))
        assert reason_of(found) == RefusalReason.CLAIM_FORBIDDEN

    @pytest.mark.parametrize("text", ["", "a b", "tök", "a\x00b", "a,b"])
    async def test_what_is_not_a_token_is_not_asked_about(
        self, harness: CredentialsHarness, asked: Introspected, text: str
    ) -> None:
        found = harness.outcome(harness.credentials(asked.config()), bearer(text))
        assert reason_of(found) == RefusalReason.TOKEN_MALFORMED
        assert asked.server.asked == []

    async def test_a_long_token_is_not_asked_about(
        self, harness: CredentialsHarness, asked: Introspected
    ) -> None:
        found = harness.outcome(harness.credentials(asked.config(max_bytes=16)), bearer("x" * 17))
        assert reason_of(found) == RefusalReason.TOKEN_TOO_LONG


class TestClient:
    async def test_it_proves_itself_by_basic(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        """RFC 6749 section 2.3.1: form-encoded, then joined."""
        credentials = await started(harness.credentials(asked.config()))
        await harness.awaited(credentials, bearer("opaque"))
        expected = "Basic " + b64encode(b"edge+proxy:s3cr%3Aet%26").decode()
        assert asked.server.headers[0]["authorization"] == expected

    async def test_or_in_the_form(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        credentials = await started(harness.credentials(asked.config(client_auth="post")))
        await harness.awaited(credentials, bearer("opaque"))
        assert asked.server.forms[0]["client_secret"] == "s3cr:et&"
        assert "authorization" not in asked.server.headers[0]

    async def test_a_reload_reads_the_secret_again(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        credentials = await started(harness.credentials(asked.config(client_auth="post")))
        await harness.awaited(credentials, bearer("opaque"))
        harness.write("secret", b"another")
        credentials.prepare(harness.config(asked.config(client_auth="post")))()
        await harness.awaited(credentials, bearer("opaque"))
        assert [form["client_secret"] for form in asked.server.forms] == ["s3cr:et&", "another"]

    async def test_the_secret_is_in_no_description(
        self, harness: CredentialsHarness, asked: Introspected
    ) -> None:
        credentials = harness.credentials(asked.config())
        assert "s3cr" not in repr(credentials.describe())
        assert "s3cr" not in repr(credentials.config)

    async def test_no_redirect_is_followed(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        """It would carry the token and the client's secret to wherever it leads."""

        async def elsewhere(_request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"location": "/elsewhere"})

        asked.server.handler = elsewhere
        credentials = await started(harness.credentials(asked.config()))
        found = await harness.awaited(credentials, bearer("opaque"))
        assert reason_of(found) == RefusalReason.INTROSPECTION_UNAVAILABLE
        assert asked.server.asked == ["/introspect"]


class TestCache:
    async def test_an_active_token_is_asked_about_once(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        credentials = await started(harness.credentials(asked.config(cache_ttl_seconds=30)))
        first = await harness.awaited(credentials, bearer("opaque"))
        harness.clock.advance(29)
        assert harness.outcome(credentials, bearer("opaque")) is first
        harness.clock.advance(1)
        await harness.awaited(credentials, bearer("opaque"))
        assert len(asked.server.asked) == 2

    async def test_never_past_its_exp(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        asked.answers(exp=NOW + 5)
        credentials = await started(harness.credentials(asked.config(leeway_seconds=0)))
        await harness.awaited(credentials, bearer("opaque"))
        harness.clock.advance(5)
        assert reason_of(await harness.awaited(credentials, bearer("opaque"))) == RefusalReason.TOKEN_EXPIRED

    async def test_an_inactive_one_is_remembered_apart(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        credentials = await started(
            harness.credentials(
                asked.config(cache_max_entries=1, negative_cache_max_entries=1, negative_cache_ttl_seconds=10)
            )
        )
        await harness.awaited(credentials, bearer("good"))
        asked.answers(active=False)
        for number in range(5):
            await harness.awaited(credentials, bearer(f"bad-{number}"))
        assert isinstance(harness.outcome(credentials, bearer("good")), Identity)
        assert reason_of(harness.outcome(credentials, bearer("bad-4"))) == RefusalReason.TOKEN_INACTIVE
        harness.clock.advance(10)
        await harness.awaited(credentials, bearer("bad-4"))
        assert len(asked.server.asked) == 7

    async def test_ghsa_4mq7_pvjg_xp2r_another_url_begins_without_old_keys(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        """Oathkeeper's cache key lacked the introspection URL: one server's word stood for another's."""
        credentials = await started(harness.credentials(asked.config()))
        await harness.awaited(credentials, bearer("opaque"))
        asked.server.bodies["/other"] = b'{"active": false}'
        credentials.prepare(harness.config(asked.config(url=f"{asked.server.url}/other")))()
        found = await harness.awaited(credentials, bearer("opaque"))
        assert reason_of(found) == RefusalReason.TOKEN_INACTIVE

    async def test_cve_2021_32701_audience_and_claims_are_not_part_of_what_is_remembered(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        """GHSA-qvp4-rpmr-xwrr: Oathkeeper's cache answered for scopes that it had not been asked about."""
        asked.answers(aud="other")
        credentials = await started(harness.credentials(asked.config()))
        for _ in range(2):
            found = await harness.awaited(credentials, bearer("opaque"))
            assert reason_of(found) == RefusalReason.AUDIENCE_MISMATCH
        assert len(asked.server.asked) == 1
        credentials.prepare(harness.config(asked.config(audiences=["other"])))()
        assert isinstance(await harness.awaited(credentials, bearer("opaque")), Identity)

    async def test_a_clock_set_back_voids_what_came_after_it(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        credentials = await started(harness.credentials(asked.config()))
        await harness.awaited(credentials, bearer("opaque"))
        harness.clock.wall_seconds -= 3600
        await harness.awaited(credentials, bearer("opaque"))
        assert len(asked.server.asked) == 2

    async def test_the_token_itself_is_not_kept(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        credentials = await started(harness.credentials(asked.config()))
        await harness.awaited(credentials, bearer("opaque-secret"))
        introspector = credentials._serving.introspector
        assert introspector is not None
        assert "opaque-secret" not in repr(introspector._active._entries)


class TestBounds:
    async def test_many_requests_with_one_token_ask_once(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        asked.server.gate.clear()
        credentials = await started(harness.credentials(asked.config()))
        waiting = [asyncio.ensure_future(harness.awaited(credentials, bearer("opaque"))) for _ in range(20)]
        await until(lambda: asked.server.asked)
        asked.server.gate.set()
        found = await asyncio.gather(*waiting)
        assert all(isinstance(one, Identity) for one in found)
        assert len(asked.server.asked) == 1

    async def test_a_request_that_gives_up_does_not_end_the_question(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        asked.server.gate.clear()
        credentials = await started(harness.credentials(asked.config()))
        gone = asyncio.ensure_future(harness.awaited(credentials, bearer("opaque")))
        stays = asyncio.ensure_future(harness.awaited(credentials, bearer("opaque")))
        await until(lambda: asked.server.asked)
        gone.cancel()
        asked.server.gate.set()
        assert isinstance(await stays, Identity)

    async def test_questions_in_flight_have_a_bound(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        asked.server.gate.clear()
        credentials = await started(harness.credentials(asked.config(max_concurrent_requests=1)))
        first = asyncio.ensure_future(harness.awaited(credentials, bearer("one")))
        await until(lambda: asked.server.asked)
        found = harness.outcome(credentials, bearer("two"))
        assert reason_of(found) == RefusalReason.INTROSPECTION_UNAVAILABLE
        asked.server.gate.set()
        assert isinstance(await first, Identity)


class TestPlaces:
    async def test_a_jwt_in_the_same_place_is_verified_here(
        self, harness: CredentialsHarness, asked: Introspected, started: Start
    ) -> None:
        credentials = await started(harness.credentials(asked.config() | {"issuers": [harness.issuer()]}))
        assert isinstance(harness.outcome(credentials, bearer(token())), Identity)
        assert isinstance(await harness.awaited(credentials, bearer("opaque.with.a.few.dots")), Identity)
        assert len(asked.server.asked) == 1

    def test_it_cannot_share_a_place_with_sessions(self, harness: CredentialsHarness, tmp_path: Any) -> None:
        harness.write("secret", b"x")
        place = [{"header": "authorization", "scheme": "Bearer"}]
        block = {
            "url": "https://idp.example/i",
            "client_id": "x",
            "client_secret_file": "secret",
            "audiences": "any",
        }
        with pytest.raises(ValueError, match="nothing tells them apart"):
            harness.config({"introspection": block, "sessions": {"locations": place}})


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n"])
def test_a_file_without_a_secret_is_an_error(harness: CredentialsHarness, content: bytes) -> None:
    harness.write("secret", content)
    block = {"url": "https://idp.example.com/i", "client_id": "edge", "client_secret_file": "secret"}
    with pytest.raises(ConfigError, match=r"secret.*holds no secret"):
        harness.credentials({"introspection": {**block, "audiences": "any"}})


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "the answer is empty, not JSON"),
        (b"<html>sign in</html>", "the answer is HTML or XML, not JSON"),
        (b"eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "the answer is a JWT, not JSON"),
        (b"secret-word", "the answer is 11 bytes of something else, not JSON"),
        (b"[]", "the answer is JSON, but not an object"),
        (b"{}", "the answer has no `active`, not true or false"),
        (b'{"active": "true"}', "the answer has a text as `active`, not true or false"),
        (b'{"active": 1}', "the answer has a number as `active`, not true or false"),
        (b'{"error": "no token opaque"}', "the answer has no `active`, not true or false"),
        (
            b'{"error": "invalid_client"}',
            "the answer has no `active`, not true or false, and the error 'invalid_client'",
        ),
    ],
)
async def test_what_is_wrong_with_an_answer_is_reported(
    harness: CredentialsHarness, asked: Introspected, started: Start, body: bytes, detail: str
) -> None:
    asked.server.bodies["/introspect"] = body
    credentials = await started(harness.credentials(asked.config()))
    found = await harness.awaited(credentials, bearer("opaque"))
    assert isinstance(found, Refusal)
    assert (found.reason, found.detail) == (RefusalReason.INTROSPECTION_UNAVAILABLE, detail)


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (401, "HTTP status 401, not 200: the server does not accept client_id and the secret by client_auth"),
        (500, "HTTP status 500, not 200"),
        (400, "the server rejects it with HTTP status 400"),
    ],
)
async def test_so_is_the_status_of_one(
    harness: CredentialsHarness, asked: Introspected, started: Start, status: int, detail: str
) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status)

    asked.server.handler = answer
    credentials = await started(harness.credentials(asked.config()))
    found = await harness.awaited(credentials, bearer("opaque"))
    assert isinstance(found, Refusal)
    assert found.detail == detail
