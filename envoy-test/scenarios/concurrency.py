"""A concurrency limit: slots are taken at the request, and Envoy gives them back when it ends."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from aiohttp import web

from common.configfile import read
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import STOP_SECONDS, Edge, serve_sidecars
from sidecars.demo.until import until

REDIS = True
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"
LIMIT = 3
MAX_SECONDS: Final = 60
PATH = "/public/slow"
REQUEST_ID: Final = {"request_headers": {"header_name": "x-request-id", "descriptor_key": "request_id"}}
CLIENT: Final = {"request_headers": {"header_name": "x-client", "descriptor_key": "client"}}
ACTIONS = [CLIENT, REQUEST_ID]

_sockets: list[socket.socket] = []
"""Where the slow upstream of the scenario listens: Envoy is configured before it runs."""


def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
    """One route takes a slot for each request, from an upstream of its own."""
    listening = socket.create_server(("127.0.0.1", 0))
    _sockets.append(listening)
    resources = configuration["static_resources"]
    [host] = http_manager(resources["listeners"][0])["route_config"]["virtual_hosts"]
    limits = [
        {"actions": ACTIONS},
        {
            "actions": ACTIONS,
            "hits_addend": {"number": 1, "is_negative_hits": True},
            "apply_on_stream_done": True,
        },
    ]
    route = {
        "match": {"prefix": PATH},
        "route": {"cluster": "slow", "timeout": f"{MAX_SECONDS}s"},
        "typed_per_filter_config": {
            "envoy.filters.http.ratelimit": {"@type": PER_ROUTE, "rate_limits": limits},
        },
    }
    host["routes"].insert(0, route)
    host["rate_limits"] = []
    address = {"socket_address": {"address": "127.0.0.1", "port_value": listening.getsockname()[1]}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    resources["clusters"].append(
        {"name": "slow", "load_assignment": {"cluster_name": "slow", "endpoints": endpoints}}
    )


class Upstream:
    """Counts the requests that it serves at once; each ends with `gate`, or with its client."""

    def __init__(self) -> None:
        """Serve nothing yet."""
        self.gate = asyncio.Event()
        self.running = self.most = 0

    async def serve(self, request: web.Request) -> web.Response:
        """Answer `brief` paths soon, and others when the gate opens."""
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if request.path.endswith("/brief"):
                await asyncio.sleep(0.02)
            else:
                await self.gate.wait()
        finally:
            self.running -= 1
        return web.Response()

    async def runs(self, count: int) -> None:
        """Wait until so many requests run."""

        async def running() -> bool:
            return self.running == count

        await until(running, f"{count} requests run")


async def scenario(edge: Edge) -> None:
    upstream = Upstream()
    async with AsyncExitStack() as running:
        await running.enter_async_context(_serve(upstream))
        await _limit_clients(edge)
        async with serve_sidecars(edge.places, os.environ):
            await _limited(edge)
            await _refused_and_retried(edge, upstream)
            await _aborted(edge, upstream)
            await _each_client_has_its_own(edge, upstream)
        await _killed(edge, upstream)
    assert upstream.most <= LIMIT


async def _refused_and_retried(edge: Edge, upstream: Upstream) -> None:
    """Each client asks until it is served; each refused request is released by Envoy, too."""
    refused = 0

    async def served(number: int) -> None:
        nonlocal refused
        while await _status(edge, f"{PATH}/brief", client="many") == 429:
            refused += 1
            await asyncio.sleep(0.005 * (1 + number % 3))

    await asyncio.gather(*map(served, range(40)))
    assert refused > 0
    assert 1 < upstream.most <= LIMIT
    await _in_flight(edge, 0)


async def _aborted(edge: Edge, upstream: Upstream) -> None:
    """The slots of clients that hang up are free, and those of refused requests were never taken."""
    for _ in range(3):
        async with asyncio.TaskGroup() as group:
            held = [group.create_task(_status(edge, PATH, client="aborts")) for _ in range(LIMIT)]
            await upstream.runs(LIMIT)
            assert [await _status(edge, PATH, client="aborts") for _ in range(5)] == [429] * 5
            await _in_flight(edge, LIMIT)
            for task in held:
                task.cancel()
        await upstream.runs(0)
        await _in_flight(edge, 0)


async def _each_client_has_its_own(edge: Edge, upstream: Upstream) -> None:
    before, upstream.most = upstream.most, 0
    async with asyncio.TaskGroup() as group:
        first = [group.create_task(_status(edge, PATH, client="first")) for _ in range(LIMIT)]
        await upstream.runs(LIMIT)
        second = group.create_task(_status(edge, PATH, client="second"))
        await upstream.runs(LIMIT + 1)
        upstream.gate.set()
    assert [task.result() for task in (*first, second)] == [200] * (LIMIT + 1)
    upstream.gate.clear()
    upstream.most = before


async def _killed(edge: Edge, upstream: Upstream) -> None:
    """Redis knows who holds a slot, and frees those whose release was lost when their time is over."""
    async with asyncio.TaskGroup() as group:
        async with serve_sidecars(edge.places, os.environ) as process:
            held = [group.create_task(_status(edge, PATH, client="killed")) for _ in range(LIMIT)]
            await upstream.runs(LIMIT)
            process.child.kill()
        async with serve_sidecars(edge.places, os.environ) as process:
            assert await _status(edge, PATH, client="killed") == 429
            process.child.kill()
            await process.child.wait()
            upstream.gate.set()
    assert [task.result() for task in held] == [200] * LIMIT

    async with serve_sidecars(edge.places, os.environ):
        assert await _status(edge, f"{PATH}/brief", client="killed") == 429
        _write_limit(edge, "1s")

        async def served() -> bool:
            return await _status(edge, f"{PATH}/brief", client="killed") == 200

        await until(served, "the lost slots are free")


async def _status(edge: Edge, path: str, *, client: str) -> int:
    timeout = aiohttp.ClientTimeout(total=MAX_SECONDS)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(edge.url + path, headers={"x-client": client}) as answer,
    ):
        return answer.status


async def _in_flight(edge: Edge, count: int) -> None:
    async def counted() -> bool:
        return await edge.admin.metric("ratelimit_concurrency_in_flight") == count

    await until(counted, f"{count} requests are in flight")


@asynccontextmanager
async def _serve(upstream: Upstream) -> AsyncIterator[None]:
    application = web.Application()
    application.router.add_get("/{path:.*}", upstream.serve)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, _sockets.pop()).start()
        yield
    finally:
        await runner.cleanup()


async def _limit_clients(edge: Edge) -> None:
    """Write the limit, and let ratelimit count in Redis."""
    await edge.sidecars.stop(STOP_SECONDS)
    settings = read(edge.places.settings_file).data
    settings["ratelimit"] |= {"store": "redis", "redis_timeout_ms": 5000}
    edge.places.settings_file.write_text(yaml.safe_dump(settings))
    _write_limit(edge, "1h")


def _write_limit(edge: Edge, release_after: str) -> None:
    limit = {"concurrency": LIMIT, "release_after": release_after, "on_failure": "closed"}
    descriptors = [{"key": "client", "descriptors": [{"key": "request_id", "rate_limit": limit}]}]
    file = edge.places.folder / "limits" / "edge.yaml"
    file.write_text(yaml.safe_dump({"domain": read(file).data["domain"], "descriptors": descriptors}))


async def _limited(edge: Edge) -> None:
    async def answered() -> bool:
        try:
            return await _status(edge, f"{PATH}/brief", client="first") == 200
        except aiohttp.ClientError:
            return False

    await until(answered, "the edge answers")
    await _in_flight(edge, 0)
