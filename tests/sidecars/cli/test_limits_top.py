"""`sidecars limits top`: a real process says which keys it is asked for."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sidecars.cli.test_limits_explain_running import METHOD, section
from tests.support.command import command, plain_command
from tests.support.ratelimiting import LIMITS, request
from tests.support.running import SIDECARS, Running, call, connect


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("x")  # short: a unix socket path has at most 107 bytes
    (folder / "edge.yaml").write_text(LIMITS)
    with Running(folder, {"ratelimit": section(folder)}, program=SIDECARS) as process:
        process.wait_until_ready()
        with connect(f"unix:{folder}/s") as channel:
            for _ in range(5):
                call(channel, METHOD, request({"closed": "a"}))
            call(channel, METHOD, request({"open": "[b]\x1b"}))
        yield process


def test_the_hottest_and_the_most_limited_keys_are_shown(running: Running) -> None:
    done = command(running.file, "limits", "top", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(one["descriptor"], one["hits"]) for one in found["hottest"]] == [
        ("closed=a", 5),
        ("open=[b]\x1b", 1),
    ]
    assert [(one["descriptor"], one["limited"]) for one in found["limited"]] == [("closed=a", 2)]
    assert (
        len(json.loads(command(running.file, "limits", "top", "--json", "--keys", "1").stdout)["hottest"])
        == 1
    )


def test_a_terminal_shows_what_clients_wrote_without_its_controls(running: Running) -> None:
    done = command(running.file, "limits", "top", "--once")
    assert "closed=a edge.closed 5 2" in " ".join(done.stdout.split())
    assert "open=[b]\\x1b" in done.stdout


def test_it_goes_on_until_it_is_interrupted(running: Running) -> None:
    try:
        terminal, end = pty.openpty()
    except OSError:
        pytest.skip("needs pseudo-terminals: nothing is mounted on /dev/pts")
    command_line = (
        sys.executable,
        "-m",
        "sidecars",
        "limits",
        "top",
        "-c",
        str(running.file),
        "--seconds",
        "0.5",
    )
    with subprocess.Popen(command_line, stdin=end, stdout=end, stderr=end, start_new_session=True) as process:
        os.close(end)
        seen = b""
        while seen.count(b"closed=a") < 6:  # twice on the first screen, and again on the next ones
            seen += os.read(terminal, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    os.close(terminal)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    file = tmp_path / "sidecars.yaml"
    (tmp_path / "limits.yaml").write_text(LIMITS)
    file.write_text(
        f"admin: {{listen: 'unix:{tmp_path}/none'}}\n"
        f"ratelimit: {{listen: ['unix:{tmp_path}/s'], limits: [limits.yaml]}}\n"
    )
    done = command(file, "limits", "top", "--once")
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert plain_command("limits", "top").returncode == 2
