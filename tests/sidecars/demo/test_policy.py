"""The demo says how its policy is tested, broken and explained; this test runs the commands unchanged."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sidecars.demo.show import POLICY_LINES, print_policy_lines

ROOT = Path(__file__).parents[3]
Run = Callable[[str], tuple[int, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "examples", checkout / "examples")
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    environment = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}

    def run(line: str) -> tuple[int, str]:
        done = subprocess.run(
            line,
            shell=True,
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_policy_is_tested_broken_and_explained_by_the_lines_that_the_demo_prints(run: Run) -> None:
    test, break_and_test, explain = POLICY_LINES
    code, out = run(test)
    assert code == 0, out
    code, out = run(break_and_test)
    assert code == 1
    assert "failed the response names a missing scope" in out
    assert "allow 200 allowed by rule 'orders-write'" in out
    code, out = run(explain)
    assert code == 0
    assert "allow 200 allowed by rule 'orders-write'" in out
    assert "✓ has scopes orders:read" in out


def test_before_it_is_broken_the_policy_refuses_what_is_asked_to_be_explained(run: Run) -> None:
    code, out = run(POLICY_LINES[-1].replace("broken.yaml", "examples/policy.yaml"))
    assert (code, "deny 403 credentials_insufficient by rule 'orders-write'" in out) == (0, True), out


def test_the_demo_prints_each_line_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_policy_lines(Console(width=40))
    assert capsys.readouterr().out.splitlines()[-len(POLICY_LINES) :] == list(POLICY_LINES)


def test_the_readme_has_the_same_lines() -> None:
    assert "\n".join(("```console", *POLICY_LINES, "```")) in (ROOT / "README.md").read_text(encoding="utf-8")
