"""Decides which requests the admin server answers, before any page sees them.

A page of another site can make a browser send requests to the admin port, and with DNS rebinding read the
answers. Such a request names the other site in its Host header, so names are compared with a list; an IP
address cannot be rebound. A unix socket is reached by no browser, and guarded by its permissions.
"""

import base64
import binascii
import hmac
import socket
from collections.abc import Awaitable, Callable, Container, Mapping
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from sidecars.settings.process import AdminSettings

OPEN_PATHS: Final = frozenset({"/metrics", "/healthz", "/readyz", "/authz/backchannel-logout"})
"""Pages for scrapers, probes and issuers, which use other names and have no token. A logout is signed."""

CHANGES: Final = frozenset({"/limits/reset", "/limits/bans/lift"})
"""Pages that change what is refused. On TCP they need the token, on loopback, too: any user can connect."""

CONSOLE: Final = "/console"
"""The path that the pages of the console are below."""

HEADERS: Final = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    }
)
"""Headers of each answer that does not have its own. `no-referrer` would make the Origin of forms `null`."""

_CHALLENGE: Final = (
    'Basic realm="edge-sidecars: any user, and the token of admin.token_file", charset="UTF-8"'
)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """The middleware of the admin applications."""

    def __init__(self, settings: AdminSettings) -> None:
        self._settings = settings
        names = (*settings.hosts, *settings.listen_hosts)
        self._hosts = frozenset({"localhost", *(name.lower().rstrip(".") for name in names)})

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Refuse what `refusal` does, and add HEADERS."""
        try:
            response = self.refusal(request) or await handler(request)
        except web.HTTPException as error:
            if isinstance(error, web.HTTPNotFound):
                error.text = "there is no such page; the page / lists all\n"
            elif isinstance(error, web.HTTPMethodNotAllowed):
                error.text = f"this page answers {error.headers['Allow'].replace(',', ', ')} only\n"
            _add_headers(error)
            raise
        _add_headers(response)
        return response

    def refusal(self, request: web.Request) -> web.Response | None:
        """The response to a request that may not be answered; None for one that may."""
        path = request.path
        if path in OPEN_PATHS or by_unix_socket(request):
            return None
        if not is_known(request.headers.get("Host", ""), self._hosts):
            return _text(421, "the Host header names another server; names are listed in admin.hosts")
        if self._settings.token_file is not None:
            return self._without_token(request)
        if path in CHANGES:
            return _text(403, "this page changes limits: it needs admin.token_file, or a unix socket")
        if self._settings.exposed and (path == CONSOLE or path.startswith(f"{CONSOLE}/")):
            return _text(
                403, "the admin port is reachable from other machines: the console needs admin.token_file"
            )
        return None

    def _without_token(self, request: web.Request) -> web.Response | None:
        try:
            token = self._settings.token
        except (OSError, ValueError) as error:
            return _text(503, f"admin.token_file cannot be used: {error}")
        shown = _shown_token(request.headers).encode(errors="surrogateescape")  # it may not be UTF-8
        if hmac.compare_digest(shown, token.encode()):
            return None
        refused = _text(401, "this page needs the token of admin.token_file")
        refused.headers["WWW-Authenticate"] = _CHALLENGE
        return refused


def is_known(host: str, names: Container[str]) -> bool:
    """Whether a Host header has an IP address, or one of `names` (lower case, without the final dot)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ip_address(name)
    except ValueError:
        return name.rstrip(".") in names
    return True


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a POST comes from a page of this server: browsers say so in Sec-Fetch-Site or in Origin."""
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin, host = headers.get("Origin", ""), headers.get("Host", "")
    return bool(host) and origin in {f"http://{host}", f"https://{host}"}


def _add_headers(response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def by_unix_socket(request: web.Request) -> bool:
    """Whether the request comes over a unix socket, which no browser reaches."""
    transport = request.transport
    found = None if transport is None else transport.get_extra_info("socket")
    return found is not None and found.family == socket.AF_UNIX


def _shown_token(headers: Mapping[str, str]) -> str:
    """The token in the request: RFC 6750 section 2.1, or the password of RFC 7617; empty without one."""
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")
