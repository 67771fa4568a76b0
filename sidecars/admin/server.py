"""The HTTP server for operators: /metrics, /healthz, /readyz, /config, /totals, /version."""

import logging
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry

from common.replace_file import replace_file
from sidecars.admin import routes as admin_routes
from sidecars.admin.guard import Guard
from sidecars.admin.health import Health, ProcessPhase
from sidecars.admin.index import OWN_PAGES, index_page
from sidecars.admin.routes import AdminRoute
from sidecars.observability.exposition import metrics_page
from sidecars.observability.process_metrics import package_version
from sidecars.settings.masking import redact
from sidecars.settings.process import AdminSettings
from sidecars.transport.api.address import Address, TcpAddress
from sidecars.transport.api.listening import bind_error, remove_stale_socket, socket_mode

_SHUTDOWN_SECONDS: Final = 1.0
"""An operator's request takes milliseconds; one that hangs must not hold up the end of the process."""


_LOGGER: Final = logging.getLogger("sidecars.admin")


class _RequestLog(logging.LoggerAdapter[logging.Logger]):
    """What aiohttp logs about requests: one line for a malformed one, without the traceback of its parser."""

    def exception(self, msg: object, *args: object, **options: Any) -> None:
        error = options.get("exc_info")
        if isinstance(error, HttpProcessingError):
            # Without what was sent: it may hold a token.
            _LOGGER.warning("admin request malformed: %s %s", error.code, type(error).__name__)
        else:
            super().exception(msg, *args, **options)


class Site:
    """Serves an application on `addresses`, from `start` to `stop`.

    The port of the first address is written to `port_file`, where it has one.
    """

    def __init__(
        self, addresses: Sequence[Address], app: web.Application, port_file: Path | None = None
    ) -> None:
        self._addresses = tuple(addresses)
        self._port_file = port_file
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS, logger=_RequestLog(_LOGGER)
        )

    async def start(self) -> str:
        """Bind and serve; the addresses, with their real ports. Raises OSError that names the address."""
        await self._runner.setup()
        bound = [await self._bind(address) for address in self._addresses]
        if self._port_file is not None and isinstance(bound[0], TcpAddress):
            # A process that waits for the file must never see it empty.
            replace_file(self._port_file, f"{bound[0].port}\n".encode())
        return ", ".join(map(str, bound))

    async def serve_privately(self, path: Path) -> None:
        """Serve on a unix socket at `path`, too, which is in a folder of our own. Raises OSError."""
        await web.UnixSite(self._runner, str(path)).start()

    async def stop(self) -> None:
        """Stop serving; does nothing if not started."""
        await self._runner.cleanup()

    async def _bind(self, address: Address) -> Address:
        before = len(self._runner.addresses)
        try:
            if isinstance(address, TcpAddress):
                await web.TCPSite(self._runner, address.host, address.port).start()
            else:
                remove_stale_socket(address)
                path = "\0" + address.path[1:] if address.abstract else address.path
                with socket_mode(address):
                    await web.UnixSite(self._runner, path).start()
        except OSError as error:
            await self._runner.cleanup()
            raise bind_error(address, error) from None
        if not isinstance(address, TcpAddress):
            return address
        return TcpAddress(address.host, self._runner.addresses[before][1])


def admin_site(settings: AdminSettings, app: web.Application) -> Site:
    """The site of the admin application `app`."""
    return Site((settings.listen, *settings.also_listen), app, settings.port_file)


class Admin:
    """The admin server, which serves from `start` to `stop`. `describe` returns `/config` before masking.

    `plain_counters`: as for `metrics_page`. `links` are paths that others add to `router` until `start`.
    `totals` returns `/totals`.
    """

    def __init__(
        self,
        settings: AdminSettings,
        health: Health,
        registry: CollectorRegistry,
        describe: Callable[[], dict[str, Any]],
        routes: Sequence[AdminRoute] = (),
        *,
        plain_counters: bool = False,
        links: Sequence[str] = (),
        totals: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._totals = totals
        self._links = tuple(links)
        self._plain_counters = plain_counters
        self._health = health
        self._registry = registry
        self._describe = describe
        self._routes = tuple(routes)
        app = web.Application(middlewares=[Guard(settings).middleware])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/config", self._config)
        app.router.add_get("/version", self._version)
        app.router.add_get("/totals", self._totals_page)
        app.router.add_get("/", self._index)
        for route in routes:
            admin_routes.add(app.router, route)
        self.router = app.router
        self.site = admin_site(settings, app)

    async def start(self) -> str:
        """Bind and serve; the address, with the real port. Raises OSError that names the address."""
        return await self.site.start()

    async def stop(self) -> None:
        """Stop serving; does nothing if not started."""
        await self.site.stop()

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        body, content_type = metrics_page(self._registry, accept, plain_counters=self._plain_counters)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        phase = self._health.phase
        return web.Response(text=f"{phase}\n", status=200 if phase is ProcessPhase.READY else 503)

    async def _config(self, _request: web.Request) -> web.Response:
        return _json(redact(self._describe()))

    async def _version(self, _request: web.Request) -> web.Response:
        return _json({"version": package_version(), "python": platform.python_version()})

    async def _totals_page(self, _request: web.Request) -> web.Response:
        return _json(self._totals())

    async def _index(self, _request: web.Request) -> web.Response:
        others = [f"{route.method} {route.path}" for route in self._routes if route.method != "GET"]
        links = [route.path for route in self._routes if route.method == "GET"]
        return index_page((*OWN_PAGES, *links, *self._links), others)


def _json(value: Any) -> web.Response:
    body = orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    return web.Response(body=body + b"\n", content_type="application/json")
