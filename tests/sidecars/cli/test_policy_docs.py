"""docs/policy-tools.md says what happens, and this runs it as it is written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOC = ROOT / "docs" / "policy-tools.md"

CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
EXITS = re.compile(r"  # exits (\d)$")


def commands() -> list[tuple[str, int, list[str]]]:
    """Each command with its exit code and the lines that its output has to hold, in the order of the page."""
    found: list[tuple[str, int, list[str]]] = []
    for block in CONSOLE.findall(DOC.read_text()):
        for line in block.splitlines():
            if line.startswith("$ "):
                exits = EXITS.search(line)
                found.append((EXITS.sub("", line[2:]), int(exits[1]) if exits else 0, []))
            elif line:
                found[-1][2].append(line)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def test_the_page_has_commands() -> None:
    assert len(commands()) > 8


@pytest.mark.parametrize(("command", "code", "lines"), commands())
def test_the_page_tells_what_happens(folder: Path, command: str, code: int, lines: list[str]) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "160", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    for line in lines:
        assert line in done.stdout, done.stdout
