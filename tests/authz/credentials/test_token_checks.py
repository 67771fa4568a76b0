"""The checks of `sidecars token explain`, compared with the code that serves requests."""

import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from authz.credentials.core.metrics import CredentialMetrics
from authz.credentials.dependencies import CredentialDependencies
from authz.credentials.introspection.client import IntrospectionClient
from authz.credentials.jwt.fetch import fetch
from authz.credentials.token_checks import Explained, explain_token
from authz.request.identity import Identity, Refusal, RefusalReason
from common.circuit_breaker import CircuitBreaker
from tests.support.credentials import CredentialsHarness
from tests.support.signing import (
    ISSUER,
    NOW,
    bearer,
    claims,
    jwk,
    key_set,
    private_key,
    raw_token,
    token,
)
from tests.support.webserver import WebServer

Serve = Callable[[], Awaitable[WebServer]]

OTHER_KEY = private_key("ES256", 1)
LIMITS: dict[str, Any] = {
    "max_lifetime_seconds": 900,
    "required_claims": ["email", {"claim": "verified", "values": [True]}],
    "forbidden_claims": ["cnf"],
    "types": ["at+jwt", "JWT"],
    "type_required": True,
}
SAID: dict[str, Any] = {"email": "a@example.com", "verified": True}


def dependencies(harness: CredentialsHarness) -> CredentialDependencies:
    clock = harness.clock.monotonic
    return CredentialDependencies(
        fetch=fetch if harness.real_fetch else harness.key_server.fetch,
        introspection_client=IntrospectionClient,
        wall_clock=lambda: harness.clock.wall_seconds,
        monotonic_clock=clock,
        random=random.random,
        redis=None,
        random_bytes=secrets.token_bytes,
        metrics=CredentialMetrics(clock),
        redis_breaker=CircuitBreaker(clock, random.random),
    )


async def explained(harness: CredentialsHarness, block: dict[str, Any], text: str) -> Explained:
    return await explain_token(text, harness.config(block), dependencies(harness), NOW)


def failed(found: Explained) -> dict[str, str]:
    return {check.title: check.text for check in found.checks if check.held is False}


TOKENS = {
    "good": token(**SAID),
    "expired": token(exp=NOW - 100, **SAID),
    "not yet valid": token(nbf=NOW + 100, **SAID),
    "of the future": token(iat=NOW + 100, **SAID),
    "without exp": token(exp=None, **SAID),
    "of an odd exp": token(exp="soon", **SAID),
    "too long lived": token(exp=NOW + 9_000, **SAID),
    "for others": token(aud="another", **SAID),
    "without subject": token(sub=None, **SAID),
    "of a numeric subject": token(sub=7, **SAID),
    "of a subject with a line feed": token(sub="adm\nin", **SAID),
    "of a subject with a blank before it": token(sub=" admin", **SAID),
    "without email": token(verified=True),
    "not verified": token(email="a@example.com", verified=False),
    "bound to a key": token(cnf={"jkt": "x"}, **SAID),
    "of another issuer": token(iss="https://another.example", **SAID),
    "of the issuer with a slash": token(iss=ISSUER + "/", **SAID),
    "without issuer": token(iss=None, **SAID),
    "of an unknown key": token(kid="another", **SAID),
    "signed by another": token(key=OTHER_KEY, **SAID),
    "of another algorithm": token("ES384", **SAID),
    "of another type": token(header={"typ": "logout+jwt"}, **SAID),
    "without type": token(header={"typ": None}, **SAID),
    "with crit": token(header={"crit": ["x"], "x": 1}, **SAID),
    "a logout token": token(events={"http://schemas.openid.net/event/backchannel-logout": {}}, **SAID),
    "padded": token(**SAID) + "==",
    "of four parts": token(**SAID) + ".x",
    "cut": token(**SAID)[:-5],
    "too long": "x" * 9_000,
    "not ASCII": "t\u00f6k.e.n",
    "of no algorithm": raw_token({"alg": "none", "typ": "JWT"}, claims(**SAID), b""),
    "no JSON": raw_token(b"[]", claims(**SAID)),
}


@pytest.mark.parametrize("name", TOKENS)
async def test_the_verdict_is_that_of_a_sidecar_and_a_check_says_why(
    harness: CredentialsHarness, name: str
) -> None:
    block = {"issuers": [harness.issuer(**LIMITS)], "throttle": None}
    text = TOKENS[name]
    found = await explained(harness, block, text)
    served = harness.outcome(harness.credentials(block), bearer(text))
    if isinstance(served, Identity):
        assert found.outcome == served
        assert failed(found) == {}
        return
    assert isinstance(served, Refusal)
    assert isinstance(found.outcome, Refusal)
    assert found.outcome.reason == served.reason
    assert failed(found)
    for part in filter(None, text.split(".")):
        assert part not in "".join(check.text for check in found.checks) or len(part) < 12


async def test_every_fault_is_reported_at_once(harness: CredentialsHarness) -> None:
    text = token(key=OTHER_KEY, aud="another", exp=NOW - 100, sub=None, verified=False)
    found = await explained(harness, {"issuers": [harness.issuer(**LIMITS)]}, text)
    assert failed(found).keys() >= {
        "signature", "exp", "required email", "required verified = True", "subject", "audience",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("unverified_subject", "hint"),
    [(ISSUER + "/", "every character counts"), ("https://x.example", "configured: ")],
)
async def test_an_issuer_that_is_nearly_right_is_pointed_out(
    harness: CredentialsHarness, unverified_subject: str, hint: str
) -> None:
    found = await explained(harness, {"issuers": [harness.issuer()]}, token(iss=unverified_subject))
    assert hint in failed(found)["issuer"]


@pytest.mark.parametrize(
    ("text", "hint"), [("s" * 43, "; a session"), ("ci." + "s" * 43, "; an API key"), ("a.b.c.d", "")]
)
async def test_what_is_another_kind_of_credential_is_pointed_out(
    harness: CredentialsHarness, text: str, hint: str
) -> None:
    keys = [{"id": "ci", "sha256": "0" * 64, "subject": "ci"}]
    found = await explained(
        harness,
        {"issuers": [harness.issuer()], "sessions": {"store": "memory"}, "api_keys": {"keys": keys}},
        text,
    )
    result = failed(found)["form"]
    parts = text.count(".") + 1
    assert result.partition(f", not {parts}")[2].partition("? ")[0] == hint
    assert text not in result


async def test_the_keys_used_and_left_out_are_reported(harness: CredentialsHarness) -> None:
    block = harness.issuer(jwk(private_key("ES256")), jwk(private_key("RS256"), "enc", use="enc"))
    found = await explained(harness, {"issuers": [block]}, token())
    [result] = [check.text for check in found.checks if check.title == "key set"]
    assert result.endswith("keys.json: k1; not used: enc: it is for use 'enc', not for signatures")


async def test_keys_are_fetched_as_a_sidecar_does(harness: CredentialsHarness, serve: Serve) -> None:
    harness.real_fetch = True
    server = await serve()
    server.bodies["/keys"] = key_set(jwk(private_key("ES256")))
    jwks = {"url": f"{server.url}/keys", "allow_http": True, "allow_addresses": ["127.0.0.0/8"]}
    found = await explained(harness, {"issuers": [harness.issuer(jwks=jwks)]}, token())
    assert isinstance(found.outcome, Identity)
    assert server.asked == ["/keys"]
    await server.stop()
    found = await explained(harness, {"issuers": [harness.issuer(jwks=jwks)]}, token())
    assert isinstance(found.outcome, Refusal)
    assert found.outcome.reason is RefusalReason.KEYS_UNAVAILABLE
    assert f"{server.url}/keys: " in failed(found)["key set"]


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (200, '{"active": true, "sub": "alice", "aud": "edge"}', ""),
        (200, '{"active": false}', "the server says it is not active"),
        (200, "<html>", "the answer is HTML or XML, not JSON"),
        (401, "", "does not accept client_id and the secret"),
    ],
)
async def test_the_server_is_asked_about_an_opaque_token(
    harness: CredentialsHarness, serve: Serve, status: int, body: str, problem: str
) -> None:
    server = await serve()
    harness.write("secret", b"s")

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    server.handler = answer
    asked = {
        "url": f"{server.url}/introspect", "client_id": "edge", "client_secret_file": "secret",
        "audiences": ["edge"], "allow_http": True, "allow_addresses": ["127.0.0.0/8"],
    }  # fmt: skip
    found = await explained(harness, {"issuers": [harness.issuer()], "introspection": asked}, "opaque-token")
    assert problem in failed(found).get("introspection", "")
    assert isinstance(found.outcome, Identity) is (not problem)
    assert server.forms[0]["token"] == "opaque-token"
