"""Results as JSON, the budget, and the commands check and diff."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from bench.__main__ import app, names
from bench.tools.budget import goals_of, judge, load_budget
from bench.tools.diff import changes
from bench.tools.document import DocumentError, document, read_documents, write_document
from bench.tools.goals import Goal, Measured
from common.configfile import ConfigError

GOALS = {"ratio_floor_rps": Goal(at_least=0.9), "cpu_ratio": Goal(at_most=0.4)}


def result(
    file: Path, bench: str = "envoy", rounds: dict[str, list[float]] | None = None, **figures: Any
) -> Path:
    measured = Measured(figures, rounds or {})
    write_document(file, document(bench, measured, GOALS, quick=False, load_average=0.1))
    return file


def invoke(*arguments: object) -> tuple[int, str]:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return found.exit_code, found.output


def test_the_budget_holds_ratios_of_benchmarks_that_exist() -> None:
    for name in load_budget():
        bench, _, figure = name.partition(".")
        assert bench in names()
        assert "ratio" in figure


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("goals: {envoy.cpu_ratio: {}}", "cpu_ratio: needs at_least or at_most"),
        ("goals: {envoy.cpu_ratio: {at_most: low}}", "at_most"),
        ("goals: {cpu_ratio: {at_most: 1}}", "cpu_ratio"),
        ("gaols: {}", "gaols"),
    ],
)
def test_a_wrong_budget_is_refused_with_its_line(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "budget.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"budget.yaml:1: .*{problem}"):
        load_budget(file)
    code, output = invoke("check", result(tmp_path / "a.json"), "--budget", file)
    assert code == 2
    assert "budget.yaml" in output


def test_goals_are_judged_where_their_benchmark_ran() -> None:
    goals = {f"envoy.{key}": goal for key, goal in GOALS.items()} | {"other.ratio": Goal(at_least=1)}
    figures = {"ratio_floor_rps": 0.8, "cpu_ratio": None}
    judged = judge(goals, {"envoy": {"figures": figures}})
    assert [(one.figure, one.verdict) for one in judged] == [
        ("ratio_floor_rps", "missed"),
        ("cpu_ratio", "not measured"),
    ]


MET = {
    key: goal.at_least if goal.at_least is not None else goal.at_most
    for key, goal in goals_of("envoy").items()
}


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({}, 0, "met"),
        ({"ratio_floor_rps": 0.1}, 1, "missed"),
        ({"ratio_floor_rps": None}, 3, "not measured"),
        ({"ratio_floor_rps": None, "cpu_ratio": 9.0}, 1, "missed"),
    ],
)
def test_check_tells_by_its_exit_code_whether_the_budget_holds(
    changed: dict[str, Any], code: int, said: str, tmp_path: Path
) -> None:
    file = result(tmp_path / "envoy.json", **(MET | changed))
    assert invoke("check", file) == (code, invoke("check", tmp_path)[1])
    assert said in invoke("check", file)[1]


def test_check_without_a_goal_is_not_a_pass(tmp_path: Path) -> None:
    assert invoke("check", result(tmp_path / "a.json", "resets", x=1.0))[0] == 3


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"bench": "envoy"}'])
def test_a_file_that_is_no_result_is_a_usage_error(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    for command in (("check", file), ("diff", file, file)):
        code, output = invoke(*command)
        assert code == 2
        assert "x.json" in output
    assert invoke("check", tmp_path / "none.json")[0] == 2


def test_a_folder_with_two_results_of_one_benchmark_is_refused(tmp_path: Path) -> None:
    result(tmp_path / "a.json")
    result(tmp_path / "b.json")
    with pytest.raises(DocumentError, match="second result of envoy"):
        read_documents([tmp_path])


@pytest.mark.parametrize(
    ("before", "after", "noise", "verdict"),
    [
        ([100.0, 110.0], [120.0, 130.0], False, "better"),
        ([100.0, 110.0], [109.0, 130.0], True, ""),
        ([100.0, 100.0], [101.0, 101.0], True, ""),
        ([120.0, 130.0], [100.0, 110.0], False, "worse"),
        ([], [105.0], True, ""),
        ([], [150.0], False, "better"),
    ],
)
def test_a_change_counts_if_the_rounds_do_not_overlap(
    before: list[float], after: list[float], noise: bool, verdict: str, tmp_path: Path
) -> None:
    old = result(tmp_path / "a.json", rounds={"x_rps": before}, x_rps=before[0] if before else 100.0)
    new = result(tmp_path / "b.json", rounds={"x_rps": after}, x_rps=after[0])
    (change,) = changes(read_documents([old]), read_documents([new]))
    assert bool(change.noise) is noise
    assert change.verdict == verdict


def test_less_time_is_better_and_more_throughput_too(tmp_path: Path) -> None:
    old = result(tmp_path / "a.json", a_p99_us=100.0, ratio_floor_rps=0.5, cpu_ratio=0.5, callers=1.0)
    new = result(tmp_path / "b.json", a_p99_us=50.0, ratio_floor_rps=0.9, cpu_ratio=0.9, callers=2.0)
    found = {one.figure: one.verdict for one in changes(read_documents([old]), read_documents([new]))}
    assert found == {"a_p99_us": "better", "ratio_floor_rps": "better", "cpu_ratio": "worse", "callers": ""}


def test_diff_shows_what_changed_and_warns_about_another_machine(tmp_path: Path) -> None:
    old, new = (result(tmp_path / f"{value}.json", a_us=value, b_us=1.0) for value in (100.0, 50.0))
    code, output = invoke("diff", old, new)
    assert code == 0
    assert "envoy.a_us" in output
    assert "-50.0%" in output
    assert "envoy.b_us" not in output
    assert "1 of 2 figures" in output
    assert "envoy.b_us" in invoke("diff", old, new, "--all")[1]
    changed = orjson.loads(new.read_bytes())
    changed["machine"]["cpu"] = "another"
    new.write_bytes(orjson.dumps(changed))
    assert "cpu differs" in invoke("diff", old, new)[1]
