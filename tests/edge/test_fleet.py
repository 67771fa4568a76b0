"""From the file of a team to every edge: 20 teams, three Envoys with sidecars, a web server, and releases."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.tools.estate import large_estate
from edge.build.build import Built, build
from edge.bundle.bundle import read_bundle
from edge.intent.estate import EstateReader
from edge.release.choose import position
from edge.release.gate import group_of
from edge.release.model import Release, Target
from edge.release.signed import read_release, sign_release
from sidecars.cli.release_collect import read_reports
from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.ask import ask
from sidecars.demo.envoy import Envoy, find_envoy, scripts_folder, serve_envoy
from sidecars.demo.idp import IdentityProvider, serve_idp
from sidecars.demo.process import spawn
from sidecars.demo.until import until
from sidecars.demo.upstream import Echo, serve_upstream
from tests.edge.estates import TODAY
from tests.edge.served import on_this_machine, patient, serve_sidecars, settings_of
from tests.sidecars.process.bundle.test_rollout import FILE, Operator
from tests.support.bundle_server import BundleServer
from tests.support.bundles import Signer
from tests.support.command import plain_command
from tests.support.free_ports import free_port

pytestmark = pytest.mark.envoy

TEAMS, ROUTES = 20, 4
CALLS = 10
PLACE = Path("/place-of-the-edge")
"""The folder of the sockets in what is built; each edge has its own."""

_NAMES = [f"edge-{number}" for number in range(100)]
CANARY = next(name for name in _NAMES if position(name) < 50)
OTHERS = [name for name in _NAMES if position(name) >= 50][:2]
TEAM, OTHER_TEAM = "team-002", "team-004"
OPEN_ROUTE, FILES_ROUTE = "open-0", "files-0"
OPEN, FILES = f"/{TEAM}/status-0", f"/{TEAM}/files-0/a"


@dataclass(frozen=True)
class Edge:
    """One Envoy with its sidecars."""

    name: str
    envoy: Envoy
    admin: SidecarsAdmin

    async def status(self, path: str, host: str = f"{TEAM}.example.com") -> int:
        answer = await ask(f"http://127.0.0.1:{self.envoy.ports['edge']}", path, headers={"host": host})
        return answer.status

    async def serves(self) -> Any:
        return json.loads(await self.admin.page("/config"))["bundle"]

    async def pulls(self, outcome: str) -> float:
        sample = f'sidecars_bundle_pulls_total{{outcome="{outcome}"}} '
        lines = (await self.admin.page("/metrics")).splitlines()
        return sum(float(line.removeprefix(sample)) for line in lines if line.startswith(sample))


@dataclass
class Fleet:
    """Three edges, and who releases to them."""

    folder: Path
    server: BundleServer
    signer: Signer
    operator: Operator
    texts: dict[str, str]
    built: Built
    reports: Path
    edges: list[Edge] = field(default_factory=list)
    released: int = 0
    revision: str = ""
    """The revision that is good, and serves everywhere."""
    first_release: bytes = b""

    @property
    def canary(self) -> Edge:
        return self.edges[0]

    @property
    def others(self) -> list[Edge]:
        return self.edges[1:]

    def changed(self, route: str, change: Mapping[str, Any]) -> dict[str, str]:
        """Return the intent with a change of one route of the team."""
        content = yaml.safe_load(self.texts[f"services/{TEAM}.yaml"])
        next(one for one in content["routes"] if one["id"] == route).update(change)
        return {**self.texts, f"services/{TEAM}.yaml": yaml.safe_dump(content, sort_keys=False)}

    def claimed(self, host: str) -> dict[str, str]:
        """Return the intent in which the team claims another host."""
        content = yaml.safe_load(self.texts[f"services/{TEAM}.yaml"])
        content["hosts"].append(host)
        return {**self.texts, f"services/{TEAM}.yaml": yaml.safe_dump(content, sort_keys=False)}

    async def step(self, name: str, *arguments: str) -> None:
        done = await asyncio.to_thread(self.operator.step, name, *arguments)
        assert done.returncode == 0, done.stderr

    async def start(self, texts: Mapping[str, str], *options: str) -> str:
        """Build, sign and publish intent, and start its release. Returns the revision."""
        built = build(EstateReader().read(texts, TODAY))
        self.released += 1
        name = f"r{self.released}.tar.gz"
        archive = self.signer.archive(built.files, built.revision, self.released)
        self.server.put(f"/edge/{name}", archive)
        (self.folder / name).write_bytes(archive)
        await self.step("start", str(self.folder / name), *options)
        return built.revision

    async def until_served(self, revision: str, edges: list[Edge]) -> None:
        async def served() -> bool:
            return all([(await edge.serves())["revision"] == revision for edge in edges])

        await until(served, f"{revision} serves at {[edge.name for edge in edges]}")

    async def until_counted(self, outcome: str, times: int) -> None:
        """Wait until every edge has counted so many more pulls with that outcome."""
        before = [await edge.pulls(outcome) for edge in self.edges]

        async def counted() -> bool:
            now = [await edge.pulls(outcome) for edge in self.edges]
            return all(new - old >= times for new, old in zip(now, before, strict=True))

        await until(counted, f"every edge has counted {outcome}")

    async def everyone_is_answered(self) -> None:
        for edge in self.edges:
            assert [await edge.status(OPEN) for _ in range(CALLS)] == [200] * CALLS


@pytest.fixture
def fleet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("n")  # A short name: a unix socket path has at most 107 bytes.


@asynccontextmanager
async def fleet_in(folder: Path) -> AsyncIterator[Fleet]:
    """Serve three edges during the block."""
    async with AsyncExitStack() as running:
        loop = asyncio.get_running_loop()
        idp_port = await running.enter_async_context(serve_idp(IdentityProvider(loop.time)))
        upstream_port = await running.enter_async_context(serve_upstream(Echo()))
        intent = large_estate(TEAMS, ROUTES)
        texts = on_this_machine(intent, PLACE, upstream_port, idp_port, free_port())
        server, signer = running.enter_context(BundleServer()), Signer(folder)
        collector, reports = free_port(), folder / "reports.jsonl"
        command = (sys.executable, "-m", "sidecars", "release", "collect", "-o", str(reports))
        listen = ("--listen", f"127.0.0.1:{collector}")
        log = folder / "collector.log"
        await running.enter_async_context(spawn("the collector", (*command, *listen), log, stop_seconds=5))
        built = build(EstateReader().read(texts, TODAY))
        fleet = Fleet(folder, server, signer, Operator(folder, server, signer), texts, built, reports)
        fleet.revision = await fleet.start(texts)
        fleet.first_release = fleet.operator.file.read_bytes()
        for name in (CANARY, *OTHERS):
            fleet.edges.append(await running.enter_async_context(_edge(fleet, name, collector)))
        yield fleet


@asynccontextmanager
async def _edge(fleet: Fleet, name: str, collector: int) -> AsyncIterator[Edge]:
    place = fleet.folder / name
    place.mkdir()
    reached = {"allow_http": True, "allow_addresses": ["127.0.0.0/8"]}
    bundle = {
        **reached,
        "url": f"{fleet.server.url}{FILE}",
        "staged": True,
        "folder": "state",
        "keys": {"release": str(fleet.signer.public)},
        "interval_seconds": 0.5,
        "node": {"id": name},
        "status": {**reached, "url": f"http://127.0.0.1:{collector}/", "interval_seconds": 1},
    }
    async with AsyncExitStack() as running:
        settings = {**settings_of(place, "{bundle}"), "bundle": bundle}
        admin = await running.enter_async_context(serve_sidecars(place, settings))
        static = fleet.built.files["envoy.json"].replace(str(PLACE).encode(), str(place).encode())
        program = find_envoy(os.environ, scripts_folder())
        envoy = await running.enter_async_context(serve_envoy(program, patient(static), place))
        yield Edge(name, envoy, admin)


async def test_a_change_of_one_team_from_its_file_to_every_edge(fleet_folder: Path) -> None:
    async with fleet_in(fleet_folder) as fleet:
        await fleet.everyone_is_answered()
        await _a_change_arrives_everywhere(fleet)
        await _a_bad_change_is_refused_at_check(fleet)
        await _a_harmful_change_reaches_the_canary_and_goes_back(fleet)
        await _an_outage_of_the_server_changes_nothing(fleet)
        await _what_cannot_be_trusted_is_refused_and_counted(fleet)


async def _a_change_arrives_everywhere(fleet: Fleet) -> None:
    assert [await edge.status(FILES) for edge in fleet.edges] == [401] * 3
    fleet.texts = fleet.changed(FILES_ROUTE, {"who": {"allow": "anyone"}})
    fleet.revision = await fleet.start(fleet.texts)
    await fleet.until_served(fleet.revision, fleet.edges)
    assert [await edge.status(FILES) for edge in fleet.edges] == [200] * 3
    other = FILES.replace(TEAM, OTHER_TEAM)
    assert [await edge.status(other, f"{OTHER_TEAM}.example.com") for edge in fleet.edges] == [401] * 3
    await fleet.everyone_is_answered()


async def _a_bad_change_is_refused_at_check(fleet: Fleet) -> None:
    for name, text in fleet.claimed(f"{OTHER_TEAM}.example.com").items():
        file = fleet.folder / "intent" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    checked = await asyncio.to_thread(plain_command, "edge", "check", str(fleet.folder / "intent"))
    assert checked.returncode == 1
    said = f"{checked.stdout}{checked.stderr}"
    assert f"{TEAM}.yaml:" in said
    assert f"{OTHER_TEAM}.example.com" in said


async def _a_harmful_change_reaches_the_canary_and_goes_back(fleet: Fleet) -> None:
    waves = ("--wave", "canary:50%", "--wave", "all:100%")
    gates = ("--gate", "max_denied_rise=0.1", "--gate", f"min_calls={CALLS}")
    closed = fleet.changed(OPEN_ROUTE, {"who": {"allow": {"scopes": ["operator"]}}})
    harmful = await fleet.start(closed, *waves, *gates)
    await fleet.step("promote")
    await fleet.until_served(harmful, [fleet.canary])
    assert [await fleet.canary.status(OPEN) for _ in range(CALLS)] == [401] * CALLS
    assert [await edge.status(OPEN) for edge in fleet.others] == [200, 200]

    async def reported() -> bool:
        reports = list(read_reports(fleet.reports))
        new, old = group_of(reports, harmful), group_of(reports, fleet.revision)
        return new.counts["denied"] >= CALLS and old.counts["decisions"] >= CALLS

    await until(reported, "the edges have reported what they decided")
    with_reports = ("--reports", str(fleet.reports))
    signing = ("--key", str(fleet.signer.private), "--key-id", "release")
    refused = await asyncio.to_thread(fleet.operator.run, "promote", *with_reports, *signing)
    assert "max_denied_rise: the rise of the share of denials is" in refused.stderr
    assert (await asyncio.to_thread(fleet.operator.run, "check", *with_reports)).returncode == 1
    assert {edge.name: (await edge.serves())["revision"] for edge in fleet.others} == dict.fromkeys(
        OTHERS, fleet.revision
    )
    await fleet.step("rollback", "--why", "denials rise")
    await fleet.until_served(fleet.revision, [fleet.canary])
    await fleet.everyone_is_answered()


async def _an_outage_of_the_server_changes_nothing(fleet: Fleet) -> None:
    fleet.server.stop()
    await fleet.until_counted("unreachable", 2)
    await fleet.everyone_is_answered()
    assert [(await edge.serves())["revision"] for edge in fleet.edges] == [fleet.revision] * 3
    fleet.server.start()

    async def back() -> bool:
        last = [(await edge.serves())["last_pull"]["outcome"] for edge in fleet.edges]
        return last == ["unchanged"] * 3

    await until(back, "every edge reaches the server again")


async def _what_cannot_be_trusted_is_refused_and_counted(fleet: Fleet) -> None:
    good = fleet.operator.file.read_bytes()
    release = read_release(good)
    newer = release.model_copy(update={"sequence": release.sequence + 1})
    line = b'"sequence": %d'
    tampered = good.replace(line % release.sequence, line % newer.sequence)
    for outcome, content in (
        ("bad_signature", tampered),
        ("bad_signature", _with_a_forged_bundle(fleet, newer)),
        ("expired", sign_release(newer, fleet.signer.key, issued_at=1, expires_at=2)),
        ("older", fleet.first_release),
    ):
        assert content != good
        fleet.server.put(FILE, content)
        await fleet.until_counted(outcome, 1)
        await fleet.everyone_is_answered()
        assert [(await edge.serves())["revision"] for edge in fleet.edges] == [fleet.revision] * 3


def _with_a_forged_bundle(fleet: Fleet, newer: Release) -> bytes:
    """Return a good release file that names a bundle signed by another key of the same name."""
    place = fleet.folder / "forger"
    place.mkdir()
    archive = Signer(place, number=1).archive(fleet.built.files, "forged", newer.sequence)
    fleet.server.put("/edge/forged.tar.gz", archive)
    target = Target(revision="forged", digest=read_bundle(archive).digest, url="forged.tar.gz")
    return sign_release(newer.model_copy(update={"current": target}), fleet.signer.key, issued_at=1)
