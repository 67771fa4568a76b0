"""The dashboards by their form; the tests of faults prove that their queries return data."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.dashboards import DASHBOARDS, QUERIES, metrics_in, panels
from tests.support.prometheus import promtool
from tests.support.rules import ALERTS, FOLDER, RULES, page_of
from tests.support.series import SERIES

OF_OTHERS = re.compile(r"up|ALERTS|envoy_cluster_\w+")
"""Series of Prometheus itself and of Envoy."""

each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())


def test_the_files_are_what_the_generator_writes() -> None:
    command = [sys.executable, str(FOLDER / "generate.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert set(DASHBOARDS) == {"overview", "authz", "ratelimit", "accesslog", "host"}


@each_dashboard
def test_each_panel_says_what_it_shows_and_links_to_a_runbook(dashboard: dict[str, Any]) -> None:
    runbooks = {page_of(alert["alert"]) for alert in ALERTS}
    for panel in panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        [link] = panel["links"]
        assert re.fullmatch(r"\$\{runbooks\}([a-z-]+)\.html", link["url"])[1] in runbooks  # type: ignore[index]


@each_dashboard
def test_ids_are_unique_and_everything_has_the_chosen_data_source(dashboard: dict[str, Any]) -> None:
    ids = Counter(panel["id"] for panel in dashboard["panels"])
    assert max(ids.values()) == 1
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels(dashboard):
        assert panel["datasource"] == source
        assert panel["targets"]
        assert all(target["datasource"] == source for target in panel["targets"])


@each_dashboard
def test_the_variables_choose_a_source_clusters_and_nodes(dashboard: dict[str, Any]) -> None:
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert list(variables) == ["datasource", "cluster", "node", "runbooks"]
    assert variables["cluster"]["includeAll"]
    assert variables["node"]["multi"]


@each_dashboard
def test_panels_neither_overlap_nor_leave_the_grid(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in dashboard["panels"]):
        cells = {
            (column, row)
            for column in range(place["x"], place["x"] + place["w"])
            for row in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_each_query_asks_for_the_chosen_hosts() -> None:
    for query in QUERIES:
        assert "$cluster" in query.expression, query
        assert (
            "$node" in query.expression or "cluster:" in query.expression or "ALERTS" in query.expression
        ), query


def test_the_dashboards_have_names_of_their_own() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


def test_prometheus_can_read_each_query(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query.filled} for number, query in enumerate(QUERIES)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    result = subprocess.run(
        [promtool(), "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_dashboards_and_rules_name_only_metrics_that_exist() -> None:
    known = SERIES | {rule["record"] for rule in RULES if "record" in rule}
    asked = {name for query in QUERIES for name in metrics_in(query.expression)}
    asked |= {name for rule in RULES for name in metrics_in(rule["expr"])}
    assert len(asked) > 80
    assert {name for name in asked - known if not OF_OTHERS.fullmatch(name)} == set()
