"""A real HTTP server on loopback whose responses a test can change."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class WebServer:
    """Answers every path with `bodies[path]` or by `handler`, and records the requests."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    handler: Handler | None = None
    delay_seconds: float = 0.0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is clear, every response waits."""
    asked: list[str] = field(default_factory=list)
    forms: list[Mapping[str, str]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    port: int = 0
    _runner: web.AppRunner | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start on the same port as before, if any."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        self.gate.set()
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if request.method == "POST":
            form = await request.post()
            self.forms.append({name: str(value) for name, value in form.items()})
        await self.gate.wait()
        if self.handler is not None:
            return await self.handler(request)
        body = self.bodies.get(request.path)
        return web.Response(status=404) if body is None else web.Response(body=body)
