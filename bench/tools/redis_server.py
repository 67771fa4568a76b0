"""A separate Redis for a benchmark."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sidecars.demo.redis import find_redis


@asynccontextmanager
async def redis_server(folder: Path) -> AsyncIterator[Path | None]:
    """Run Redis on a unix socket; yield None if there is no binary."""
    binary = find_redis(os.environ)
    if binary is None:
        yield None
        return
    socket = folder / "r.sock"
    command = [binary, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220 - before anything is measured
    try:
        await asyncio.to_thread(_wait_for, socket)
        yield socket
    finally:
        process.kill()
        process.wait()


def _wait_for(file: Path) -> None:
    for _ in range(500):
        if file.exists():
            return
        time.sleep(0.01)
    raise RuntimeError(f"{file} never came: Redis did not start")
