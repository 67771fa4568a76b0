"""The alert rules, by their unit tests in promtool's format and by their form."""

import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from tests.support.prometheus import promtool
from tests.support.rules import ALERTS, FOLDER, RUNBOOK_BASE, page_of

TESTS = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
FILES = sorted((FOLDER / "alerts").glob("*.yaml"))

SEVERITIES = {"page", "ticket"}
COUNT = 'count by (alertname, severity) (ALERTS{alertstate="firing"})'


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_each_alert_fires_for_its_fault_and_for_no_other(file: Path) -> None:
    result = subprocess.run(
        [promtool(), "test", "rules", file.name], cwd=file.parent, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_prometheus_accepts_the_file(file: Path) -> None:
    result = subprocess.run(
        [promtool(), "check", "rules", "--lint=all", "--lint-fatal", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_each_alert_fires_in_a_unit_test_and_is_silent_in_another() -> None:
    fires: set[tuple[str, str]] = set()
    silent = set()
    for file in TESTS:
        whole = yaml.safe_load(file.read_text(encoding="utf-8"))
        steps = [step for test in whole["tests"] for step in test["promql_expr_test"]]
        assert {step["expr"] for step in steps} == {COUNT}
        for step in steps:
            labels = [dict(re.findall(r'(\w+)="(\w+)"', sample["labels"])) for sample in step["exp_samples"]]
            fires |= {(one["alertname"], one["severity"]) for one in labels}
        silent |= {file.stem for step in steps if not step["exp_samples"]}
    assert fires == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}
    assert silent == {file.stem for file in TESTS}


def test_each_alert_is_proven_under_a_real_fault() -> None:
    folder = Path(__file__).parent
    sources = [
        (folder / f"test_{name}_faults.py").read_text(encoding="utf-8") for name in ("edge", "process")
    ]
    calls = re.findall(r"(?:faulty|until_firing)\(([^)]*)\)", "".join(sources))
    assert set(re.findall(r'"(\w+)"', " ".join(calls))) == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert['alert']}-{alert['labels']['severity']}")
def test_an_alert_says_what_is_wrong_where_and_what_to_do(alert: dict[str, dict[str, str]]) -> None:
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in SEVERITIES
    annotations = alert["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert "$labels." in annotations["summary"]
    assert annotations["description"].endswith(".")
    assert annotations["runbook_url"] == f"{RUNBOOK_BASE}{page_of(str(alert['alert']))}.html"


def test_recorded_shares_differ_only_in_their_window() -> None:
    whole = yaml.safe_load((FOLDER / "alerts" / "recording.yaml").read_text(encoding="utf-8"))
    expressions = defaultdict(set)
    windows = defaultdict(set)
    for group in whole["groups"]:
        for rule in group["rules"]:
            name, window = re.fullmatch(r"(.*ratio_rate)(\w+)", rule["record"]).groups()  # type: ignore[union-attr]
            windows[name].add(window)
            expressions[name].add(rule["expr"].replace(f"[{window}]", "[WINDOW]"))
    assert len(windows) == 4
    assert all(found == {"5m", "30m", "1h", "6h", "3d"} for found in windows.values())
    assert all(len(found) == 1 for found in expressions.values())


def test_the_page_shows_the_shipped_scrape_configuration() -> None:
    page = (FOLDER.parents[1] / "docs" / "observability.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    [shown] = [read for text in blocks if "scrape_configs" in (read := yaml.safe_load(text))]
    shipped = yaml.safe_load((FOLDER / "prometheus.yaml").read_text(encoding="utf-8"))
    assert shown["scrape_configs"] == shipped["scrape_configs"][:1]
