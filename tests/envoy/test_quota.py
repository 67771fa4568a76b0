"""Quotas through real Envoys: examples/quota/envoy.yaml and one ratelimit sidecar that two of them share."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml

from common.configfile import read
from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.configuration import http_manager
from sidecars.demo.envoy import Envoy, find_envoy, scripts_folder, serve_envoy
from sidecars.demo.process import ChildProcess, spawn
from sidecars.demo.until import until
from tests.support.envoy_config import check_configuration

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "quota" / "envoy.yaml"
PATIENCE_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.012
"""Between two requests of a client, so about 60 a second."""

pytestmark = pytest.mark.envoy


def envoy_configuration(socket: Path) -> dict[str, Any]:
    """Return the example, changed so that everything it admits was assigned, and without an upstream."""
    configuration: dict[str, Any] = read(EXAMPLE).data
    resources = configuration["static_resources"]
    [listener] = resources["listeners"]
    listener["address"]["socket_address"]["port_value"] = 0
    manager = http_manager(listener)
    [host] = manager["route_config"]["virtual_hosts"]
    host["routes"] = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    [matcher] = manager["http_filters"][0]["typed_config"]["bucket_matchers"]["matcher_list"]["matchers"]
    settings = matcher["on_match"]["action"]["typed_config"]
    settings["no_assignment_behavior"] = {"fallback_rate_limit": {"blanket_rule": "DENY_ALL"}}
    del settings["expired_assignment_behavior"]
    sidecar, _upstream = resources["clusters"]
    [endpoints] = sidecar["load_assignment"]["endpoints"]
    endpoints["lb_endpoints"][0]["endpoint"]["address"]["pipe"]["path"] = str(socket)
    resources["clusters"] = [sidecar]
    return configuration


@dataclass
class Sample:
    """What passed, and when the answers came; the longest answer took `slowest` seconds."""

    passed: list[float] = field(default_factory=list)
    refused: int = 0
    slowest: float = 0.0

    def check(self, rate: float, burst: float) -> None:
        """In any time t at most `burst + rate * t` passed: each answer is at most `slowest` late."""
        level, before = 0.0, 0.0
        for moment in sorted(self.passed):
            level = max(0.0, level - (moment - before) * rate) + 1
            before = moment
            assert level <= burst + rate * self.slowest + 1


@dataclass
class Client:
    """Sends requests through one Envoy without end."""

    envoy: Envoy
    sample: Sample = field(default_factory=Sample)

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        url = f"http://127.0.0.1:{self.envoy.ports['edge']}/login"
        async with aiohttp.ClientSession() as session:
            while True:
                sent = clock()
                async with session.get(url) as answer:
                    now = clock()
                    self.sample.slowest = max(self.sample.slowest, now - sent)
                    if answer.status == 200:
                        self.sample.passed.append(now)
                    else:
                        assert answer.status == 429
                        self.sample.refused += 1
                await asyncio.sleep(PAUSE_SECONDS)


@dataclass
class Edges:
    """Two Envoys with their clients, and the sidecar."""

    folder: Path
    admin: SidecarsAdmin
    clients: list[Client] = field(default_factory=list)
    running: AsyncExitStack = field(default_factory=AsyncExitStack)

    def limit(self, requests: int | None) -> None:
        """Write the limit; None removes it."""
        limits: dict[str, Any] = {"unlimited": True}
        value = "other"
        if requests is not None:
            value, limits = "login", {"unit": "second", "requests_per_unit": requests}
        descriptors = [{"key": "route", "value": value, "rate_limit": limits}]
        text = yaml.safe_dump({"domain": "edge", "descriptors": descriptors})
        fresh = self.folder / "limits.new"
        fresh.write_text(text)
        fresh.replace(self.folder / "limits" / "edge.yaml")

    @asynccontextmanager
    async def sidecar(self) -> AsyncIterator[ChildProcess]:
        settings = {
            "admin": {"listen": f"unix:{self.admin.socket}"},
            "drain": {"drain_delay_seconds": 0, "grace_seconds": 2, "flush_seconds": 2},
            "reload": {"interval_seconds": 0.1},
            "ratelimit": {
                "listen": [f"unix:{self.folder}/ratelimit.sock"],
                "limits": ["limits"],
                "quota": {"enabled": True},
            },
        }
        file = self.folder / "sidecars.yaml"
        file.write_text(yaml.safe_dump(settings))
        command = (sys.executable, "-m", "sidecars", "run", "ratelimit", "--config", str(file))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARS_")}
        log = self.folder / "sidecars.log"
        async with spawn("ratelimit", command, log, stop_seconds=10, environment=environment) as process:
            await process.until_ready(self.admin.ready, PATIENCE_SECONDS)
            yield process

    async def add_client(self, name: str) -> Client:
        folder = self.folder / name
        folder.mkdir()
        program = find_envoy(os.environ, scripts_folder())
        configuration = envoy_configuration(self.folder / "ratelimit.sock")
        envoy = await self.running.enter_async_context(serve_envoy(program, configuration, folder))
        client = Client(envoy)
        self.clients.append(client)
        task = asyncio.create_task(client.run())

        async def stop() -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        self.running.push_async_callback(stop)
        return client

    async def until(self, condition: Any, what: str) -> None:
        async def holds() -> bool:
            return bool(condition())

        await until(holds, what, PATIENCE_SECONDS)

    async def until_streams(self, count: int) -> None:
        async def open_streams() -> bool:
            return await self.admin.metric("ratelimit_quota_streams") == count

        await until(open_streams, f"{count} Envoys report", PATIENCE_SECONDS)

    async def sampled(self, passed: int) -> list[Sample]:
        """Start to count again, and return the counts once so many requests have passed at each Envoy."""
        for client in self.clients:
            client.sample = Sample()
        samples = [client.sample for client in self.clients]
        await self.until(lambda: min(len(one.passed) for one in samples) >= passed, f"{passed} passed")
        return samples

    async def until_changed(self, change: Any) -> None:
        """Call `change` and wait until Envoys were sent what follows from it."""
        before = await self.admin.metric("ratelimit_quota_actions_total")
        change()

        async def sent() -> bool:
            now = await self.admin.metric("ratelimit_quota_actions_total")
            return now >= before + len(self.clients)

        await until(sent, "every Envoy was sent an action", PATIENCE_SECONDS)


def together(samples: list[Sample]) -> Sample:
    """Return what several Envoys have passed."""
    return Sample(
        [moment for sample in samples for moment in sample.passed],
        sum(sample.refused for sample in samples),
        max(sample.slowest for sample in samples),
    )


async def test_envoys_share_limits_that_change_vanish_and_outlive_the_sidecar(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("q")  # A short name: a unix socket path has at most 107 bytes.
    (folder / "limits").mkdir()
    edges = Edges(folder, SidecarsAdmin(folder / "admin.sock"))
    async with edges.running:
        edges.limit(20)
        async with edges.sidecar() as process:
            await _one_envoy_has_the_limit_and_two_share_it(edges)
            await _a_changed_limit_is_sent_at_once(edges)
            await _without_a_limit_all_pass(edges)
            edges.limit(20)
            process.child.kill()
            await process.child.wait()
        async with edges.sidecar() as process:
            await edges.until_streams(2)
            samples = await edges.sampled(3)
            await edges.until(lambda: min(one.refused for one in samples) > 0, "both are limited again")
            assert await process.stop(10) == 0


async def _one_envoy_has_the_limit_and_two_share_it(edges: Edges) -> None:
    first = await edges.add_client("a")
    await edges.until(lambda: len(first.sample.passed) > 40, "one Envoy has more than the burst")
    assert first.sample.refused > 0
    second = await edges.add_client("b")
    await edges.until(lambda: len(second.sample.passed) > 15, "the other has a part")
    together([first.sample, second.sample]).check(rate=20, burst=20)
    reported = await edges.admin.metric("ratelimit_quota_requests_total")
    assert 0 < reported <= sum(len(one.sample.passed) + one.sample.refused for one in edges.clients) + 2


async def _a_changed_limit_is_sent_at_once(edges: Edges) -> None:
    await edges.until_changed(lambda: edges.limit(4))
    samples = await edges.sampled(3)
    together(samples).check(rate=4, burst=4)


async def _without_a_limit_all_pass(edges: Edges) -> None:
    await edges.until_changed(lambda: edges.limit(None))
    samples = await edges.sampled(100)
    assert together(samples).refused <= 4  # those that were under way


async def test_envoy_accepts_the_example(tmp_path: Path) -> None:
    """It warns that the protocol is work in progress, and of nothing else."""
    problems = await check_configuration(find_envoy(os.environ, scripts_folder()), EXAMPLE)
    assert [line for line in problems.splitlines() if "marked as work-in-progress" not in line] == []
