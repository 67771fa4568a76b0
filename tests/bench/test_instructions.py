"""`python -m bench instructions` counts what it says."""

import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
from typer.testing import CliRunner

from bench import instructions
from bench.__main__ import app
from bench.instructions import ROOT, SHORT, TARGET, WHAT, run, write_input
from bench.tools.budget import baseline_commit, load_budget
from bench.tools.instructions_target import read_messages
from bench.tools.log_messages import ENTRIES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("input")
    write_input(found)
    return found


def test_the_input_is_always_the_same(folder: Path, tmp_path: Path) -> None:
    """Otherwise two runs would count different work."""
    write_input(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes(), file.name


def test_the_target_makes_every_call(folder: Path) -> None:
    """Without callgrind: each line is answered once the calls are made."""
    orders = "".join(f"{what} {SHORT}\n" for what in WHAT)
    result = subprocess.run(
        [sys.executable, str(TARGET), str(folder)],
        input=orders,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
    )
    assert result.stdout.split() == ["ready", *(["done"] * len(WHAT))]
    assert len((folder / "access.jsonl").read_text().splitlines()) == 16 * SHORT


def test_the_callers_and_keys_differ(folder: Path) -> None:
    for name, number in (("authz_callers", 1_000), ("ratelimit", 10_000), ("authz", 1)):
        assert len(set(read_messages(folder / name))) == number


@pytest.mark.skipif(which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.timeout(400)
def test_instructions_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SHORT": 20, "LONG": 120, "CALLERS": 10, "KEYS": 10}.items():
        monkeypatch.setattr(instructions, name, value)
    small = tmp_path / "small"
    small.mkdir()
    write_input(small)
    with instructions._target(ROOT, small, tmp_path) as process:
        first, second = (instructions._instructions(process, tmp_path, "transport_call") for _ in range(2))
        assert first > 10_000
        assert second == pytest.approx(first, rel=0.02)
        assert instructions._instructions(process, tmp_path, "log_message") > 10_000 * ENTRIES


def test_without_valgrind_it_is_skipped_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "which", lambda _: None)
    said: list[str] = []
    measured = run(quick=True, say=said.append)
    assert "valgrind is not installed" in said[0]
    assert all(measured.figures[key] is None for key in instructions.GOALS)


def test_the_ratios_are_this_tree_by_the_baseline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts = {tmp_path: {"authz_check": 200}, ROOT: {"authz_check": 100}}
    monkeypatch.setattr(instructions, "which", lambda name: name)
    monkeypatch.setattr(instructions, "count", lambda tree, folder: counts[tree])
    measured = run(quick=False, say=lambda _: None, baseline=tmp_path)
    assert measured.figures["ratio_authz_check"] == 0.5
    assert measured.figures["baseline"] == str(tmp_path)


def test_the_stored_figures_serve_where_git_has_not_got_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "which", lambda name: name)
    monkeypatch.setattr(instructions, "count", lambda tree, folder: {"authz_check": 100})
    monkeypatch.setattr(instructions, "_stored", lambda: {"authz_check": 400})
    absent = baseline_commit().model_copy(update={"commit": "0" * 40})
    monkeypatch.setattr(instructions, "baseline_commit", lambda: absent)
    said: list[str] = []
    measured = run(quick=False, say=said.append)
    assert measured.figures["ratio_authz_check"] == 0.25
    assert measured.figures["baseline"] == "stored"
    assert any("git has not got the baseline" in line for line in said)
    monkeypatch.setattr(instructions, "_stored", dict)
    assert "no baseline" in run(quick=True, say=said.append).notes[0]


def test_every_call_has_a_goal_and_a_stored_figure() -> None:
    names = {what.replace("log_message", "log_entry") for what in WHAT}
    assert {key.removeprefix("ratio_") for key in instructions.GOALS} == names
    for figures in baseline_commit().instructions.values():
        assert set(figures) == names
    assert {f"instructions.ratio_{name}" for name in names} < set(load_budget())


def test_the_option_is_offered() -> None:
    assert "--baseline" in CliRunner().invoke(app, ["instructions", "--help"]).output
