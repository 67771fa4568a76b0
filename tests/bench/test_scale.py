"""`python -m bench scale` measures what it names."""

from pathlib import Path

import pytest

from authz.policy.compile.load import load_policy
from bench import scale
from bench.openloop.order import read_requests
from bench.scale import DIMENSIONS, FULL, QUICK, ScalePlan, free_ports, policy_of_issuers, steps_of
from bench.tools.edge_requests import Issuer
from bench.tools.goals import Rounds
from bench.tools.suite import write_files
from protos.authz_pb2 import CheckRequest

TINY = ScalePlan(2, 0.2, 0.0, most=100, ends_only=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Issuer(tmp_path)
    write_files(tmp_path)
    return tmp_path


def test_every_dimension_of_the_issue_is_there(folder: Path) -> None:
    token = Issuer(folder).token("alice")
    found = {name: [step.value for step in steps_of(name, folder, token, FULL)] for name in DIMENSIONS}
    assert found["rules"][-1] == found["limits"][-1] == 10_000
    assert found["issuers"][-1] == found["streams"][-1] == 100
    assert found["redis_keys"][-1] == 1_000_000
    assert found["connections"][-1] == 1_000
    assert found["workers"] == [1, 2]
    assert all(values[0] in {1, 10} for values in found.values())
    assert [step.value for step in steps_of("rules", folder, token, QUICK)] == [10, 1_000]


@pytest.mark.parametrize("number", [1, 100])
def test_a_policy_accepts_that_many_issuers(number: int, folder: Path) -> None:
    file = folder / "issuers.yaml"
    file.write_text(policy_of_issuers(number))
    assert len(load_policy([file]).credentials.issuers) == number


def test_checks_go_to_the_rule_in_the_middle(folder: Path) -> None:
    [_, step] = steps_of("rules", folder, Issuer(folder).token("alice"), TINY)
    message = CheckRequest.FromString(read_requests(step.order.requests)[0])
    assert message.attributes.request.http.path == "/service-50/orders/0"


def test_ports_in_a_row_are_free() -> None:
    assert 0 < free_ports(2) < 65_535


@pytest.mark.redis
@pytest.mark.timeout(180)
@pytest.mark.parametrize("dimension", ["limits", "redis_keys", "workers"])
async def test_a_dimension_is_measured(dimension: str, folder: Path) -> None:
    rounds = Rounds()
    curves: dict[str, dict[str, dict[str, list[tuple[int, float]]]]] = {}
    steps = steps_of(dimension, folder, Issuer(folder).token("alice"), TINY)
    await scale._measure(dimension, steps, folder, TINY, rounds, lambda _: None)
    scale._conclude(dimension, steps, rounds, curves)
    values = [step.value for step in steps]
    for value in values:
        assert len(rounds.values[f"{dimension}_{value}_rps"]) == 2
        assert min(rounds.values[f"{dimension}_{value}_rps"]) > 0
    title = dimension.replace("_", " ").capitalize()
    assert [x for x, _ in curves[f"{title}: p99_us"]["series"]["ours"]] == values
    if len(values) > 1 and values[0] != values[-1]:
        assert rounds.values[f"ratio_{dimension}_rps"]


@pytest.mark.timeout(180)
def test_a_reload_happens_under_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "RELOADED_RULES", 200)
    monkeypatch.setattr(scale, "RELOADS", 1)
    token = Issuer(folder).token("alice")
    (stall_ms,) = scale._reload(folder, token, TINY)
    assert stall_ms >= 0
