"""The web application of the console's process."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from sidecars.console.front import MAX_BODY_BYTES
from sidecars.console.pages import configuration, decisions, limits, logs, sessions
from sidecars.console.pages.overview import Overview
from sidecars.console.pages.playground import Playground
from sidecars.console.render import Renderer, static_files
from sidecars.console.sandbox import Sandbox
from sidecars.console.source import Source, SourceError

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the pages: nothing inline, and nothing from elsewhere."""

MAX_FIELDS: Final = 16
"""Fields of a form; those of the playground have four."""

_log = structlog.get_logger("sidecars.console")

_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

Show = Callable[[Source, Mapping[str, str]], Awaitable[dict[str, Any]]]
"""What a page shows for the parameters of its URL. Raises SourceError."""


class Console:
    """The pages of `source`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._renderer = Renderer()
        self._static = static_files()
        self._asked_at = time.monotonic()
        self._overview = Overview(source)
        self._sandbox = Sandbox()
        self._playground = Playground(self._sandbox)
        self.app = web.Application(middlewares=[self._middleware], client_max_size=MAX_BODY_BYTES)
        router = self.app.router
        router.add_get("/console/static/{name}", self._static_file)
        shows: dict[str, Show] = {
            "": self._overview.show,
            "decisions": decisions.show_list,
            "decision": decisions.Why(self._sandbox).show,
            "limits": limits.show,
            "logs": logs.show,
            "sessions": sessions.show,
            "configuration": configuration.show,
            "playground": self._playground.show,
        }
        for path, show in shows.items():
            router.add_get(f"/console/{path}", self._page(path or "overview", show))
        router.add_post("/console/playground", self._evaluated)
        self.app.cleanup_ctx.append(self._background)

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last request."""
        return time.monotonic() - self._asked_at

    async def _background(self, _app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self._overview.sample())
        yield
        task.cancel()
        await self._sandbox.close()

    def _page(self, name: str, show: Show) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            return await self._shown(name, show(self._source, request.query))

        return handle

    async def _evaluated(self, request: web.Request) -> web.Response:
        text = (await request.read()).decode(errors="replace")
        try:
            form = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS))
        except ValueError:
            raise web.HTTPBadRequest from None
        return await self._shown("playground", self._playground.evaluate(self._source, form))

    async def _shown(self, name: str, showing: Awaitable[dict[str, Any]]) -> web.Response:
        try:
            values, status = await showing, 200
        except SourceError as error:
            values, status, name = {"text": str(error), "of": name}, error.status, "problem"
        return web.Response(status=status, text=self._renderer.page(name, **values), content_type="text/html")

    async def _static_file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        content = self._static.get(name)
        if content is None:
            raise web.HTTPNotFound
        kind = _TYPES[name[name.rindex(".") :]]
        # Its URL has a hash of the files.
        return web.Response(body=content, content_type=kind, headers={"Cache-Control": "max-age=86400"})

    def _problem(self, status: int, text: str) -> web.Response:
        page = self._renderer.page("problem", text=text, of="")
        return web.Response(status=status, text=page, content_type="text/html")

    @web.middleware
    async def _middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self._asked_at = time.monotonic()
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = self._problem(error.status, f"{error.status} {error.reason}: {request.path}")
        except Exception:  # a defect of a page; the others go on
            _log.exception("a page of the console failed", path=request.path)
            response = self._problem(500, "The page failed. The log of the process says why.")
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.setdefault("Cache-Control", "no-store")
        return response
