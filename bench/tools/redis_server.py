"""A separate Redis for a benchmark."""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
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
    with ExitStack() as stack:
        redis = await asyncio.to_thread(stack.enter_context, running_redis(folder))
        yield None if redis is None else redis.socket


@contextmanager
def running_redis(folder: Path, core: int | None = None) -> Iterator[RunningRedis | None]:
    """Run Redis on a unix socket, on `core` if one is given; yield None if there is no binary."""
    binary = find_redis(os.environ)
    if binary is None:
        yield None
        return
    address = folder / "r.sock"
    command = [binary, "--port", "0", "--unixsocket", str(address), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        _wait_for(address)
        yield RunningRedis(address, process.pid)
    finally:
        process.kill()
        process.wait()


def _wait_for(address: Path) -> None:
    for _ in range(500):
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(address))
            return
        time.sleep(0.01)
    raise RuntimeError(f"nothing accepts connections at {address}: Redis did not start")


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
