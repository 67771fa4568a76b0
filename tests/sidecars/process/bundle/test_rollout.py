"""The proof as a whole: two edges, a web server, a collector of reports, and a release that breaks a gate."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sidecars.cli.release_collect import read_reports
from tests.sidecars.process.bundle.test_staged import CANARY, OTHER, settings, wait_for
from tests.support.asking_allowed import is_allowed
from tests.support.bundle_server import BundleServer
from tests.support.bundles import Signer
from tests.support.command import Done, plain_command
from tests.support.free_ports import free_port
from tests.support.running import SIDECARS, Running

FILE = "/edge/release.json"
CALLS = 5
OLD = b"rules:\n- {name: open, paths: [/], allow: anyone}\n"
HARMFUL = b"rules:\n- {name: closed, paths: [/], deny: anyone}\n"
"""Valid, and it locks everyone out."""


class Operator:
    """Runs `sidecars release`, and publishes the file after each step."""

    def __init__(self, folder: Path, server: BundleServer, signer: Signer) -> None:
        self.file, self._server, self._signer = folder / "release.json", server, signer

    def step(self, name: str, *arguments: str) -> Done:
        signing = ("--key", str(self._signer.private), "--key-id", "release", "--by", "ann")
        done = self.run(name, *arguments, *signing)
        if done.returncode == 0:
            self._server.put(FILE, self.file.read_bytes())
        return done

    def run(self, name: str, *arguments: str) -> Done:
        return plain_command("release", name, str(self.file), *arguments)

    def bundle(self, number: int, policy: bytes) -> str:
        archive = self._signer.archive({"policy/edge.yaml": policy}, f"r{number}", number)
        self._server.put(f"/edge/r{number}.tar.gz", archive)
        path = self.file.with_name(f"r{number}.tar.gz")
        path.write_bytes(archive)
        return str(path)


def reporting(folder: Path, server: BundleServer, signer: Signer, node: str, port: int) -> dict[str, Any]:
    given = settings(folder, server, signer, node)
    reached = {"allow_http": True, "allow_addresses": ["127.0.0.0/8"], "interval_seconds": 1}
    given["bundle"]["status"] = {"url": f"http://127.0.0.1:{port}/", **reached}
    return given


@pytest.fixture
def collected(tmp_path: Path) -> Any:
    port, file = free_port(), tmp_path / "reports.jsonl"
    command = [sys.executable, "-m", "sidecars", "release", "collect", "-o", str(file)]
    with subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"]) as collector:
        yield port, file
        collector.kill()


def test_a_harmful_release_reaches_its_canaries_only_and_goes_back(tmp_path: Path, collected: Any) -> None:
    port, reports = collected
    signer = Signer(tmp_path)
    with BundleServer() as server:
        operator = Operator(tmp_path, server, signer)
        assert operator.step("start", operator.bundle(1, OLD)).returncode == 0
        edges: dict[str, Running] = {}
        for node in (CANARY, OTHER):
            (tmp_path / node).mkdir()
            given = reporting(tmp_path / node, server, signer, node, port)
            edges[node] = Running(tmp_path / node, given, program=SIDECARS)
        with edges[CANARY] as canary, edges[OTHER] as other:
            for edge in (canary, other):
                edge.wait_until_ready()
                assert all(is_allowed(edge.folder) for _ in range(CALLS))
            waves = ("--wave", "canary:50%", "--wave", "all:100%")
            gates = ("--gate", "max_denied_rise=0.1", "--gate", f"min_calls={CALLS}")
            assert operator.step("start", operator.bundle(2, HARMFUL), *waves, *gates).returncode == 0
            assert operator.step("promote").returncode == 0
            wait_for(canary, "revision", "r2")
            assert not any(is_allowed(canary.folder) for _ in range(CALLS))
            with_reports = ("--reports", str(reports))
            canary.wait_until(lambda: _counted(reports, "r2", "denied") == CALLS)
            other.wait_until(lambda: _counted(reports, "r1", "decisions") == CALLS)
            refused = operator.step("promote", *with_reports)
            assert "max_denied_rise: the rise of the share of denials is 1" in refused.stderr
            assert operator.run("check", *with_reports).returncode == 1
            assert operator.step("rollback", "--why", "denials rise").returncode == 0
            wait_for(canary, "revision", "r1")
            assert is_allowed(canary.folder)
            assert is_allowed(other.folder)
            assert other.config()["bundle"]["revision"] == "r1"
    verified = operator.run("log", "--verify", "--key", f"release={signer.public}")
    assert "ok: 4 entries" in verified.stdout


def _counted(file: Path, revision: str, name: str) -> float:
    return sum(report.counts[name] for report in read_reports(file) if report.revision == revision)
