"""The names of all metrics that the product has."""

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric

from sidecars.cli import serve
from sidecars.process.lifecycle import Process
from sidecars.settings.load import read_settings
from sidecars.workers.scrapes import _worker_answered
from sidecars.workers.supervisor import WorkerCollector

SETTINGS = """\
authz: {listen: ["unix:a"], policy: [policy.yaml]}
ratelimit: {listen: ["unix:r"], limits: [limits.yaml], store: redis}
accesslog: {listen: ["unix:l"], envoy_admin: "unix:e"}
redis: {url: "redis://127.0.0.1:6379"}
redis_per_second: {url: "redis://127.0.0.1:6380"}
"""
POLICY = """\
credentials:
  issuers: [{issuer: "https://a", audiences: [a], jwks: {url: "https://a/keys"}, max_lifetime_seconds: 600}]
  sessions: {store: redis}
  revocations: {store: redis}
rules: [{name: all, paths: [/], allow: anyone}]
"""


def series_names(folder: Path) -> set[str]:
    """Return the names as queries spell them: counters with `_total`, histograms with `_bucket`."""
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "limits.yaml").write_text("domain: edge\ndescriptors: []\n")
    file = folder / "sidecars.yaml"
    file.write_text(SETTINGS)
    assembly = serve.assemble(read_settings(file, {}), serve.ALL)
    Process(assembly.settings, assembly.bound, assembly.dependencies, {})
    metrics = [
        *assembly.dependencies.registry.collect(),
        *WorkerCollector([]).collect(),
        _worker_answered({}),
    ]
    return {name for metric in metrics for name in _spellings(metric)}


def _spellings(metric: Metric) -> Iterable[str]:
    if metric.type == "counter":
        return (f"{metric.name}_total",)
    if metric.type == "histogram":
        return tuple(f"{metric.name}_{part}" for part in ("bucket", "count", "sum"))
    return (f"{metric.name}_info",) if metric.type == "info" else (metric.name,)
