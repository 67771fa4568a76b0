"""Pages of the admin server that a sidecar brings along: plain values in, plain values out."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from aiohttp import web

MAX_BODY_BYTES = 64 * 1024
"""An operator's wish, or a logout token: a few KiB."""


@dataclass(frozen=True, slots=True)
class AdminRequest:
    """What was asked."""

    query: Mapping[str, str]
    content_type: str
    """Without parameters, in lower case; `application/octet-stream` where none was sent."""
    body: bytes


@dataclass(frozen=True, slots=True)
class AdminAnswer:
    """What is answered."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdminRoute:
    """One method of one path. The handler raises nothing; what it does raise is a 500."""

    method: str
    path: str
    handle: Callable[[AdminRequest], Awaitable[AdminAnswer]]


@runtime_checkable
class OffersAdminRoutes(Protocol):
    """A sidecar that brings pages along."""

    @property
    def admin_routes(self) -> Sequence[AdminRoute]:
        """They do not change while the process lives."""


def routes_of(sidecars: Sequence[object]) -> tuple[AdminRoute, ...]:
    """The pages of all that bring any."""
    return tuple(
        route
        for sidecar in sidecars
        if isinstance(sidecar, OffersAdminRoutes)
        for route in sidecar.admin_routes
    )


def add(router: web.UrlDispatcher, route: AdminRoute) -> None:
    """Have `router` serve `route`."""

    async def handle(request: web.Request) -> web.Response:
        body = await request.content.read(MAX_BODY_BYTES + 1)
        while len(body) <= MAX_BODY_BYTES and not request.content.at_eof():
            body += await request.content.read(MAX_BODY_BYTES + 1 - len(body))
        if len(body) > MAX_BODY_BYTES:
            return web.Response(status=413, text=f"more than {MAX_BODY_BYTES} bytes\n")
        answer = await route.handle(AdminRequest(dict(request.query), request.content_type.lower(), body))
        return web.Response(
            status=answer.status,
            body=answer.body,
            content_type=answer.content_type,
            headers=dict(answer.headers),
        )

    router.add_route(route.method, route.path, handle)
