"""Admin pages that a sidecar adds: handlers from plain request values to plain response values."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from aiohttp import web

from common.http_body import read_at_most

MAX_BODY_BYTES: Final = 64 * 1024
"""The largest body. A request of an operator, or a logout token, has a few KiB."""

CALLER: Final = "caller"
"""The key under which a middleware leaves the name of the caller in a request of aiohttp."""


@dataclass(frozen=True, slots=True)
class AdminRequest:
    """A request to the admin port."""

    query: Mapping[str, str]
    content_type: str
    """Without parameters, in lower case; `application/octet-stream` where none was sent."""
    body: bytes
    caller: str = ""
    """Who sent it, where a middleware has found that out."""


@dataclass(frozen=True, slots=True)
class AdminAnswer:
    """A response of the admin port."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdminRoute:
    """One method of one path; `*` is any method. The handler should not raise: an exception becomes a 500."""

    method: str
    path: str
    handle: Callable[[AdminRequest], Awaitable[AdminAnswer]]
    max_body_bytes: int = MAX_BODY_BYTES
    """A larger body is 413."""


@runtime_checkable
class OffersAdminRoutes(Protocol):
    """A sidecar with admin pages of its own."""

    @property
    def admin_routes(self) -> Sequence[AdminRoute]:
        """The pages, which do not change while the process runs."""


def routes_of(sidecars: Sequence[object]) -> tuple[AdminRoute, ...]:
    """The pages of all sidecars that have any."""
    return tuple(
        route
        for sidecar in sidecars
        if isinstance(sidecar, OffersAdminRoutes)
        for route in sidecar.admin_routes
    )


def add(router: web.UrlDispatcher, route: AdminRoute) -> None:
    """Add `route` to `router`."""
    longest = route.max_body_bytes

    async def handle(request: web.Request) -> web.Response:
        body = await read_at_most(request.content, longest + 1)
        if len(body) > longest:
            raise web.HTTPRequestEntityTooLarge(longest, text=f"more than {longest} bytes\n")
        caller = request.get(CALLER, "")
        asked = AdminRequest(dict(request.query), request.content_type.lower(), body, caller)
        answer = await route.handle(asked)
        return web.Response(
            status=answer.status,
            body=answer.body,
            content_type=answer.content_type,
            headers=dict(answer.headers),
        )

    router.add_route(route.method, route.path, handle)
