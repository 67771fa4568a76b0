"""A `closed` rule while Redis fails under load: nothing passes that Redis could not count, and it comes back.

The times are those of `python -m bench redis_faults`; here is what happens, whatever it takes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from protos.ratelimit_pb2 import RateLimitResponse
from sidecars.process.redis import connect
from sidecars.services.ratelimit import RatelimitSidecar, build
from sidecars.settings.redis import RedisSettings
from tests.support.ratelimiting import awaited, dependencies, request, settings_with
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

LIMITS = """
domain: edge
descriptors:
  - {key: closed, rate_limit: {unit: day, requests_per_unit: 1000000, on_failure: closed}}
"""
CLOSED = request({"closed": "1"})


@asynccontextmanager
async def serving(server: RedisServer, folder: Path) -> AsyncIterator[RatelimitSidecar]:
    (folder / "edge.yaml").write_text(LIMITS)
    client = connect(RedisSettings(url=server.url, operation_timeout_ms=200, connect_timeout_ms=200))
    sidecar = build(settings_with(folder, store="redis", redis_timeout_ms=200), dependencies(client))
    await sidecar.start()
    yield sidecar
    await sidecar.stop()
    await client.aclose()


async def allowed(sidecar: RatelimitSidecar) -> bool:
    return (await awaited(sidecar, CLOSED)).overall_code == RateLimitResponse.OK


async def comes_back(sidecar: RatelimitSidecar) -> None:
    """Return once a call is counted."""
    async with asyncio.timeout(30):
        while True:
            if await allowed(sidecar):
                return
            await asyncio.sleep(0.01)


@contextmanager
def killed(server: RedisServer) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def suspended(server: RedisServer) -> Iterator[None]:
    server.pause()
    yield
    server.resume()


@contextmanager
def out_of_memory(server: RedisServer) -> Iterator[None]:
    with server.client() as client:
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


@contextmanager
def read_only(server: RedisServer) -> Iterator[None]:
    with server.client() as client:
        client.replicaof("127.0.0.1", 1)
        yield
        client.replicaof("NO", "ONE")


@contextmanager
def loading(server: RedisServer) -> Iterator[None]:
    """Started again with data that takes it longer to load than the test, which ends it."""
    with server.client() as client:
        client.mset({f"filler{number}": "x" * 10 for number in range(3_000)})
        client.save()
    server.stop()
    server.arguments = ("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
    server.start(answering=False)
    yield
    server.stop()
    server.arguments = ()
    server.start()


FAULTS = [killed, suspended, out_of_memory, read_only, loading]


@pytest.mark.parametrize("fault", FAULTS)
async def test_nothing_passes_that_redis_cannot_count_and_it_comes_back(
    redis_server: RedisServer, tmp_path: Path, fault: Callable[[RedisServer], AbstractContextManager[None]]
) -> None:
    async with serving(redis_server, tmp_path) as sidecar:
        await comes_back(sidecar)
        with fault(redis_server):
            for _ in range(3):
                answers = await asyncio.gather(*[allowed(sidecar) for _ in range(20)])
                assert answers == [False] * 20
                await asyncio.sleep(0.12)  # a probe happens
        await comes_back(sidecar)


async def test_forgotten_scripts_cost_no_answer(redis_server: RedisServer, tmp_path: Path) -> None:
    async with serving(redis_server, tmp_path) as sidecar:
        await comes_back(sidecar)
        for _ in range(5):
            with redis_server.client() as client:
                client.script_flush()
            assert await asyncio.gather(*[allowed(sidecar) for _ in range(20)]) == [True] * 20
