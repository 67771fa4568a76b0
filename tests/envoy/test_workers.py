"""A real Envoy under load, with several authz processes in its cluster that are killed and restarted."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import yaml

from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.envoy import find_envoy, scripts_folder, serve_envoy
from sidecars.demo.process import ChildProcess, spawn
from sidecars.demo.until import until
from sidecars.transport.api.address import UnixAddress
from tests.support.envoy_config import endpoint, envoy_blocks, listener, with_service

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(240)]

READY_SECONDS = 60.0
STOP_SECONDS = 30.0
CLIENTS = 16
"""Requests in flight: enough that a process always has some of them when it is stopped."""

MIN_REQUESTS = 3_000
CHECKS = 50
"""That many new checks at a process show that Envoy uses it."""

ANNOUNCE_SECONDS = 2
"""Several intervals of the health check (0.5 s), because it is late on a busy machine."""

HANDLED = "grpc_server_handled_total"
POLICY = {
    "rules": [{"name": "open", "methods": ["GET"], "paths": ["/open/{rest=**}"], "allow": "anyone"}],
}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A short name: a unix socket path has at most 107 bytes.
    folder = tmp_path_factory.mktemp("w")
    (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    return folder


@asynccontextmanager
async def sidecars(folder: Path, name: str, **settings: Any) -> AsyncIterator[ChildProcess]:
    """Run `sidecars run authz` during the block, with its admin server at NAME.admin."""
    whole = {
        "transport": "native",
        "admin": {
            "listen": f"unix:{folder}/{name}.admin",
            "workers": f"unix:{folder}/{name}.{{worker}}.admin",
        },
        "drain": {"drain_delay_seconds": ANNOUNCE_SECONDS},
        "authz": {"listen": [f"unix:{folder}/{name}.{{worker}}.sock"], "policy": ["policy.yaml"]},
        **settings,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(whole))
    command = (sys.executable, "-m", "sidecars", "run", "authz", "--config", str(file))
    own = {key: value for key, value in os.environ.items() if not key.startswith("SIDECARS_")}
    async with spawn(
        name, command, folder / f"{name}.log", stop_seconds=STOP_SECONDS, environment=own
    ) as process:
        await process.until_ready(SidecarsAdmin(folder / f"{name}.admin").ready, READY_SECONDS)
        yield process


class Load:
    """Clients that send requests to Envoy without pause, and the responses."""

    def __init__(self, cookies: Sequence[str] = ()) -> None:
        self.cookies = cookies
        """Tokens of sessions, used in turn; more may be added."""
        self.requests = 0
        self.failures: list[str] = []
        self.enough = asyncio.Event()

    async def run(self, session: aiohttp.ClientSession) -> None:
        while not self.enough.is_set() or self.requests < MIN_REQUESTS:
            token = self.cookies[self.requests % len(self.cookies)] if self.cookies else ""
            headers = {"cookie": f"session={token}"} if token else {}
            async with session.get("/open/page", headers=headers) as response:
                text = await response.text()
                self.requests += 1
                if response.status != 200:
                    self.failures.append(f"{response.status} {dict(response.headers)} {text}")


def configuration(folder: Path, sockets: Sequence[str]) -> dict[str, Any]:
    """Return the configuration from docs/deployment.md, with the sockets of the test."""
    cluster, service = envoy_blocks()
    (endpoints,) = cluster["load_assignment"]["endpoints"]
    endpoints["lb_endpoints"] = [endpoint(UnixAddress(f"{folder}/{name}.sock"), 0) for name in sockets]
    service["status_on_error"] = {"code": "ServiceUnavailable"}  # 403 would be a decision
    service["grpc_service"]["timeout"] = "10s"  # a busy machine may pause for longer than 0.2 s
    return {"static_resources": {"listeners": [listener(with_service(service))], "clusters": [cluster]}}


@asynccontextmanager
async def loaded(folder: Path, *sockets: str, cookies: Sequence[str] = ()) -> AsyncIterator[Load]:
    """During the block, send requests to Envoy, which calls the `sockets`; return after the last response."""
    program = find_envoy(os.environ, scripts_folder())
    load = Load(cookies)
    async with (
        serve_envoy(program, configuration(folder, sockets), folder) as envoy,
        aiohttp.ClientSession(f"http://127.0.0.1:{envoy.ports['edge']}") as session,
    ):
        clients = [asyncio.create_task(load.run(session)) for _ in range(CLIENTS)]
        try:
            yield load
            load.enough.set()
            async with asyncio.timeout(READY_SECONDS):
                await asyncio.gather(*clients)
            if load.failures:  # the reason that Envoy gives
                load.failures.append(await envoy.admin("/stats?usedonly&filter=authz"))
                load.failures.append(await envoy.admin("/clusters"))
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def checks(admin: SidecarsAdmin) -> float:
    """Return how many checks the process has answered; 0 if it does not respond."""
    try:
        return await admin.metric(HANDLED)
    except aiohttp.ClientError:
        return 0


async def more_checks(admin: SidecarsAdmin) -> None:
    """Wait until Envoy calls the process with the admin server `admin`."""
    before = await checks(admin)

    async def asked() -> bool:
        return await checks(admin) >= before + CHECKS

    await until(asked, "Envoy asks the process", READY_SECONDS)


async def describe(folder: Path, name: str) -> Any:
    connector = aiohttp.UnixConnector(path=f"{folder}/{name}.admin")
    async with (
        aiohttp.ClientSession("http://sidecars", connector=connector) as client,
        client.get("/config") as answer,
    ):
        return orjson.loads(await answer.read())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_worker_that_ends_under_load_is_started_again_and_no_request_fails(
    folder: Path, number: signal.Signals
) -> None:
    """Envoy retries the calls that were in flight at a killed worker at the other one."""
    admins = [SidecarsAdmin(folder / f"both.{worker}.admin") for worker in range(2)]
    async with sidecars(folder, "both", workers=2), loaded(folder, "both.0", "both.1") as load:
        for admin in admins:
            await more_checks(admin)
        for worker, other in ((0, 1), (1, 0)):
            before = (await describe(folder, "both"))["workers"][worker]
            os.kill(before["pid"], number)
            await more_checks(admins[other])

            async def again(worker: int = worker, restarts: int = before["restarts"] + 1) -> bool:
                now = (await describe(folder, "both"))["workers"][worker]
                return bool(now["restarts"] == restarts and now["phase"] == "ready")

            await until(again, "it was started again", READY_SECONDS)
            await more_checks(admins[worker])  # Envoy uses it again: only now may the other one stop
    assert load.requests >= MIN_REQUESTS
    assert not load.failures, "\n".join(load.failures)


async def test_two_processes_restarted_in_turn_under_load_fail_no_request(folder: Path) -> None:
    """A real Envoy at full load with two endpoints, during SIGTERM and restart."""
    names = ("one", "two")
    admins = {name: SidecarsAdmin(folder / f"{name}.admin") for name in names}
    async with AsyncExitStack() as stack:
        processes = {name: await stack.enter_async_context(sidecars(folder, name)) for name in names}
        async with loaded(folder, "one.0", "two.0") as load:
            for _ in range(2):
                for name, other in (names, names[::-1]):
                    await more_checks(admins[name])
                    assert await processes[name].stop(STOP_SECONDS) == 0
                    await more_checks(admins[other])
                    processes[name] = await stack.enter_async_context(sidecars(folder, name))
                    await more_checks(admins[name])
    assert load.requests >= MIN_REQUESTS
    assert not load.failures, "\n".join(load.failures)
