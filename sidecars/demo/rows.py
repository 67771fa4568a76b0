"""The requests of the demo, in order."""

import time
from http import HTTPStatus
from typing import Final

from sidecars.client.admin_client import admin_client
from sidecars.demo.edge import Edge
from sidecars.demo.idp import IdentityProvider
from sidecars.demo.scenario import Row, challenge, every_status, limited_after, status, upstream_sees

LOGIN_LIMIT: Final = 5
"""The attempts per minute that `examples/limits/edge.yaml` grants to one address."""
BURST: Final = LOGIN_LIMIT + 3

_OK: Final = status(HTTPStatus.OK)
_BAD_REQUEST: Final = status(HTTPStatus.BAD_REQUEST)
_UNAUTHORIZED: Final = status(HTTPStatus.UNAUTHORIZED)
_FORBIDDEN: Final = status(HTTPStatus.FORBIDDEN)


async def rows(edge: Edge) -> tuple[Row, ...]:
    """Return all rows, ready to be sent to `edge`."""
    return (
        *_open_paths(),
        *_bad_tokens(edge.provider),
        *_good_tokens(edge.provider),
        *await _sessions(edge),
        *await _on_two_sidecars(edge),
        *_api_keys(edge.api_key),
        *_limits(),
    )


def bearer(token: str) -> dict[str, str]:
    """Return the Authorization header of RFC 6750 section 2.1."""
    return {"authorization": f"Bearer {token}"}


def _open_paths() -> tuple[Row, ...]:
    return (
        Row(
            "public path, no credential",
            "200",
            "/public/hello",
            (_OK,),
            {"code": 200, "authz_outcome": "allow", "authz_rule": "public"},
        ),
        Row(
            "public path, forged x-auth-subject",
            "200, upstream sees no subject",
            "/public/hello",
            (_OK, upstream_sees("x-auth-subject")),
            {"code": 200, "authz_rule": "public"},
            headers={"x-auth-subject": "admin"},
        ),
        Row(
            "escaped slash in the path",
            "400 from Envoy",
            "/public/..%2forders",
            (_BAD_REQUEST,),
            {"code": 400, "authz_outcome": None},
        ),
        Row(
            "no token",
            "401, WWW-Authenticate: Bearer",
            "/orders",
            (_UNAUTHORIZED, challenge("Bearer")),
            {"code": 401, "authz_outcome": "deny", "authz_rule": "orders-read"},
        ),
    )


def _bad_tokens(idp: IdentityProvider) -> tuple[Row, ...]:
    who, scope = "alice", "orders:read"
    tokens = (
        ("expired token", idp.expired_token(who, scope), "token_expired"),
        ("wrong issuer", idp.token(who, scope, iss="https://evil.example"), "issuer_unknown"),
        ("wrong audience", idp.token(who, scope, aud="https://other.example"), "audience_mismatch"),
        ("alg: none", idp.unsigned_token(who, scope), "token_algorithm"),
        ("public key as HMAC secret", idp.confused_token(who, scope), "token_algorithm"),
        ("signed by a stranger", idp.forged_token(who, scope), "token_signature"),
    )
    return tuple(
        Row(
            name,
            "401, invalid_token",
            "/orders",
            (_UNAUTHORIZED, challenge("Bearer", 'error="invalid_token"')),
            {"code": 401, "authz_outcome": "deny", "authz_rule": "orders-read", "authz_reason": reason},
            headers=bearer(token),
        )
        for name, token, reason in tokens
    )


def _good_tokens(idp: IdentityProvider) -> tuple[Row, ...]:
    alice = bearer(idp.token("alice", "orders:read"))
    bob = bearer(idp.token("bob", "orders:write", kid="ec-1"))
    return (
        Row(
            "good token, forged x-auth-subject",
            "200, upstream sees alice only",
            "/orders",
            (_OK, upstream_sees("x-auth-subject", "alice")),
            {"code": 200, "authz_rule": "orders-read", "authz_subject": "alice", "authz_credential": "jwt"},
            headers={**alice, "x-auth-subject": "admin"},
        ),
        Row(
            "missing scope",
            "403, insufficient_scope",
            "/orders",
            (_FORBIDDEN, challenge('error="insufficient_scope"', 'scope="orders:write"')),
            {"code": 403, "authz_outcome": "deny", "authz_rule": "orders-write", "authz_subject": "alice"},
            method="POST",
            headers=alice,
        ),
        Row(
            "that scope, ES256 token",
            "200, upstream sees bob",
            "/orders",
            (_OK, upstream_sees("x-auth-subject", "bob")),
            {"code": 200, "authz_rule": "orders-write", "authz_subject": "bob"},
            method="POST",
            headers=bob,
        ),
        Row(
            "no rule for the path",
            "403, default deny",
            "/internal/metrics",
            (_FORBIDDEN,),
            {"code": 403, "authz_outcome": "deny", "authz_rule": None},
            headers=alice,
        ),
    )


async def _sessions(edge: Edge) -> tuple[Row, ...]:
    token = await edge.admin.create_session("carol", ("orders:read",))
    cookie = {"cookie": f"session={token}"}
    return (
        Row(
            "session cookie",
            "200, upstream sees carol",
            "/orders",
            (_OK, upstream_sees("x-auth-subject", "carol")),
            {"code": 200, "authz_subject": "carol", "authz_credential": "session"},
            headers=cookie,
        ),
        Row(
            "the same session, revoked",
            "401",
            "/orders",
            (_UNAUTHORIZED,),
            {"code": 401, "authz_outcome": "deny", "authz_reason": "revoked"},
            headers=cookie,
            before=lambda: edge.admin.revoke_session(token),
        ),
    )


async def _on_two_sidecars(edge: Edge) -> tuple[Row, ...]:
    """Return the rows about revocations that one sidecar learns from the other through Redis."""
    skipped = "" if edge.places.redis_url is not None else "no redis-server"
    session = "" if skipped else await edge.admin.create_session("erin", ("orders:read",))
    jti = "jti-of-the-demo"
    token = edge.provider.token("frank", "orders:read", jti=jti)

    # The same as `sidecars session revoke` and `sidecars token revoke --jti` after reading the settings.
    async def revoke_session() -> float:
        async with admin_client(edge.places.settings_file, "sessions") as credential_admin:
            began = time.monotonic()
            await credential_admin.revoke_sessions("token", session)
            return began

    async def revoke_token() -> float:
        async with admin_client(edge.places.settings_file, "revocations") as credential_admin:
            began = time.monotonic()
            await credential_admin.revoke_tokens("jti", jti, "")
            return began

    credentials = (
        ("sign-in session", "session", {"cookie": f"session={session}"}, "erin", revoke_session),
        ("JWT", "jwt", bearer(token), "frank", revoke_token),
    )
    return tuple(
        row
        for name, kind, headers, subject, revoke in credentials
        for row in (
            Row(
                f"{name}, on two sidecars",
                "200 by both",
                "/orders",
                (every_status(HTTPStatus.OK), upstream_sees("x-auth-subject", subject)),
                {"code": 200, "authz_subject": subject, "authz_credential": kind},
                headers=headers,
                everywhere=True,
                skipped=skipped,
            ),
            Row(
                f"`sidecars {'session' if kind == 'session' else 'token'} revoke`",
                "401 by both, within a second",
                "/orders",
                (every_status(HTTPStatus.UNAUTHORIZED),),
                {"code": 401, "authz_outcome": "deny", "authz_reason": "revoked"},
                headers=headers,
                everywhere=True,
                revoke=revoke,
                skipped=skipped,
            ),
        )
    )


def _api_keys(api_key: str) -> tuple[Row, ...]:
    return (
        Row(
            "API key",
            "200, upstream sees reports",
            "/orders",
            (_OK, upstream_sees("x-auth-subject", "reports")),
            {"code": 200, "authz_subject": "reports", "authz_credential": "api_key"},
            headers={"x-api-key": api_key},
        ),
        Row(
            "the same key, one letter off",
            "401",
            "/orders",
            (_UNAUTHORIZED,),
            {"code": 401, "authz_outcome": "deny", "authz_reason": "api_key_unknown"},
            headers={"x-api-key": api_key[:-1] + ("A" if api_key[-1] != "A" else "B")},
        ),
    )


def _limits() -> tuple[Row, ...]:
    return (
        Row(
            f"{BURST} logins in a row",
            f"{LOGIN_LIMIT} x 200, then 429 with X-RateLimit-*",
            "/login",
            (limited_after(LOGIN_LIMIT),),
            {"code": 429, "authz_rule": "login", "ratelimit_outcome": "over_limit"},
            method="POST",
            times=BURST,
        ),
    )
