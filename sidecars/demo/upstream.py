"""The demo's upstream: it answers every request with what it received."""

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

MAX_BODY_BYTES: Final = 64 * 1024
REMEMBERED_REQUESTS: Final = 200
"""Enough for any scenario; with the largest bodies 13 MB."""


class Echo:
    """An HTTP server that echoes requests. `received` has the newest requests."""

    def __init__(self) -> None:
        self.received: deque[dict[str, Any]] = deque(maxlen=REMEMBERED_REQUESTS)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer with method, path, every header line in order, and the body, as JSON."""
        seen = {
            "method": request.method,
            "path": request.raw_path,
            "headers": [[name.lower(), value] for name, value in request.headers.items()],
            "body": (await request.read()).decode(errors="replace"),
        }
        self.received.append(seen)
        return web.json_response(seen)


@asynccontextmanager
async def serve_upstream(echo: Echo, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Serve `echo` during the block; yield the bound port."""
    application = web.Application(client_max_size=MAX_BODY_BYTES)
    application.router.add_route("*", "/{path:.*}", echo.answer)
    async with serve_application(application, host, port) as bound:
        yield bound


@asynccontextmanager
async def serve_application(application: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve `application` during the block; yield the bound port."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def main(host: str, port: int) -> None:
    """Serve until the process ends."""
    async with serve_upstream(Echo(), host, port) as bound:
        sys.stderr.write(f"echo upstream on http://{host}:{bound}\n")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8080))
