"""The authorization code flow of the demo's identity provider (OpenID Connect Core 1.0 section 3.1).

It asks for a name instead of a password. Everything else is as strict as the specifications ask for: exact
redirect URIs, PKCE with S256 (RFC 7636), codes that can be used once, and confidential clients.
"""

import base64
import hashlib
import hmac
import secrets
from binascii import Error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final
from urllib.parse import unquote_plus, urlencode, urlsplit

from aiohttp import web

CODE_SECONDS: Final = 60
"""The lifetime of a code. RFC 6749 section 4.1.2 recommends ten minutes at most."""

MAX_CODES: Final = 1_000
MAX_SUBJECT_CHARACTERS: Final = 255
"""The longest `sub` (OpenID Connect Core 1.0 section 2)."""

_FORM: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Demo identity provider</title>
<h1>Demo identity provider</h1><form method="post"><label>Sign in as
<input name="subject" value="alice" required maxlength="255" autofocus></label>
<button>Sign in</button></form></html>
"""
_ERROR: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Refused</title><p>{text}</p></html>\n'
)


@dataclass(frozen=True, slots=True)
class Client:
    """A registered application."""

    id: str
    secret: str
    redirect_uri: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a code was issued for."""

    client: Client
    subject: str
    nonce: str
    challenge: str
    sid: str
    issued_at: float


class CodeFlow:
    """The endpoint /authorize, and /token for codes. `sign` returns a token for a subject with claims."""

    def __init__(self, issuer: str, sign: Callable[..., str], wall_clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._sign = sign
        self._wall_clock = wall_clock
        self._clients: dict[str, Client] = {}
        self._grants: dict[str, Grant] = {}

    def register(self, client: Client) -> None:
        """Accept this application."""
        self._clients[client.id] = client

    async def authorize(self, request: web.Request) -> web.Response:
        """Show the form, and after it was sent redirect to the application with a code.

        A wrong client or redirect URI is shown here and not redirected (RFC 6749 section 4.1.2.1).
        """
        query = request.query
        client = self._clients.get(query.get("client_id", ""))
        if client is None or query.get("redirect_uri") != client.redirect_uri:
            return _page(_ERROR.format(text="The client or its redirect_uri is not registered."), 400)
        state = query.get("state", "")
        problem = _problem(query)
        if problem:
            return self._redirect(client, {"error": problem, "state": state})
        if request.method == "GET":
            return _page(_FORM, allowed=client.redirect_uri)
        subject = str((await request.post()).get("subject", "")).strip()
        if not subject or len(subject) > MAX_SUBJECT_CHARACTERS or not subject.isprintable():
            return self._redirect(client, {"error": "access_denied", "state": state})
        code = self._issue(
            Grant(
                client,
                subject,
                query.get("nonce", ""),
                query["code_challenge"],
                secrets.token_urlsafe(16),
                self._wall_clock(),
            )
        )
        return self._redirect(client, {"code": code, "state": state})

    def exchange(self, form: Mapping[str, Any], authorization: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer to a request with `grant_type=authorization_code`."""
        client = self._authenticated(authorization)
        if client is None:
            return 401, {"error": "invalid_client"}
        grant = self._grants.pop(str(form.get("code", "")), None)
        if (
            grant is None
            or grant.client != client
            or form.get("redirect_uri") != client.redirect_uri
            or self._wall_clock() - grant.issued_at > CODE_SECONDS
            or not hmac.compare_digest(challenge_of(str(form.get("code_verifier", ""))), grant.challenge)
        ):
            return 400, {"error": "invalid_grant"}
        claims = {"aud": client.id, "nonce": grant.nonce, "sid": grant.sid, "auth_time": int(grant.issued_at)}
        return 200, {
            "id_token": self._sign(grant.subject, **claims),
            "access_token": self._sign(grant.subject),
            "token_type": "Bearer",
            "expires_in": 3600,
        }

    def _issue(self, grant: Grant) -> str:
        while len(self._grants) >= MAX_CODES:
            del self._grants[next(iter(self._grants))]
        code = secrets.token_urlsafe(32)
        self._grants[code] = grant
        return code

    def _authenticated(self, authorization: str) -> Client | None:
        """Return the client of `client_secret_basic` (RFC 6749 section 2.3.1)."""
        scheme, _, credentials = authorization.partition(" ")
        try:
            pair = base64.b64decode(credentials, validate=True).decode("ascii")
        except (Error, ValueError):
            return None
        name, _, secret = pair.partition(":")
        client = self._clients.get(unquote_plus(name))
        if scheme.lower() != "basic" or client is None:
            return None
        return client if hmac.compare_digest(unquote_plus(secret).encode(), client.secret.encode()) else None

    def _redirect(self, client: Client, answer: Mapping[str, str]) -> web.Response:
        """Redirect to the application; `iss` as in RFC 9207."""
        query = urlencode({**answer, "iss": self._issuer})
        headers = {"Location": f"{client.redirect_uri}?{query}", "Cache-Control": "no-store"}
        return web.Response(status=303, headers=headers)


def challenge_of(verifier: str) -> str:
    """Return the code challenge of a code verifier (S256, RFC 7636 section 4.2)."""
    digest = hashlib.sha256(verifier.encode("ascii", "replace")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _problem(query: Mapping[str, str]) -> str:
    """Return the error code for an authorization request; empty if it is right."""
    if query.get("response_type") != "code":
        return "unsupported_response_type"
    if "openid" not in query.get("scope", "").split():
        return "invalid_scope"
    has_challenge = query.get("code_challenge_method") == "S256" and query.get("code_challenge")
    return "" if has_challenge and query.get("state") else "invalid_request"


def _page(text: str, status: int = 200, allowed: str = "") -> web.Response:
    parts = urlsplit(allowed)
    # Chromium applies form-action to the redirect after a form, too.
    target = f"{parts.scheme}://{parts.netloc}" if allowed else ""
    policy = f"default-src 'none'; form-action 'self' {escape(target)}; frame-ancestors 'none'"
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
    return web.Response(text=text, status=status, content_type="text/html", headers=headers)
