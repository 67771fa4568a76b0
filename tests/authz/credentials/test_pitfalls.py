"""Known vulnerabilities of other projects, each named by its CVE or issue, that no other test covers.

The rest: test_jwt (CVE-2022-29217, CVE-2026-32597, CVE-2026-48523, CVE-2025-59420), test_jwks
(CVE-2026-48524, CVE-2026-31837), test_tokens and test_introspection (GHSA-4mq7-pvjg-xp2r,
GHSA-qvp4-rpmr-xwrr, lua-resty-openidc#399, CVE-2022-29226), test_revocation (CVE-2021-41230,
oauth2-proxy#1224), test_location (CVE-2021-32777, CVE-2023-27488, GHSA-gv94-wp4h-vv8p), test_mtls
(CVE-2026-40575), tests/authz/test_respond (CVE-2023-27493, CVE-2025-64484, oauth2-proxy#644).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from authz.credentials import Credentials
from authz.credentials.core.http import FetchError
from authz.request.identity import Identity, RefusalReason
from authz.request.request import BadRequestError
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
    raw_token,
    request,
    token,
)
from tests.support.signing import claims as signed_claims
from tests.support.webserver import WebServer

Start = Callable[[Credentials], Awaitable[Credentials]]
PROXY = "spiffe://prod.example/proxy"


async def test_cve_2025_64527_two_tokens_while_the_keys_are_away_are_two_refusals(
    harness: CredentialsHarness, started: Start
) -> None:
    """Envoy crashed when a key fetch failed and a request carried two tokens."""
    harness.key_server.document = FetchError("connection refused")
    jwks = {"url": "https://idp.example.com/keys"}
    locations = [{"header": "authorization", "scheme": "Bearer"}, {"query": "access_token"}]
    block = {
        "issuers": [{"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": jwks}],
        "tokens": {"locations": locations},
    }
    credentials = await started(harness.credentials(block))
    both = request(("authorization", f"Bearer {token()}"), path=f"/?access_token={token()}")
    assert reason_of(harness.outcome(credentials, both)) == RefusalReason.CREDENTIALS_AMBIGUOUS
    assert reason_of(harness.outcome(credentials, bearer(token()))) == RefusalReason.KEYS_UNAVAILABLE


async def test_cve_2024_45809_a_reload_while_a_request_waits_for_keys_harms_neither(
    harness: CredentialsHarness, started: Start
) -> None:
    """Envoy crashed when the route was cleared while a remote key set was fetched."""
    harness.key_server.gate.clear()
    harness.key_server.document = key_set(jwk(private_key("ES256")))
    issuer = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"url": "https://idp.example.com/keys"}}
    credentials = harness.credentials({"issuers": [issuer], "lookup_timeout_seconds": 10})
    for source in credentials._serving.remote_keys():
        source.start()
    waiting = asyncio.ensure_future(harness.awaited(credentials, bearer(token())))
    await asyncio.sleep(0)
    credentials._started = True
    credentials.prepare(
        harness.config({"issuers": [issuer | {"audiences": ["other"]}], "lookup_timeout_seconds": 10})
    )()
    harness.key_server.gate.set()
    # It ends under the configuration that it began with; the next one does not.
    assert isinstance(await waiting, Identity)
    assert reason_of(await harness.awaited(credentials, bearer(token()))) == RefusalReason.AUDIENCE_MISMATCH
    await credentials.stop()


@pytest.mark.parametrize(
    "header",
    [
        ("x-jwt-payload", "eyJzdWIiOiJhbGljZSJ9"),
        ("x-envoy-original-path", "/public"),
        ("x-envoy-peer-metadata-id", "alice"),
        ("x-forwarded-user", "alice"),
        ("x-forwarded-uri", "/public"),
        ("x-forwarded-proto", "https"),
        ("x-auth-subject", "alice"),
        ("x-forwarded-client-cert", "URI=spiffe://prod.example/alice"),
        ("x_forwarded_client_cert", "URI=spiffe://prod.example/alice"),
    ],
)
def test_envoy_43630_what_a_client_says_of_itself_in_headers_is_not_a_credential(
    harness: CredentialsHarness, header: tuple[str, str]
) -> None:
    """Envoy PR 43630, CVE-2023-27487, CVE-2024-45806, CVE-2026-40575, CVE-2025-64484, GHSA-vhr5-ggp3-qq85."""
    mtls = {"principals": ["spiffe://prod.example/*"], "forwarded": {"trusted_peers": [PROXY]}}
    credentials = harness.credentials({"issuers": [harness.issuer()], "sessions": {}, "mtls": mtls})
    assert harness.outcome(credentials, request(header)) is None


def test_cve_2025_64484_an_underscore_twin_of_the_certificate_header_is_not_read(
    harness: CredentialsHarness,
) -> None:
    mtls = {"principals": ["spiffe://prod.example/*"], "forwarded": {"trusted_peers": [PROXY]}}
    credentials = harness.credentials({"mtls": mtls})
    twin = request(("x_forwarded_client_cert", "URI=spiffe://prod.example/admin"), principal=PROXY)
    assert harness.outcome(credentials, twin) is None


def test_cve_2026_26308_values_joined_by_a_comma_are_not_taken_for_one() -> None:
    """GHSA-ghc4-35x6-crw5: what was two headers on the way in is one value with a comma later."""
    good = token()
    for joined in (f"Bearer {good},Bearer {good}", f"Bearer {good}, Basic YTpi"):
        with pytest.raises(BadRequestError):
            request(("authorization", joined))


async def test_cve_2021_41230_a_new_sign_in_is_judged_by_what_it_says_now(
    harness: CredentialsHarness,
) -> None:
    """Pomerium kept the groups of the first sign-in: nothing is remembered by subject."""
    issuer = harness.issuer(roles_claim="roles")
    credentials = harness.credentials({"issuers": [issuer], "sessions": {}})
    assert credentials.sessions is not None
    for roles in (["admin"], ["guest"], []):
        by_token = harness.outcome(credentials, bearer(token(roles=roles, sid="s1")))
        claims = {"iss": ISSUER, "sid": "s1"}
        made = await credentials.sessions.create("alice", NOW, roles=tuple(roles), claims=claims)
        by_session = harness.outcome(credentials, request(("cookie", f"session={made}")))
        for found in (by_token, by_session):
            assert isinstance(found, Identity)
            assert (found.subject, found.roles) == ("alice", frozenset(roles))


async def test_cve_2021_41230_what_the_authorization_server_takes_away_is_gone_when_it_is_asked_again(
    harness: CredentialsHarness, serve: Callable[[], Awaitable[WebServer]], started: Start
) -> None:
    asked = Introspected(harness, await serve())
    credentials = await started(harness.credentials(asked.config(cache_ttl_seconds=30)))
    asked.answers(scope="read write admin")
    found = await harness.awaited(credentials, bearer("opaque"))
    assert isinstance(found, Identity)
    assert "admin" in found.scopes
    asked.answers(scope="read")
    harness.clock.advance(30)
    found = await harness.awaited(credentials, bearer("opaque"))
    assert isinstance(found, Identity)
    assert found.scopes == {"read"}


async def test_ghsa_v75c_crr9_733c_while_the_keys_are_away_no_one_elses_count(
    harness: CredentialsHarness, started: Start
) -> None:
    """CVE-2026-31837: Istio then took a key that everybody has.

    Ours are those of the issuer, or none: not a former one, not another issuer's, not one in the token.
    """
    harness.key_server.document = FetchError("connection refused")
    own, known = private_key("ES256", 1), private_key("RS256", 1)
    away = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"url": "https://idp.example.com/keys"}}
    there = harness.issuer(jwk(known, "k1"), issuer="https://other.example")
    credentials = await started(harness.credentials({"issuers": [away, there]}))
    for forged in (
        token("RS256", key=known),
        token("RS256", key=known, kid=None),
        token("RS256", key=known, header={"jwk": jwk(known)}),
        token(key=own, header={"jku": "https://mallory.example/keys"}),
    ):
        assert reason_of(harness.outcome(credentials, bearer(forged))) == RefusalReason.KEYS_UNAVAILABLE
    unsigned = raw_token({"alg": "none"}, signed_claims(), b"")
    assert reason_of(harness.outcome(credentials, bearer(unsigned))) == RefusalReason.TOKEN_ALGORITHM


async def test_ghsa_fhv5_28vv_h8m8_unknown_kids_with_a_failing_server_neither_hammer_it_nor_cost_good_keys(
    harness: CredentialsHarness, started: Start
) -> None:
    """CVE-2026-48524: PyJWT fetched for each of them, and forgot all keys when that failed."""
    harness.key_server.document = key_set(jwk(private_key("ES256")))
    jwks = {"url": "https://idp.example.com/keys"}
    issuer = {"issuer": ISSUER, "audiences": [AUDIENCE], "algorithms": ["ES256"], "jwks": jwks}
    credentials = await started(
        harness.credentials({"issuers": [issuer], "lookup_timeout_seconds": 5, "throttle": None})
    )
    harness.key_server.document = FetchError("connection refused")
    harness.clock.advance(31)
    for number in range(50):
        await harness.awaited(credentials, bearer(token(kid=f"bogus-{number}")))
        assert isinstance(harness.outcome(credentials, bearer(token(jti=str(number)))), Identity)
    assert harness.key_server.calls == 2


async def test_cve_2025_55162_a_session_cookie_kept_after_signing_out_is_worth_nothing(
    harness: CredentialsHarness,
) -> None:
    """Envoy's oauth2 filter left cookies that went on working: here the store decides, not the cookie."""
    credentials = harness.credentials({"sessions": {}})
    assert credentials.sessions is not None
    kept = await credentials.sessions.create("alice", NOW)
    cookie = request(("cookie", f"session={kept}"))
    assert isinstance(harness.outcome(credentials, cookie), Identity)
    await credentials.sessions.revoke(kept)
    assert reason_of(harness.outcome(credentials, cookie)) == RefusalReason.REVOKED


async def test_cve_2026_47775_a_changed_session_cookie_tells_nothing(harness: CredentialsHarness) -> None:
    """Nothing is encrypted into the cookie, so there is not any padding to probe: any change is unknown."""
    credentials = harness.credentials({"sessions": {}})
    assert credentials.sessions is not None
    text = await credentials.sessions.create("alice", NOW)
    outcomes: set[Any] = set()
    for at in range(len(text)):
        changed = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        outcomes.add(harness.outcome(credentials, request(("cookie", f"session={changed}"))))
    assert [reason_of(outcome) for outcome in outcomes] == [RefusalReason.SESSION_UNKNOWN]


def test_istio_49691_the_issuer_is_found_by_one_look_up(harness: CredentialsHarness) -> None:
    """However many there are; `python -m bench authn` measures it."""
    issuers = [harness.issuer(issuer=f"https://idp-{number}.example") for number in range(50)]
    credentials = harness.credentials({"issuers": issuers})
    looked_up: list[str] = []

    class Watched(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            looked_up.append(key)
            return super().get(key, default)

    verifier = credentials._serving.tokens._verifier
    verifier._issuers = Watched(verifier._issuers)
    found = harness.outcome(credentials, bearer(token(iss="https://idp-49.example")))
    assert isinstance(found, Identity)
    assert looked_up == ["https://idp-49.example"]
