from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hpack import Decoder
from typer.testing import CliRunner

from bench.__main__ import app, names
from bench.tools import load
from bench.tools.generator import FIELDS, header_blocks
from bench.tools.goals import Goal
from bench.tools.load import Result, middle, percentiles
from bench.tools.noop_server import PATH
from bench.tools.processes import python_server
from bench.transport import CHECK


def test_every_bench_is_found_and_the_tools_are_none() -> None:
    assert "transport" in names()
    assert "tools" not in names()


def test_without_a_name_the_benches_are_listed() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert "transport" in result.output


def test_a_name_that_is_unknown_is_a_usage_error() -> None:
    assert CliRunner().invoke(app, ["nope"]).exit_code == 2


@pytest.mark.parametrize(
    ("goal", "figure", "met"),
    [
        (Goal(at_least=18), 18.0, True),
        (Goal(at_least=18), 17.9, False),
        (Goal(at_most=0.4), 0.4, True),
        (Goal(at_most=0.4), 0.5, False),
        (Goal(at_least=1, at_most=2), 3.0, False),
    ],
)
def test_a_goal_is_met_within_its_bounds(goal: Goal, figure: float, met: bool) -> None:
    assert goal.met_by(figure) is met


def test_the_middle_of_several_runs_is_the_median_of_each_figure() -> None:
    runs = [Result(1, 30, 100), Result(3, 20, 300), Result(2, 10, 200)]
    assert middle(runs) == Result(2, 20, 200)


def test_percentiles_of_a_hundred_and_one_values() -> None:
    assert percentiles([float(value) for value in range(101)]) == (50.0, 99.0)


@pytest.mark.parametrize("table_bytes", [0, 4096])
@pytest.mark.parametrize("tracing", [False, True])
def test_the_blocks_of_the_generator_say_what_envoy_says(table_bytes: int, tracing: bool) -> None:
    """Checks the blocks with an independent decoder, over enough calls to fill the table many times."""
    decoder = Decoder()
    decoder.max_allowed_table_size = table_bytes
    traces = set()
    blocks = header_blocks(PATH, 300, table_bytes, tracing=tracing)
    for block in blocks:
        fields: dict[Any, Any] = dict(decoder.decode(block))
        traces.add(fields.pop("traceparent", None))
        assert fields == {":method": "POST", ":scheme": "http", ":path": PATH, **FIELDS}
    assert len(traces) == (300 if tracing else 1)


@pytest.mark.parametrize("transport", ["native", "grpcio"])
@pytest.mark.parametrize("tracing", [False, True])
def test_the_generator_gets_answers_from_a_server_of_its_own_process(transport: str, tracing: bool) -> None:
    with python_server("bench.tools.noop_server", transport) as (_, port):
        load.check_answer(port, CHECK)
        result = load.generator(port, replace(CHECK, seconds=0.3, warm_up_seconds=0.1), tracing=tracing)
    assert result.rps > 0
    assert 0 < result.p50_us <= result.p99_us


def test_figures_are_written_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*, quick: bool, say: object) -> dict[str, float | None]:
        return {"ratio_grpcio": 2.0, "floor_rps": None}

    monkeypatch.setattr("bench.transport.run", run)
    file = tmp_path / "figures.json"
    result = CliRunner().invoke(app, ["transport", "--quick", "--check", "--json", str(file)])
    document = orjson.loads(file.read_bytes())
    assert result.exit_code == 1
    assert document["figures"] == {"ratio_grpcio": 2.0, "floor_rps": None}
    assert document["missed"] == ["ratio_grpcio"]
