"""HTTP for callers without gRPC: what a sidecar answers besides its gRPC services, and `/healthcheck`."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from aiohttp import web
from aiohttp.typedefs import Middleware

from sidecars.admin.health import Health, ProcessPhase
from sidecars.admin.routes import AdminRoute, add
from sidecars.transport.api.address import Address


@runtime_checkable
class OffersHttp(Protocol):
    """A sidecar that answers calls over HTTP, too."""

    @property
    def http_address(self) -> Address | None:
        """Where it does; None: it does not."""

    @property
    def http_routes(self) -> Sequence[AdminRoute]:
        """The calls."""

    @property
    def http_middlewares(self) -> Sequence[Middleware]:
        """What each request passes first."""


def http_app(
    health: Health, routes: Sequence[AdminRoute], middlewares: Sequence[Middleware] = ()
) -> web.Application:
    """An application with `routes` and `/healthcheck`: 200 while the process is ready, else 500."""

    async def healthcheck(_request: web.Request) -> web.Response:
        ready = health.phase is ProcessPhase.READY
        return web.Response(text="OK" if ready else "", status=200 if ready else 500)

    app = web.Application(middlewares=middlewares)
    app.router.add_route("*", "/healthcheck", healthcheck)
    for route in routes:
        add(app.router, route)
    return app
