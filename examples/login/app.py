"""A sample login application: OpenID Connect, then a session that every sidecar accepts.

It signs users in by the authorization code flow with PKCE (RFC 7636), for which it uses Authlib, and keeps no
state: the pending login is in a signed cookie of the browser, the session is in the store of authz.
README.md next to this file says how to run it; `application` is the factory for uvicorn.
"""

import asyncio
import logging
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.starlette_client import OAuth
from joserfc.errors import JoseError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from sidecars.client.sessions import SessionsClient, SessionsError

_log = logging.getLogger("login")

SESSION_COOKIE: Final = "__Host-session"
LOGIN_COOKIE: Final = "__Host-login"
"""With this prefix a browser takes a cookie only with Secure, Path=/ and no Domain, so that no other host of
the domain can set one (RFC 6265bis section 4.1.3)."""

LOGIN_SECONDS: Final = 600
"""How long a user may take at the identity provider."""

MAX_RETURN_CHARACTERS: Final = 1000
"""The longest way back. The cookie that keeps it has at most 4 KiB in every browser."""

KEPT_CLAIMS: Final = ("iss", "sub", "sid", "auth_time", "acr", "amr")
"""The claims of the ID token that the session keeps: rules may use them, and a back-channel logout ends the
sessions with its `iss` and `sid` or `sub`."""

TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{22,128}")
"""The form of session tokens; a cookie of another form is ignored."""

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
    # `no-referrer` would make the Origin of the logout form `null`.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment configures."""

    public_url: str
    """The origin under which browsers reach the edge, as in https://shop.example."""
    metadata_url: str
    """The OpenID Connect configuration of the identity provider."""
    client_id: str
    client_secret: str
    scopes: tuple[str, ...]
    """What each session may do. An application with groups would look them up here."""
    sessions: SessionsClient
    cookie_key: str
    """Signs the cookie of a pending login. Several processes need the same one."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Return the settings. Raises KeyError for a missing variable, and OSError for an unreadable file."""
        key_file = environment.get("LOGIN_COOKIE_KEY_FILE")
        return cls(
            public_url=environment["LOGIN_PUBLIC_URL"].rstrip("/"),
            metadata_url=environment["LOGIN_METADATA_URL"],
            client_id=environment["LOGIN_CLIENT_ID"],
            client_secret=Path(environment["LOGIN_CLIENT_SECRET_FILE"]).read_text(encoding="ascii").strip(),
            scopes=tuple(environment.get("LOGIN_SCOPES", "").split()),
            sessions=SessionsClient(
                environment["LOGIN_SESSIONS"], Path(environment["LOGIN_SESSIONS_TOKEN_FILE"])
            ),
            cookie_key=Path(key_file).read_text(encoding="ascii") if key_file else secrets.token_hex(32),
        )


class Login:
    """The pages below /auth/."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._callback_url = f"{settings.public_url}/auth/callback"
        self._provider = OAuth().register(
            "provider",
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            server_metadata_url=settings.metadata_url,
            client_kwargs={"scope": "openid", "code_challenge_method": "S256", "timeout": 10},
        )

    @property
    def routes(self) -> list[Route]:
        """The pages."""
        return [
            Route("/auth/login", self.login, methods=["GET"]),
            Route("/auth/callback", self.callback, methods=["GET"]),
            Route("/auth/me", self.me, methods=["GET"]),
            Route("/auth/logout", self.logout, methods=["POST"]),
        ]

    async def login(self, request: Request) -> Response:
        """Send the browser to the identity provider, with a new state, nonce and code challenge."""
        request.session["return_to"] = way_back(request.query_params.get("return_to", ""))
        try:
            redirect: Response = await self._provider.authorize_redirect(request, self._callback_url)
        except httpx2.HTTPError:
            return page(503, "The identity provider does not answer. Please try again.")
        redirect.headers["Cache-Control"] = "no-store"
        return redirect

    async def callback(self, request: Request) -> Response:
        """Exchange the code for an ID token, check it, and create a session.

        Authlib checks that the state is the one in this browser's cookie, and of the ID token the signature,
        issuer, audience, times and nonce.
        """
        return_to = request.session.get("return_to", "/")
        try:
            token = await self._provider.authorize_access_token(request)
            user = token["userinfo"]
            subject = user["sub"]
        except httpx2.HTTPError:
            return page(503, "The identity provider does not answer. Please sign in again.", return_to)
        except (OAuthError, JoseError, KeyError, ValueError):
            # Also for all but the last of several tabs that sign in at once (findings/authlib_second_tab.sh).
            return page(400, "The login was not completed. Please sign in again.", return_to)
        finally:
            request.session.clear()
        try:
            await self._end_session_of(request)
            made = await asyncio.to_thread(
                self._settings.sessions.create,
                subject,
                scopes=self._settings.scopes,
                claims={name: user[name] for name in KEPT_CLAIMS if name in user},
            )
        except SessionsError as error:
            return unavailable(error, "Please sign in again.", return_to)
        response = RedirectResponse(return_to, 303, {"Cache-Control": "no-store"})
        # Always a new token: one that the browser had before could be known to others (session fixation).
        response.set_cookie(SESSION_COOKIE, made.token, path="/", secure=True, httponly=True, samesite="lax")
        return response

    async def me(self, request: Request) -> Response:
        """Show who is signed in, with a button to sign out."""
        token = session_token(request)
        try:
            session = await asyncio.to_thread(self._settings.sessions.show, token) if token else None
        except SessionsError as error:
            return unavailable(error, "Please try again.")
        if session is None:
            return page(401, "You are not signed in.", "/auth/me")
        form = '<form method="post" action="/auth/logout"><button>Sign out</button></form>'
        return HTMLResponse(document(f"<p>You are {escape(session.subject)}.</p>{form}"), 200, HEADERS)

    async def logout(self, request: Request) -> Response:
        """End the session at every sidecar, and delete its cookie."""
        if not self._is_own_page(request):
            return page(403, "Please sign out on our own page.")
        try:
            await self._end_session_of(request)
        except SessionsError as error:
            # The cookie stays, since the session is still valid: the user can try again.
            return unavailable(error, "You are still signed in. Please try again.")
        response = page(200, "You are signed out.", "/auth/me")
        response.delete_cookie(SESSION_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
        return response

    async def _end_session_of(self, request: Request) -> None:
        if token := session_token(request):
            await asyncio.to_thread(self._settings.sessions.revoke, token)

    def _is_own_page(self, request: Request) -> bool:
        """Whether the form was sent by a page of this origin; SameSite=Lax stops other sites, too."""
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            return site == "same-origin"
        return request.headers.get("origin") == self._settings.public_url


def way_back(path: str) -> str:
    r"""Return `path` if it is a path on this host, and `/` otherwise (CWE-601).

    Browsers read `//evil.example` and `/\evil.example` as another host, and ignore tabs and line ends within.
    """
    is_path = path.startswith("/") and path[1:2] not in {"/", "\\"}
    return (
        path
        if is_path and path.isascii() and path.isprintable() and len(path) <= MAX_RETURN_CHARACTERS
        else "/"
    )


def session_token(request: Request) -> str:
    """Return the session token in the cookie; empty if there is none."""
    found = request.cookies.get(SESSION_COOKIE, "")
    return found if TOKEN.fullmatch(found) else ""


def unavailable(error: SessionsError, advice: str, return_to: str = "") -> HTMLResponse:
    """A page that says that sessions are unavailable; the log says why."""
    _log.error("sessions: %s", error)
    return page(503, f"Sessions are unavailable. {advice}", return_to)


def page(status: int, text: str, return_to: str = "") -> HTMLResponse:
    """A page with a text and, if there is a way back, a link to sign in."""
    link = (
        f'<p><a href="/auth/login?return_to={quote(return_to, safe="")}">Sign in</a></p>' if return_to else ""
    )
    return HTMLResponse(document(f"<p>{escape(text)}</p>{link}"), status, HEADERS)


def document(body: str) -> str:
    """An HTML document."""
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Sign in</title>{body}</html>\n'


def application(environment: Mapping[str, str] = os.environ) -> Starlette:
    """The application, configured by the environment."""
    settings = Settings.of(environment)
    pending_login: Any = SessionMiddleware
    middleware = Middleware(
        pending_login,
        secret_key=settings.cookie_key,
        session_cookie=LOGIN_COOKIE,
        max_age=LOGIN_SECONDS,
        same_site="lax",
        https_only=True,
    )
    return Starlette(routes=Login(settings).routes, middleware=[middleware])
