"""Prometheus metrics of quotas."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ratelimit.quota.quotas import Quotas


class QuotaCollector(Collector):
    """Streams, buckets, what is reported and what is sent."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    def collect(self) -> Iterator[Metric]:
        """The current metrics."""
        quotas = self._quotas
        for name, text, value in (
            ("streams", "Streams of Envoys that are open.", quotas.streams),
            ("buckets", "Buckets that Envoys report.", quotas.buckets),
            ("ledgers", "Limits with values that are divided among Envoys.", len(quotas.ledgers)),
        ):
            yield GaugeMetricFamily(f"ratelimit_quota_{name}", text, value=value)
        yield CounterMetricFamily(
            "ratelimit_quota_reports", "Messages with usage reports.", value=quotas.reports
        )
        yield _by("requests", "Requests that Envoys report.", "decision", quotas.requests)
        yield _by("actions", "Assignments that are sent, and abandoned buckets.", "action", quotas.actions)
        yield _by("refused", "Streams that are ended, and usage that is skipped.", "reason", quotas.refused)


def _by(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    metric = CounterMetricFamily(f"ratelimit_quota_{name}", text, labels=[label])
    for value, count in values.items():
        metric.add_metric([str(value)], count)
    return metric
