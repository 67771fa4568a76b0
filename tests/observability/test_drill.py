"""docs/runbooks/drill.md is true: commands and pages show the cause of each fault that is made for real."""

import asyncio
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

from sidecars.demo.ask import ask
from sidecars.demo.configuration import SECOND_EDGE, http_filters
from sidecars.demo.edge import Edge, serve_edge
from tests.support.checks import check_request
from tests.support.entries import http_entry, message
from tests.support.redis_server import RedisServer
from tests.support.relay import Relay
from tests.support.running import SIDECARS, Running, call, connect

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.redis,
    pytest.mark.timeout(600),
    pytest.mark.skipif("ALL_FAULTS" not in os.environ, reason="takes two minutes: make test-all"),
]

PAGE = (Path(__file__).parents[2] / "docs" / "runbooks" / "drill.md").read_text(encoding="utf-8")
ADMIN = "http://127.0.0.1:9090"
ETC = "/etc/sidecars"
MOST_STEPS = 3
LOG_SECONDS = 1.5
"""Envoy sends log entries each second."""

TEN_MINUTES_FAST = (
    "import time; now = time.time; time.time = lambda: now() + 600; import sidecars.cli as s; s.main()"
)


@dataclass(frozen=True, slots=True)
class Walk:
    """A section of the page: the commands, the lines that they print, and the page of the console."""

    fault: str
    commands: list[str]
    lines: list[str]
    page: str
    shows: str


def walks() -> list[Walk]:
    """Return every section of the page."""
    found = []
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```", section, re.DOTALL | re.MULTILINE))
        browser = re.search(r"^In a browser: `([^`]*)` shows `([^`]*)`", section, re.MULTILINE)
        assert browser is not None, section
        commands, lines = (blocks[kind].splitlines() for kind in ("console", "text"))
        found.append(Walk(section.splitlines()[0], commands, lines, *browser.groups()))
    return found


@dataclass(frozen=True, slots=True)
class Fault:
    """What a walk needs to know: the folder of the settings, the admin socket, and names in its commands."""

    folder: Path
    admin: Path
    request_id: str = ""
    program: str = f"{sys.executable} -m sidecars"

    def filled(self, command: str) -> str:
        """Return the command or path with the places of this run."""
        command = command.replace("REQUEST_ID", self.request_id).replace(ETC, str(self.folder))
        command = command.replace("OLD.yaml", f"{self.folder}/OLD.yaml")
        command = re.sub(rf"(?<=curl -s )('?){ADMIN}", rf"--unix-socket {self.admin} \1http://admin", command)
        return re.sub(r"^sidecars", self.program, command)


@dataclass(frozen=True, slots=True)
class Drill:
    """The running edge."""

    edge: Edge
    redis: RedisServer
    keys: Relay

    def fault(self, request_id: str = "") -> Fault:
        return Fault(self.edge.places.folder, self.edge.places.admin_socket, request_id)

    async def asks(self, path: str, url: str = "", method: str = "GET", **headers: str) -> str:
        """Send a request; return its id once the access log has it."""
        response = await ask(url or self.edge.url, path, method=method, headers=headers)
        await asyncio.sleep(LOG_SECONDS)
        return str(response.headers["x-request-id"])

    def token(self, scope: str = "orders:read", **claims: Any) -> str:
        return f"Bearer {self.edge.provider.token('alice', scope, **claims)}"


@asynccontextmanager
async def serve_drill(folder: Path) -> AsyncIterator[Drill]:
    with RedisServer() as redis:

        def change_settings(settings: dict[str, Any]) -> None:
            settings["ratelimit"] |= {"store": "redis", "redis_timeout_ms": 1000}
            settings["accesslog"]["envoy_admin"] = f"unix:{folder}/envoy-admin.sock"

        def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
            [second] = [
                one for one in configuration["static_resources"]["listeners"] if one["name"] == SECOND_EDGE
            ]
            http_filters(second)["envoy.filters.http.ext_authz"]["grpc_service"]["timeout"] = "0.001s"

        async with (
            serve_edge(
                folder,
                os.environ,
                redis_url=redis.url,
                change_envoy=change_envoy,
                change_settings=change_settings,
            ) as edge,
            Relay(edge.places.idp_port) as keys,
        ):

            def change(policy: dict[str, Any]) -> None:
                credentials = policy["credentials"]
                credentials["cache"] = {"ttl_seconds": 0.1}
                credentials["issuers"][0]["jwks"] |= {
                    "url": f"http://127.0.0.1:{keys.port}/.well-known/jwks.json",
                    "refresh_seconds": 0.5,
                    "max_stale_seconds": 2,
                }

            await edge.change_policy(change)
            yield Drill(edge, redis, keys)


@asynccontextmanager
async def wrong_audience(drill: Drill) -> AsyncIterator[Fault]:
    token = drill.token(aud="https://other.example")
    yield drill.fault(await drill.asks("/orders/1", authorization=token))


@asynccontextmanager
async def missing_scope(drill: Drill) -> AsyncIterator[Fault]:
    yield drill.fault(await drill.asks("/orders/1", authorization=drill.token("profile")))


@asynccontextmanager
async def limit_met(drill: Drill) -> AsyncIterator[Fault]:
    for _ in range(5):
        await ask(drill.edge.url, "/login", method="POST")
    yield drill.fault(await drill.asks("/login", method="POST"))


@asynccontextmanager
async def redis_dead(drill: Drill) -> AsyncIterator[Fault]:
    drill.redis.stop()
    yield drill.fault(await drill.asks("/orders/1", cookie=f"session={'x' * 43}"))
    drill.redis.start()
    await asyncio.sleep(LOG_SECONDS)


@asynccontextmanager
async def key_server_dead(drill: Drill) -> AsyncIterator[Fault]:
    await drill.keys.cut()
    await asyncio.sleep(3)
    yield drill.fault(await drill.asks("/orders/1", authorization=drill.token()))
    await drill.keys.resume()


@asynccontextmanager
async def disk_full(drill: Drill) -> AsyncIterator[Fault]:
    folder = drill.edge.places.folder / "full"
    folder.mkdir()
    sinks = [{"type": "file", "path": "/dev/full"}]
    settings = {"accesslog": {"listen": [f"unix:{folder}/l"], "sinks": sinks}}
    with Suite(folder, settings) as running, connect(f"unix:{folder}/l") as channel:
        method = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
        channel.stream_unary(method)(iter([message(http_entry()).SerializeToString()]), timeout=10)
        failing = 'accesslog_sink_failing{sink="file"}'
        running.wait_until(lambda: running.metric(failing) == 1)
        yield Fault(folder, folder / "admin")


@asynccontextmanager
async def bad_reload(drill: Drill) -> AsyncIterator[Fault]:
    file = drill.edge.places.policy_file
    good = file.read_text()
    file.write_text(good.replace("orders:read", 'orders:read"'))
    await asyncio.sleep(LOG_SECONDS)
    yield drill.fault()
    file.write_text(good)
    await asyncio.sleep(LOG_SECONDS)


@asynccontextmanager
async def hung_worker(drill: Drill) -> AsyncIterator[Fault]:
    folder = drill.edge.places.folder / "hung"
    folder.mkdir()
    authz = {"listen": [f"unix:{folder}/{{worker}}"], "policy": [str(drill.edge.places.policy_file)]}
    with Suite(folder, {"workers": 2, "authz": authz, "redis": {"url": drill.redis.url}}) as running:
        [pid] = [one["pid"] for one in running.config()["workers"] if one["worker"] == 1]
        os.kill(pid, signal.SIGSTOP)
        yield Fault(folder, folder / "admin")
        os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def wrong_policy(drill: Drill) -> AsyncIterator[Fault]:
    shutil.copy(drill.edge.places.policy_file, drill.edge.places.folder / "OLD.yaml")

    def change(policy: dict[str, Any]) -> None:
        policy["rules"] = [rule for rule in policy["rules"] if rule["name"] != "public"]

    await drill.edge.change_policy(change)
    yield drill.fault(await drill.asks("/public/hello"))


@asynccontextmanager
async def clock_off(drill: Drill) -> AsyncIterator[Fault]:
    folder = drill.edge.places.folder / "clock"
    folder.mkdir()
    authz = {"listen": [f"unix:{folder}/a"], "policy": [str(drill.edge.places.policy_file)]}
    settings = {"authz": authz, "redis": {"url": drill.redis.url}}
    token = drill.token(exp=int(time.time()) + 300)
    with Suite(folder, settings, ("-c", TEN_MINUTES_FAST)), connect(f"unix:{folder}/a") as channel:
        request = check_request(path="/orders/1", headers={"authorization": token})
        call(channel, "/envoy.service.auth.v3.Authorization/Check", request.SerializeToString())
        yield Fault(folder, folder / "admin", program=f'{sys.executable} -c "{TEN_MINUTES_FAST}"')


@asynccontextmanager
async def short_timeout(drill: Drill) -> AsyncIterator[Fault]:
    drill.redis.pause()
    request_id = await drill.asks("/orders/1", drill.edge.other_url, cookie=f"session={'y' * 43}")
    drill.redis.resume()
    yield drill.fault(request_id)


FAULTS: Mapping[str, Callable[[Drill], AbstractAsyncContextManager[Fault]]] = {
    "Wrong audience": wrong_audience,
    "Missing scope": missing_scope,
    "Limit met": limit_met,
    "Redis dead": redis_dead,
    "Key server dead": key_server_dead,
    "Disk full": disk_full,
    "Bad reload": bad_reload,
    "Hung worker": hung_worker,
    "Clock off by ten minutes": clock_off,
    "Envoy's timeout too short": short_timeout,
    "Valid but wrong policy": wrong_policy,
}


class Suite(Running):
    """Sidecars of their own, whose admin server also listens on the socket `admin`."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], program: tuple[str, ...] = SIDECARS
    ) -> None:
        admin = {"listen": "127.0.0.1:0", "port_file": "admin.port", "also_listen": [f"unix:{folder}/admin"]}
        arguments = None if program is SIDECARS else ("run", "all", "--config", str(folder / "sidecars.yaml"))
        super().__init__(folder, {"admin": admin, **settings}, program=program, arguments=arguments)

    def __enter__(self) -> Self:
        super().__enter__()
        self.wait_until_ready()
        return self


async def test_each_fault_is_found_as_the_page_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = {walk.fault: walk for walk in walks()}
    assert found.keys() == FAULTS.keys()
    problems: list[str] = []
    async with serve_drill(tmp_path_factory.mktemp("d")) as drill:
        for name, cause in FAULTS.items():
            walk = found[name]
            assert len(walk.commands) <= MOST_STEPS
            async with cause(drill) as fault:
                problems += await differences(walk, fault)
    assert not problems, "\n\n".join(problems)


async def differences(walk: Walk, fault: Fault) -> list[str]:
    """Return the lines of a walk that its commands did not print, and what the console lacks."""
    printed = "".join([await output(fault.filled(command)) for command in walk.commands])
    seen = [" ".join(line.split()) for line in printed.splitlines()]
    missing = [line for line in walk.lines if not any(matches(line, one) for one in seen)]
    problems = [f"{walk.fault}: no line {line!r} in:\n{printed}" for line in missing]
    page = await console(fault.admin, fault.filled(walk.page))
    return (
        problems
        if walk.shows in page
        else [*problems, f"{walk.fault}: {walk.page} lacks {walk.shows}:\n{page}"]
    )


def matches(shown: str, printed: str) -> bool:
    pattern = ".*".join(map(re.escape, " ".join(shown.split()).split("...")))
    return re.fullmatch(pattern, printed) is not None


async def output(command: str) -> str:
    """Run a command as a shell does; return what it printed."""
    process = await asyncio.create_subprocess_shell(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "COLUMNS": "400", "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 60)
    return printed.decode()


async def console(admin: Path, path: str) -> str:
    """Return a page of the console."""
    connector = aiohttp.UnixConnector(str(admin))
    async with (
        aiohttp.ClientSession("http://admin", connector=connector) as client,
        client.get(path) as response,
    ):
        return await response.text()
