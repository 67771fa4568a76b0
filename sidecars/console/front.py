"""Starts the process of the console when a page is first requested, and passes requests on to it."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import aiohttp
import structlog
from aiohttp import web

from common.http_body import read_at_most
from common.os_errors import in_words
from common.socket_folder import SocketFolder
from sidecars.admin.guard import CONSOLE, is_same_origin

MAX_BODY_BYTES: Final = 1024 * 1024
"""The largest form: a pasted policy of a few hundred KiB, escaped."""

MAX_PAGE_BYTES: Final = 8 * 1024 * 1024
"""The largest page that is passed on."""

MAX_AT_ONCE: Final = 8
"""Pages that are passed on at the same time. More wait: a browser asks for about six things at once."""

START_SECONDS: Final = 20.0
"""Its start takes half a second, on a busy machine several."""

PAGE_SECONDS: Final = 75.0
"""Longer than the playground may take."""

_PASSED_ON: Final = ("Content-Type", "Accept", "If-None-Match")
_PASSED_BACK: Final = ("Content-Type", "Cache-Control", "Content-Security-Policy", "ETag", "Location")

COMMAND: Final = (sys.executable, "-P", "-m", "sidecars.console")

_log = structlog.get_logger("sidecars.console")


class ConsoleFront:
    """The console's process, which runs from the first request to `stop`, or until it is idle.

    `serve_admin` has the admin pages answered on a unix socket at the given path, too: the console asks
    there. `folder` is where sockets may be created.
    """

    def __init__(
        self,
        serve_admin: Callable[[Path], Awaitable[None]],
        folder: str | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._serve_admin = serve_admin
        self._parent_folder = folder
        self._command = tuple(command)
        self._folder: SocketFolder | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self._starting = asyncio.Lock()
        self._starts = 0
        self._passing = asyncio.Semaphore(MAX_AT_ONCE)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the paths of the console to `router`."""
        router.add_get(CONSOLE, _to_first_page)
        router.add_get(CONSOLE + "/{page:.*}", self._page)
        router.add_post(CONSOLE + "/{page:.*}", self._page)

    @property
    def pid(self) -> int | None:
        """The process id of the console; None while it does not run."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def stop(self) -> None:
        """End the console's process; does nothing if it does not run."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    async def _page(self, request: web.Request) -> web.Response:
        if request.method == "POST" and not is_same_origin(request.headers):
            return web.Response(status=403, text="a form of the console is sent by a page of the console\n")
        body = await read_at_most(request.content, MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            return web.Response(status=413, text=f"more than {MAX_BODY_BYTES} bytes\n")
        async with self._passing:
            try:
                session = await self._running()
                try:
                    return await _passed_on(session, request, body)
                except aiohttp.ClientConnectorError:  # it has just ended, and has seen nothing of the request
                    return await _passed_on(await self._another(session), request, body)
            except (OSError, TimeoutError, aiohttp.ClientError) as error:
                why = in_words(error) if isinstance(error, OSError) else str(error) or "it is too slow"
                return web.Response(status=503, text=f"the console does not answer: {why}\n")

    async def _another(self, session: aiohttp.ClientSession) -> aiohttp.ClientSession:
        """As `_running`, but not `session`, whose process does not accept connections. Raises OSError."""
        async with self._starting:
            if self._session is session and self._process is not None:
                with suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
        return await self._running()

    async def _running(self) -> aiohttp.ClientSession:
        """Return a session with the console's process, which is started if necessary. Raises OSError."""
        async with self._starting:
            if self._session is not None and self.pid is not None:
                return self._session
            if self._session is not None:
                await self._session.close()
            if self._folder is None:
                folder = await asyncio.to_thread(SocketFolder, self._parent_folder, "console-")
                try:
                    await self._serve_admin(folder.path / "admin")
                except BaseException:
                    folder.remove()
                    raise
                self._folder = folder
            path = self._folder.path / f"console-{self._starts}"
            self._starts += 1
            # Its standard input ends with us, however we end, and it ends then.
            process = self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(path),
                str(self._folder.path / "admin"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            _log.info("console started", pid=process.pid)
            await _until_ready(process)
            timeout = aiohttp.ClientTimeout(total=PAGE_SECONDS)
            # A connection for each page: a kept one may have ended with a console that was killed.
            connector = aiohttp.UnixConnector(str(path), force_close=True)
            self._session = aiohttp.ClientSession(
                "http://console", connector=connector, timeout=timeout, auto_decompress=False
            )
            return self._session


def runtime_folder(environ: Mapping[str, str]) -> str | None:
    """Return systemd's RuntimeDirectory= for sockets of our own; None, the default, without one."""
    return environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or None


async def _to_first_page(_request: web.Request) -> web.Response:
    return web.Response(status=308, headers={"Location": f"{CONSOLE}/"})


async def _until_ready(process: asyncio.subprocess.Process) -> None:
    """Wait until the process says that it listens. Raises OSError."""
    line = b""
    if process.stdout is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                line = await process.stdout.readline()
    if line != b"ready\n":
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise OSError("its process did not start; the log says why")


async def _passed_on(session: aiohttp.ClientSession, request: web.Request, body: bytes) -> web.Response:
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    async with session.request(
        request.method, request.rel_url, data=body or None, headers=headers, allow_redirects=False
    ) as answer:
        page = await read_at_most(answer.content, MAX_PAGE_BYTES + 1)
        if len(page) > MAX_PAGE_BYTES:
            return web.Response(status=502, text="the page is too large\n")
        kept = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
        return web.Response(status=answer.status, body=page, headers=kept)
