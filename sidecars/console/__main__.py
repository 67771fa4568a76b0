"""The process of the console: `python -m sidecars.console SOCKET ADMIN_SOCKET`, started by `ConsoleFront`.

It serves pages on SOCKET, asks ADMIN_SOCKET, and ends with its standard input or when it was idle for long.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import web

from common.socket_folder import remove_folder
from sidecars.console.app import Console
from sidecars.console.priority import end_first, give_way
from sidecars.console.source import AdminSource
from sidecars.observability.logs import Logs
from sidecars.settings.process import LogSettings

IDLE_SECONDS: Final = 600.0
"""It holds some 60 MB, and starts again in half a second."""

EXPENDABLE: Final = 500
"""Where memory is short the kernel ends it before the process that serves."""


async def _serve(path: Path, admin: Path) -> None:
    ended = asyncio.Event()
    # The front writes nothing: the pipe becomes readable when it ends.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    source = AdminSource(admin)
    console = Console(source)
    runner = web.AppRunner(console.app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        os.umask(0o077)
        await web.UnixSite(runner, str(path)).start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while not ended.is_set():
            try:
                async with asyncio.timeout(max(1.0, IDLE_SECONDS - console.idle_seconds)):
                    await ended.wait()
            except TimeoutError:
                if console.idle_seconds >= IDLE_SECONDS:
                    break
    finally:
        await runner.cleanup()
        await source.close()
        if ended.is_set():
            remove_folder(path.parent)  # a front that was killed could not


def main() -> None:
    """Serve until the front ends or no page was requested for IDLE_SECONDS."""
    give_way()
    end_first(EXPENDABLE)
    logs = Logs(LogSettings(level="warning"))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(Path(sys.argv[1]), Path(sys.argv[2])))
    finally:
        logs.stop()


if __name__ == "__main__":
    main()
