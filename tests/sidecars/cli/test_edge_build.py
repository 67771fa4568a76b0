"""`sidecars edge build --watch`."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sidecars.cli.test_edge import change, estate, run

__all__ = ["estate"]


def test_build_watch_builds_again_after_each_change_and_keeps_the_last_good_files(
    estate: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "sidecars",
        "edge",
        "build",
        str(estate),
        "--out",
        str(tmp_path / "built"),
    ]
    log = tmp_path / "log"

    def says(text: str, times: int = 1) -> None:
        for _ in range(600):
            if log.read_text(encoding="utf-8").count(text) >= times:
                return
            time.sleep(0.05)
        raise AssertionError(f"{text!r} is not in {log.read_text(encoding='utf-8')!r}")

    with (
        log.open("wb") as output,
        subprocess.Popen([*command, "--watch"], stdout=output, stderr=output) as process,
    ):
        try:
            says("ok: 8 routes of 3 services")
            change(estate / "services" / "search.yaml", "requests: 20,", "requests: 21,")
            says("ok: 8 routes of 3 services", times=2)
            change(estate / "services" / "search.yaml", "owner: search", "owner: strangers")
            says("services/search.yaml:2: owner")
            assert b'"requests_per_unit":21' in (tmp_path / "built" / "limits.json").read_bytes()
            change(estate / "services" / "search.yaml", "owner: strangers", "owner: search")
            says("changed: nothing")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_build_checks_or_watches(estate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", estate, "--out", tmp_path, "--check", "--watch") == 2
    assert "give one of --check and --watch" in capsys.readouterr().err
