"""`python -m bench soak` keeps up the load while it disturbs the sidecars."""

import os
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.soak import SoakPlan, _run, nines, slope_per_hour
from bench.tools.edge_requests import Population
from bench.tools.variants import FILTERS, Variant, configuration, with_second_endpoints
from sidecars.demo.envoy import find_envoy, scripts_folder
from tests.support.envoy_config import check_configuration, envoy_blocks


def test_availability_is_a_number_of_nines() -> None:
    assert nines(1000, 1) == pytest.approx(3)
    assert nines(100_000, 1) == pytest.approx(5)
    assert nines(100, 100) == 0
    assert nines(10_000, 0) == pytest.approx(4)
    assert nines(0, 0) == 0


def test_the_slope_leaves_out_the_warm_up() -> None:
    points = [(float(second), 50.0 + (40.0 if second < 20 else 0.0) + second / 3600) for second in range(100)]
    assert slope_per_hour(points, 20.0) == pytest.approx(1.0)
    assert slope_per_hour(points[:20], 20.0) is None


def edge() -> dict[str, object]:
    ports = {("native", name): 9001 + number for number, name in enumerate(FILTERS)}
    found = configuration([Variant("edge", FILTERS, "native")], ports, 8080)
    with_second_endpoints(found, {f"native_{name}": 9101 + number for number, name in enumerate(FILTERS)})
    return found


@pytest.mark.envoy
async def test_envoy_accepts_two_endpoints(tmp_path: Path) -> None:
    file = tmp_path / "envoy.json"
    file.write_bytes(orjson.dumps(edge()))
    assert await check_configuration(find_envoy(os.environ, scripts_folder()), file) == ""


def test_the_clusters_are_those_of_the_deployment_page() -> None:
    documented, _ = envoy_blocks()
    clusters = edge()["static_resources"]["clusters"]  # type: ignore[index]
    several = [one for one in clusters if one["name"] != "upstream"]
    assert len(several) == 3
    for cluster in several:
        for key in ("lb_policy", "health_checks", "common_lb_config", "outlier_detection"):
            assert cluster[key] == documented[key]
        assert len(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]) == 2


@pytest.mark.envoy
@pytest.mark.redis
@pytest.mark.timeout(240)
async def test_load_goes_on_through_reloads_and_restarts() -> None:
    said: list[str] = []
    plan = SoakPlan(seconds=8, per_second=20, pause_seconds=0.3, population=Population(10, 100))
    measured = await _run(plan, said.append)
    figures = measured.figures
    assert figures["requests"] == 160
    assert figures["reloads"]
    assert figures["restarts"]
    assert figures["redis_restarts"] or any("no Redis" in line for line in said)
    failed = figures["requests_failed"]
    assert isinstance(failed, float)
    assert failed < 80
    for name in FILTERS:
        assert isinstance(figures[f"{name}_mb_per_hour"], float)
        assert len(measured.details["curves"]["Memory"]["series"][name]) > 5


def test_a_run_without_duration_is_refused() -> None:
    result = CliRunner().invoke(app, ["soak", "--minutes", "0"])
    assert result.exit_code == 1
    assert "above 0" in result.output
