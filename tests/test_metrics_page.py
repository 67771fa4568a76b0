"""docs/metrics.md: each metric has its facts, and the alerts that use it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client.metrics_core import Metric

from sidecars.observability.metric_facts import LABEL_BOUNDS, METRIC_FACTS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def metrics(generate: ModuleType) -> dict[str, Metric]:
    found: dict[str, Metric] = generate.all_metrics()
    return found


def test_each_metric_has_facts_and_the_facts_have_no_other(metrics: dict[str, Metric]) -> None:
    assert metrics.keys() == METRIC_FACTS.keys()


def test_a_metric_without_facts_stops_the_generation(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {name: facts for name, facts in METRIC_FACTS.items() if name != "authz_decisions_total"}
    monkeypatch.setattr(generate, "METRIC_FACTS", rows | {"gone_total": METRIC_FACTS["build_info"]})
    with pytest.raises(LookupError, match=r"lacks \['authz_decisions_total'\].*\['gone_total'\]"):
        generate.metrics_page()


def test_the_labels_of_the_facts_are_those_of_the_registries(metrics: dict[str, Metric]) -> None:
    for name, metric in metrics.items():
        facts = METRIC_FACTS[name]
        given = set(getattr(metric, "_labelnames", ()))
        seen = {label for sample in metric.samples for label in sample.labels} - {"le"}
        assert given | seen <= set(facts.labels), name
        if given:
            assert given == set(facts.labels), name


def test_each_label_has_a_bound_and_no_bound_is_left_over() -> None:
    usual = {label for facts in METRIC_FACTS.values() for label in facts.labels if label not in facts.bounds}
    assert usual == LABEL_BOUNDS.keys()
    for name, facts in METRIC_FACTS.items():
        assert facts.bounds.keys() <= set(facts.labels), name


RULES = """
groups:
- name: one
  rules:
  - {record: "sidecar:errors:rate5m", expr: "sum(rate(grpc_server_handled_total{grpc_code!='OK'}[5m]))"}
  - {record: "sidecar:burn:rate5m", expr: "sidecar:errors:rate5m / 0.001"}
  - {alert: Burns, expr: "sidecar:burn:rate5m > 14"}
  - {alert: Slow, expr: "rate(grpc_server_handling_seconds_bucket[5m]) > 1 and grpc_server_handled_total"}
"""


def test_an_alert_is_listed_at_each_metric_that_it_uses_also_by_a_recording_rule(
    generate: ModuleType, tmp_path: Path
) -> None:
    file = tmp_path / "alerts.yaml"
    file.write_text(RULES)
    uses = generate.alerts_by_metric([file])
    assert uses["grpc_server_handled_total"] == ["Burns", "Slow"]
    assert uses["grpc_server_handling_seconds"] == ["Slow"]


def test_the_alerts_of_this_repository_use_metrics_that_exist(
    generate: ModuleType, metrics: dict[str, Metric]
) -> None:
    names = {
        name
        for name in generate.alerts_by_metric(generate.OBSERVABILITY.glob("alerts/*.y*ml"))
        if name.startswith(("accesslog_", "authz_", "grpc_server_", "ratelimit_", "sidecars_"))
    }
    assert names <= metrics.keys()
