"""Prometheus scrapes a real edge under faults: each alert fires for its fault, and none in health.

Envoy, two authz sidecars, ratelimit and accesslog, a Redis, an identity provider and a log collector run for
real. The rules are the shipped ones with all durations divided by FASTER.
"""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from sidecars.demo.edge import Edge, serve_edge
from tests.support.dashboards import is_of_processes, without_data
from tests.support.prometheus import Prometheus, serve_prometheus
from tests.support.redis_server import RedisServer
from tests.support.relay import Relay
from tests.support.waiting import until

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.redis,
    pytest.mark.timeout(600),
    pytest.mark.skipif("ALL_FAULTS" not in os.environ, reason="takes two minutes: make test-all"),
]

HEALTHY_SECONDS = 22.0
"""Longer than every `for` and than the hour to which denials are compared, made faster."""

PAUSE_SECONDS = 0.02
CLIENTS = 3
LATE = {"AuthzAnswersLate", "RatelimitAnswersLate"}
"""On a machine with other work, answers are late in health, too."""

NOT_FASTER = {"EntriesMissing"}
"""accesslog asks Envoy every 5 seconds, longer than the windows of this alert once they are made faster."""

REALLY_LATE = """
sum by (grpc_service) (
  last_over_time(grpc_server_handling_seconds_bucket{le="0.02", grpc_service=~".*RateLimitService"}[30s])
  or last_over_time(grpc_server_handling_seconds_bucket{le="0.2", grpc_service=~".*Authorization"}[30s])
)
/ sum by (grpc_service) (last_over_time(grpc_server_handling_seconds_count[30s])) < 0.999
"""


@dataclass
class Fleet:
    """The edge with its relays, and the Prometheus that scrapes it."""

    edge: Edge
    redis: RedisServer
    prometheus: Prometheus
    keys: Relay
    collector: Relay
    entries: Relay
    seen: set[str] = field(default_factory=set)
    """Alerts that fired for a fault."""

    async def faulty(self, *names: str) -> None:
        """Return once these alerts fire; no other does."""
        await self.prometheus.until_firing(*names)
        self.seen |= set(names)
        firing = {name for name, _ in await self.prometheus.firing()}
        assert firing - self.seen - LATE - NOT_FASTER == set()

    async def well_again(self, *names: str) -> None:
        """Return once these alerts are silent."""
        await self.prometheus.until_silent(*names)


async def take_logs(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def serve_collector() -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_post("/v1/logs", take_logs)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def sinks(folder: Path, port: int) -> list[dict[str, Any]]:
    otlp = {"type": "otlp", "protocol": "http", "endpoint": f"http://127.0.0.1:{port}"}
    spool = {"folder": str(folder / "spool"), "max_bytes": 1024 * 1024, "sync_ms": 10}
    return [
        {"type": "file", "path": str(folder / "access.jsonl")},
        {**otlp, "name": "lossy", "retry_timeout_seconds": 0},
        {**otlp, "name": "spooled", "spool": spool},
    ]


@asynccontextmanager
async def serve_fleet(folder: Path) -> AsyncIterator[Fleet]:
    """Run everything during the block, with traffic."""
    with RedisServer() as redis:
        async with (
            serve_collector() as collector_port,
            Relay(collector_port) as collector,
            Relay(folder / "accesslog.sock", folder / "entries.sock") as entries,
        ):

            def change_settings(settings: dict[str, Any]) -> None:
                settings["accesslog"]["sinks"] = sinks(folder, collector.port)
                settings["ratelimit"] |= {"store": "redis", "redis_timeout_ms": 1000}
                settings["accesslog"]["envoy_admin"] = f"unix:{folder}/envoy-admin.sock"

            def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
                clusters = configuration["static_resources"]["clusters"]
                [cluster] = [one for one in clusters if one["name"] == "accesslog"]
                [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
                endpoint["endpoint"]["address"]["pipe"]["path"] = str(folder / "entries.sock")

            async with (
                serve_edge(
                    folder,
                    os.environ,
                    redis_url=redis.url,
                    change_envoy=change_envoy,
                    change_settings=change_settings,
                ) as edge,
                Relay(edge.places.idp_port) as keys,
                Relay(edge.places.admin_socket) as one,
                Relay(edge.places.other_admin_socket) as two,
                Relay(edge.envoy.admin_socket) as envoy,
            ):
                await prepare(edge, keys)
                jobs = {
                    "edge-sidecars": [target(one.port, "one"), target(two.port, "two")],
                    "envoy": [target(envoy.port, "one")],
                }
                async with (
                    serve_prometheus(folder / "prometheus", jobs, "500ms") as prometheus,
                    traffic(edge),
                ):
                    yield Fleet(edge, redis, prometheus, keys, collector, entries)


def target(port: int, node: str) -> dict[str, Any]:
    return {"targets": [f"127.0.0.1:{port}"], "labels": {"cluster": "east", "node": node}}


async def prepare(edge: Edge, keys: Relay) -> None:
    """Have room for the traffic, and keys and tokens that are asked for often."""
    for file in (edge.places.folder / "limits").glob("*.yaml"):
        file.write_text(
            file.read_text().replace("_unit: 100}", "_unit: 100000}").replace("_unit: 600}", "_unit: 600000}")
        )

    def change(policy: dict[str, Any]) -> None:
        credentials = policy["credentials"]
        credentials["throttle"] = None
        credentials["cache"] = {"ttl_seconds": 0.1}
        credentials["issuers"][0]["jwks"] |= {
            "url": f"http://127.0.0.1:{keys.port}/.well-known/jwks.json",
            "refresh_seconds": 0.5,
            "max_stale_seconds": 6,
            "timeout_seconds": 1,
        }

    await edge.change_policy(change)


@asynccontextmanager
async def traffic(edge: Edge) -> AsyncIterator[None]:
    """Send requests of several kinds during the block."""

    async def send() -> None:
        async with aiohttp.ClientSession(edge.url) as client:
            token = edge.provider.token("alice", "orders:read")
            while True:
                session = {"cookie": f"session={secrets.token_urlsafe(32)}"}
                for path, headers in (
                    ("/public/hello", {}),
                    ("/orders/1", {"authorization": f"Bearer {token}"}),
                    ("/public/hello", {}),
                    ("/orders/1", session),
                ):
                    with suppress(aiohttp.ClientError, TimeoutError):
                        async with client.get(path, headers=headers) as response:
                            await response.read()
                    await asyncio.sleep(PAUSE_SECONDS)

    senders = [asyncio.create_task(send()) for _ in range(CLIENTS)]
    try:
        yield
    finally:
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)


async def test_each_alert_fires_for_its_fault_and_none_in_health(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    began = time.time()
    async with serve_fleet(tmp_path_factory.mktemp("f")) as fleet:
        await healthy(fleet)
        for fault in (
            bad_reload,
            collector_away,
            spool_folder_gone,
            entries_swallowed,
            slow_redis,
            refusing_redis,
            dead_redis,
            dead_key_server,
            wrong_policy,
        ):
            await fault(fleet)
        assert await fleet.prometheus.rule_problems() == []
        missing = await without_data(fleet.prometheus, began)
        assert {query for query in missing if not is_of_processes(query)} == set()


async def healthy(fleet: Fleet) -> None:
    """No alert fires for as long as the longest window, but where answers were late in truth."""
    end = time.monotonic() + HEALTHY_SECONDS
    while time.monotonic() < end:
        firing = {name for name, _ in await fleet.prometheus.firing()}
        if LATE & firing:
            assert await fleet.prometheus.query(REALLY_LATE)
        assert firing - LATE - NOT_FASTER == set()
        await asyncio.sleep(0.2)


async def bad_reload(fleet: Fleet) -> None:
    file = fleet.edge.places.policy_file
    good = file.read_text()
    file.write_text("rules: {")
    await fleet.faulty("ReloadFailed")
    file.write_text(good)
    await fleet.well_again("ReloadFailed")


async def collector_away(fleet: Fleet) -> None:
    await fleet.collector.cut()
    await fleet.faulty("EntriesLost", "SinkFails", "SpoolGrows")
    await fleet.collector.resume()
    await fleet.well_again("EntriesLost", "SinkFails", "SpoolGrows")


async def spool_folder_gone(fleet: Fleet) -> None:
    spool, aside = (fleet.edge.places.folder / name for name in ("spool", "aside"))
    await until(lambda: not list(spool.glob("*.spool")))
    spool.rename(aside)
    await fleet.collector.cut()
    await fleet.faulty("SpoolFails")
    aside.rename(spool)
    await fleet.collector.resume()
    await fleet.well_again("SpoolFails")


async def entries_swallowed(fleet: Fleet) -> None:
    fleet.entries.swallows = True
    fleet.entries.disconnect()
    await fleet.faulty("EntriesMissing")
    fleet.entries.swallows = False
    fleet.entries.disconnect()


async def slow_redis(fleet: Fleet) -> None:
    """Answers come after up to 0.4 s, longer than Envoy waits by default."""
    stop = asyncio.Event()

    def pause() -> None:
        with fleet.redis.client() as client:
            while not stop.is_set():
                client.client_pause(400)

    pausing = asyncio.create_task(asyncio.to_thread(pause))
    await fleet.faulty("AuthzAnswersLate", "RatelimitAnswersLate")
    stop.set()
    await pausing
    await fleet.well_again("RedisAway")


async def refusing_redis(fleet: Fleet) -> None:
    """Redis has no memory left."""
    with fleet.redis.client() as client:
        client.config_set("maxmemory", "1")
        await fleet.faulty("RedisRefuses", "RatelimitAnswersFail")
        client.config_set("maxmemory", "0")
    await fleet.well_again("RedisRefuses")


async def dead_redis(fleet: Fleet) -> None:
    fleet.redis.stop()
    await fleet.faulty("RedisAway", "RatelimitAnswersFail", "AuthzAnswersFail")
    fleet.redis.start()
    await fleet.well_again("RedisAway")


async def dead_key_server(fleet: Fleet) -> None:
    await fleet.keys.cut()
    await fleet.faulty("KeySetStale", "AuthzAnswersFail")
    await fleet.keys.resume()
    await fleet.well_again("KeySetStale")


async def wrong_policy(fleet: Fleet) -> None:
    """The public rule is gone: the policy is valid, and most requests are denied."""

    def change(policy: dict[str, Any]) -> None:
        policy["rules"] = [rule for rule in policy["rules"] if rule["name"] != "public"]

    assert yaml.safe_load(fleet.edge.places.policy_file.read_text())
    await fleet.edge.change_policy(change)
    await fleet.faulty("DeniedShareRises")
