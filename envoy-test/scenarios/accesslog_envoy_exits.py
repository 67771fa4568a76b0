"""Envoy loses its buffered access log entries at every exit, unless it had time to send them before."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp

from common.configfile import read
from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import STOP_SECONDS, Edge
from sidecars.demo.envoy import Envoy, find_envoy, scripts_folder, serve_envoy
from sidecars.demo.until import until

REQUESTS = 10
LONG_SECONDS, SHORT_SECONDS = 600, 3
"""Values of `buffer_flush_interval`: longer than the test, and short."""


async def _sigterm(envoy: Envoy) -> None:
    assert await envoy.process.stop(STOP_SECONDS) == 0


async def _quit(envoy: Envoy) -> None:
    with suppress(aiohttp.ClientError):
        await envoy.admin("/quitquitquit", "POST")
    await asyncio.wait_for(envoy.process.child.wait(), STOP_SECONDS)


async def _drain_and_quit(envoy: Envoy) -> None:
    await envoy.admin("/drain_listeners?graceful", "POST")
    await _quit(envoy)


async def _drain_wait_and_quit(envoy: Envoy) -> None:
    await envoy.admin("/drain_listeners?graceful", "POST")
    await asyncio.sleep(2 * SHORT_SECONDS)
    await _quit(envoy)


async def scenario(edge: Edge) -> None:
    for number, leave in enumerate((_sigterm, _quit, _drain_and_quit)):
        assert await _kept(edge, f"lost-{number}", LONG_SECONDS, leave) == 0, leave.__name__
    assert await _kept(edge, "kept", SHORT_SECONDS, _drain_wait_and_quit) == REQUESTS


async def _kept(
    edge: Edge, name: str, flush_seconds: int, leave: Callable[[Envoy], Awaitable[None]]
) -> float:
    """Return how many requests to a separate Envoy are logged once it has exited."""
    configuration = read(edge.places.folder / "envoy.json").data
    for listener in configuration["static_resources"]["listeners"]:
        listener["address"]["socket_address"]["port_value"] = 0
    manager = http_manager(configuration["static_resources"]["listeners"][0])
    common = manager["access_log"][0]["typed_config"]["common_config"]
    common["buffer_flush_interval"] = f"{flush_seconds}s"
    folder = edge.places.folder / name
    folder.mkdir()
    before = await _received(edge)
    async with serve_envoy(find_envoy(os.environ, scripts_folder()), configuration, folder) as envoy:
        for number in range(REQUESTS):
            answer = await ask(f"http://127.0.0.1:{envoy.ports['edge']}", f"/public/{name}/{number}")
            assert answer.status == 200

        async def logged() -> bool:
            return await envoy.counter("access_logs.grpc_access_log.logs_written") == REQUESTS

        await until(logged, "Envoy has written every entry into its buffer")
        await leave(envoy)
    await asyncio.sleep(1)  # entries in transit arrive
    return await _received(edge) - before


async def _received(edge: Edge) -> float:
    return await edge.admin.metric("accesslog_entries_received_total")
