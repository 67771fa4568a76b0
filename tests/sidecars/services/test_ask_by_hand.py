"""The commands in docs/transport.md for asking a sidecar by hand do what the page says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.free_ports import free_port
from tests.support.gotools import BUILD_SECONDS, go_tool
from tests.support.running import SIDECARS, WAIT_SECONDS, Running
from tests.support.transport.harness import TRANSPORTS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "transport.md").read_text(encoding="utf-8")
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"
GHZ = "github.com/bojand/ghz/cmd/ghz@v0.93.0"

pytestmark = pytest.mark.timeout(2 * BUILD_SECONDS)


def commands(tool: str) -> list[str]:
    [section] = re.findall(r"^## Ask a sidecar by hand\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    lines = "".join(re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
    return [line for line in lines.replace("\\\n", "").splitlines() if line.startswith(f"{tool} -")]


@pytest.fixture(scope="module", params=TRANSPORTS)
def ports(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The ports of the page and those of a process with the same policy and limits."""
    folder = tmp_path_factory.mktemp("by-hand")
    names = ("authz", "ratelimit", "accesslog")
    free = [str(free_port()) for _ in names]
    listen = {name: {"listen": [f"127.0.0.1:{port}"]} for name, port in zip(names, free, strict=True)}
    settings = {
        "transport": request.param,
        "authz": {**listen["authz"], "policy": [str(ROOT / "examples/policy.yaml")]},
        "ratelimit": {**listen["ratelimit"], "limits": [str(ROOT / "examples/limits")]},
        "accesslog": {**listen["accesslog"], "sinks": [{"type": "stdout"}]},
    }
    with Running(folder, settings, program=SIDECARS) as running:
        running.wait_until_ready()
        yield dict(zip(("9001", "9002", "9003"), free, strict=True))


def run(command: str, tool: str, ports: dict[str, str]) -> str:
    """What the command prints, standard error included. Fails when its exit code is not 0."""
    for port, free in ports.items():
        command = command.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
    folders = (str(Path(tool).parent), str(Path(sys.executable).parent), os.environ["PATH"])
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PATH": os.pathsep.join(folders)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_grpcurl_does_what_the_page_shows(ports: dict[str, str]) -> None:
    tool = go_tool("grpcurl", GRPCURL)
    result = [run(command, tool, ports) for command in commands("grpcurl")]
    expected = [
        "grpc.reflection.v1.ServerReflection\n",
        "AttributeContext attributes = 1;",
        '"status": "SERVING"',
        '"reason": "allowed"',
        '"requestsPerUnit": 100',
        "{}\n",
        "envoy.service.accesslog.v3.AccessLogService\n",
    ]
    assert len(result) == len(expected)
    for text, part in zip(result, expected, strict=True):
        assert part in text


def test_ghz_loses_no_call(ports: dict[str, str]) -> None:
    tool = go_tool("ghz", GHZ)
    [command] = commands("ghz")
    [total] = re.findall(r"--total (\d+)", command)
    result = run(command, tool, ports)
    assert re.findall(r"^  \[(\w+)\] +(\d+) responses", result, re.MULTILINE) == [("OK", total)], result
