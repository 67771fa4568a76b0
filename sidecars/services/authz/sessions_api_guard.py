"""Decides which requests the sessions API answers, before their body is read.

The holder of a token can act as any user, so a request needs one on a unix socket, too. Browsers have no
business here: a request with a header that only they send is refused, as is one whose Host names another
server, which happens after DNS rebinding.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
from aiohttp import web

from common.buckets import SECOND_US, State, TokenBucket
from sidecars.admin.guard import by_unix_socket, is_known
from sidecars.admin.routes import CALLER
from sidecars.services.authz.json_calls import failed
from sidecars.settings.sessions_api import SessionsApiClient

UNKNOWN_CLIENT: Final = "(unknown)"
"""The client of a request without a valid token, in metrics."""

REQUEST_SECONDS: Final = 10.0
"""The longest time for a request, body included. The store answers within `lookup_timeout_seconds`."""

_ONE_A_SECOND: Final = TokenBucket(1, 1, SECOND_US)
"""The log lines about requests without a valid token, which anyone who reaches the address can send."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = structlog.get_logger("sidecars.authz.sessions")


class SessionsApiGuard:
    """The middleware of the sessions API. `count` is called with the client and the status of each answer."""

    def __init__(
        self,
        clients: Sequence[SessionsApiClient],
        hosts: Sequence[str],
        monotonic_clock: Callable[[], float],
        count: Callable[[str, int], None],
    ) -> None:
        self._clients = tuple(clients)
        self._hosts = frozenset({"localhost", *(name.lower().rstrip(".") for name in hosts)})
        self._clock = monotonic_clock
        self._count = count
        self._rates = {
            client.name: TokenBucket(client.requests_per_second, client.requests_per_second, SECOND_US)
            for client in clients
        }
        self._used: dict[str, State | None] = {}
        self._logged: State | None = None

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Answer the request, or refuse it with the reason as JSON."""
        if request.path == "/healthcheck":
            return await handler(request)
        client = self._client_of(request.headers.get("Authorization", ""))
        response: web.StreamResponse | None = self._refusal(request, client)
        if response is None and client is not None:
            request[CALLER] = client.name
            response = await _within_time(request, handler)
        assert response is not None  # noqa: S101 - without a client there is a refusal
        self._count(UNKNOWN_CLIENT if client is None else client.name, response.status)
        return response

    def _client_of(self, authorization: str) -> SessionsApiClient | None:
        """Return the client whose token the header carries (RFC 6750 section 2.1).

        Every token of every client is compared, in constant time.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        shown = hashlib.sha256(token.strip().encode(errors="surrogateescape")).digest()
        found = None
        for client in self._clients:
            try:
                hashes = client.token_hashes()
            except (OSError, ValueError) as error:
                self._note("a token_file cannot be used", client=client.name, detail=str(error))
                continue
            for one in hashes:
                if hmac.compare_digest(one, shown):
                    found = client
        return found

    def _refusal(self, request: web.Request, client: SessionsApiClient | None) -> web.Response | None:
        if not by_unix_socket(request) and not is_known(request.headers.get("Host", ""), self._hosts):
            return _refused(421, "misdirected", "the Host header names another server")
        if "Origin" in request.headers or "Sec-Fetch-Site" in request.headers:
            return _refused(403, "forbidden", "this API is for servers, and the request comes from a browser")
        if client is None:
            self._note("no valid token", path=request.path[:100])
            refused = _refused(401, "unauthorized", "the request needs the token of a client")
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        now_us = int(self._clock() * SECOND_US)
        taken, self._used[client.name] = self._rates[client.name].take(self._used.get(client.name), 1, now_us)
        if not taken.allowed:
            limited = _refused(429, "limited", f"more than {client.requests_per_second} requests per second")
            limited.headers["Retry-After"] = str(taken.retry_after_seconds)
            return limited
        return None

    def _note(self, what: str, **details: str) -> None:
        """Log a refusal, once per second at most; the metric counts all of them."""
        taken, self._logged = _ONE_A_SECOND.take(self._logged, 1, int(self._clock() * SECOND_US))
        if taken.allowed:
            _log.warning("sessions api refused a request", problem=what, **details)


async def _within_time(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await handler(request)
    except TimeoutError:
        return _refused(408, "timeout", f"it took more than {REQUEST_SECONDS:g} s")
    except web.HTTPException as error:
        return _refused(error.status, "bad_request", error.reason)


def _refused(status: int, error: str, description: str) -> web.Response:
    answer = failed(status, error, description)
    return web.Response(
        status=status, body=answer.body, content_type=answer.content_type, headers=dict(answer.headers)
    )
