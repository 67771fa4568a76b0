"""A separate Redis for a benchmark."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

from redis.asyncio import Redis

from sidecars.demo.redis import find_redis

_KEYS_AT_ONCE = 10_000


class RunningRedis(NamedTuple):
    """A Redis that runs."""

    socket: Path | None
    """None where only its CPU time is measured."""
    pid: int


@asynccontextmanager
async def redis_server(folder: Path) -> AsyncIterator[Path | None]:
    """Run Redis on a unix socket; yield None if there is no binary."""
    running = running_redis(folder)
    redis = await asyncio.to_thread(running.__enter__)
    try:
        yield None if redis is None else redis.socket
    finally:
        running.__exit__(None, None, None)


@contextmanager
def running_redis(folder: Path, core: int | None = None) -> Iterator[RunningRedis | None]:
    """Run Redis on a unix socket, on `core` if one is given; yield None if there is no binary."""
    binary = find_redis(os.environ)
    if binary is None:
        yield None
        return
    socket = folder / "r.sock"
    command = [binary, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        _wait_for(socket)
        yield RunningRedis(socket, process.pid)
    finally:
        process.kill()
        process.wait()


def _wait_for(file: Path) -> None:
    for _ in range(500):
        if file.exists():
            return
        time.sleep(0.01)
    raise RuntimeError(f"{file} never came: Redis did not start")


@asynccontextmanager
async def filled_redis_server(folder: Path, keys: int) -> AsyncIterator[Path | None]:
    """Run Redis with that many keys; yield None if there is no binary."""
    async with redis_server(folder) as socket:
        if socket is not None:
            async with Redis(unix_socket_path=str(socket)) as client:
                for start in range(0, keys, _KEYS_AT_ONCE):
                    numbers = range(start, min(start + _KEYS_AT_ONCE, keys))
                    await client.mset({f"filler:{number}": number for number in numbers})
        yield socket
