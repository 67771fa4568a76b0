"""docs/transport.md has every limit, reason, metric and difference, and names a test that exists for each."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from sidecars.observability.connection_metrics import ConnectionMetrics
from sidecars.settings.load import load_settings
from sidecars.transport.api.limits import Lifetime, Limits
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import ErrorCode
from tests.sidecars.transport.test_h2_agreement import DELIBERATE, Difference

HERE = Path(__file__).parent
PAGE = (HERE.parents[2] / "docs" / "transport.md").read_text(encoding="utf-8")
TABLES = [table.splitlines() for table in re.findall(r"^\|-.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)]
PROVEN = [row for table in TABLES for row in table if "::" in row]


def first_names(row: str) -> set[str]:
    return set(re.findall(r"`([\w:]+)`", row.split(" | ", maxsplit=1)[0]))


@pytest.mark.parametrize("row", PROVEN, ids=lambda row: row.strip("| ").split(" | ")[0])
def test_each_row_is_proven_by_a_test(row: str) -> None:
    [(file, name)] = re.findall(r"`(\w+\.py)::(\w+)` \|$", row)
    tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def test_every_limit_has_a_row_and_no_other() -> None:
    [limits] = [table for table in TABLES if "`max_connections`" in table[0]]
    told = set().union(*map(first_names, limits))
    assert told == {field.name for kind in (Limits, Lifetime) for field in dataclasses.fields(kind)}


def test_every_reason_has_a_row_and_every_code_is_one() -> None:
    told = set(re.findall(r"`(\w+)`", "\n".join(PROVEN)))
    assert {reason.value for reason in Reason} <= told
    codes = set(re.findall(r"\b(?:GOAWAY|reset|or) ([A-Z][A-Z_]{4,})", "\n".join(PROVEN)))
    assert {"ENHANCE_YOUR_CALM", "REFUSED_STREAM", "SETTINGS_TIMEOUT"} <= codes
    assert codes - {"GOAWAY"} <= set(ErrorCode.__members__)


def test_every_metric_has_a_row_and_no_other() -> None:
    registry = CollectorRegistry()
    ConnectionMetrics(registry).of("authz")
    there = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in registry.collect()
    }
    [table] = [table for table in TABLES if "sidecars_transport_connections_open" in table[0]]
    assert set().union(*map(first_names, table)) == there


@pytest.mark.parametrize("difference", DELIBERATE, ids=lambda difference: difference.name)
def test_every_difference_from_h2_is_explained(difference: Difference) -> None:
    assert f"| {difference.name} | {difference.why} |" in PAGE


def test_the_example_of_settings_is_valid(tmp_path: Path) -> None:
    example, trust, cluster = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    file = tmp_path / "sidecars.yaml"
    file.write_text(example)
    settings = load_settings(file, {})
    assert settings.connections.limits == Limits()
    assert settings.authz is not None
    assert [address.tls is not None for address in settings.authz.listen] == [False, True]
    file.write_text(trust)
    trusting = load_settings(file, {}).authz
    assert trusting is not None
    assert [address.trusts_peers for address in trusting.listen] == [True, True]
    assert yaml.safe_load(cluster)["clusters"][0]["name"] == "authz"
