"""Prometheus' protobuf format; prometheus/common expfmt v0.53 reads such a page, too."""

from collections.abc import Iterator
from math import inf
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary
from prometheus_client.core import UnknownMetricFamily

from accesslog.metrics import RequestCollector
from accesslog.records.requests import RequestCounters
from protos.wire import read_varint
from sidecars.observability.exposition import metrics_page

PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
PROMETHEUS = (
    f"{PROTOBUF};q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "text/plain;version=1.0.0;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 sends with scrape_native_histograms."""

# Field numbers of prometheus/client_model v0.6.2, io/prometheus/client/metrics.proto.
TEXT, DOUBLE, UINT64, UINT32, SINT32, SINT64, ENUM = 9, 1, 4, 13, 17, 18, 5
MESSAGES: dict[str, dict[str, tuple[int, Any, bool]]] = {
    "LabelPair": {"name": (1, TEXT, False), "value": (2, TEXT, False)},
    "Gauge": {"value": (1, DOUBLE, False)},
    "Counter": {"value": (1, DOUBLE, False)},
    "Untyped": {"value": (1, DOUBLE, False)},
    "Summary": {"sample_count": (1, UINT64, False), "sample_sum": (2, DOUBLE, False)},
    "Bucket": {"cumulative_count": (1, UINT64, False), "upper_bound": (2, DOUBLE, False)},
    "BucketSpan": {"offset": (1, SINT32, False), "length": (2, UINT32, False)},
    "Histogram": {
        "sample_count": (1, UINT64, False),
        "sample_sum": (2, DOUBLE, False),
        "bucket": (3, "Bucket", True),
        "schema": (5, SINT32, False),
        "zero_threshold": (6, DOUBLE, False),
        "zero_count": (7, UINT64, False),
        "positive_span": (12, "BucketSpan", True),
        "positive_delta": (13, SINT64, True),
    },
    "Metric": {
        "label": (1, "LabelPair", True),
        "gauge": (2, "Gauge", False),
        "counter": (3, "Counter", False),
        "summary": (4, "Summary", False),
        "untyped": (5, "Untyped", False),
        "histogram": (7, "Histogram", False),
    },
    "MetricFamily": {
        "name": (1, TEXT, False),
        "help": (2, TEXT, False),
        "type": (3, ENUM, False),
        "metric": (4, "Metric", True),
    },
}


def _family_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="t", syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            one = message.field.add(name=field, number=number, label=3 if repeated else 1)
            number_of_type = kind
            if isinstance(kind, str):
                number_of_type, one.type_name = 11, f".t.{kind}"
            one.type = number_of_type
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.MetricFamily"))


FAMILY = _family_class()


def families(registry: CollectorRegistry, *, plain_counters: bool = False) -> dict[str, Any]:
    page, content_type = metrics_page(registry, PROMETHEUS, plain_counters=plain_counters)
    assert content_type.replace(" ", "") == PROTOBUF
    return {family.name: family for family in _read(page)}


def _read(page: bytes) -> Iterator[Any]:
    at = 0
    while at < len(page):
        size, at = read_varint(page, at)
        yield FAMILY.FromString(page[at : at + size])
        at += size


@pytest.mark.parametrize(
    ("accept", "protobuf"),
    [
        (PROMETHEUS, True),
        (PROTOBUF, True),
        (f"{PROTOBUF};q=0.5,application/openmetrics-text;version=1.0.0;q=0.6", False),
        ("application/vnd.google.protobuf", False),
        ("*/*", False),
        ("", False),
        (f"{PROTOBUF};q=x", True),
    ],
)
def test_is_for_a_scraper_that_prefers_it(accept: str, protobuf: bool) -> None:
    _, content_type = metrics_page(CollectorRegistry(), accept)
    assert content_type.startswith("application/vnd.google.protobuf") == protobuf


def test_has_every_type_under_the_name_of_its_samples() -> None:
    registry = CollectorRegistry()
    Counter("calls", "help", ["a"], registry=registry).labels('x"\n').inc(3)
    Gauge("level", "help", registry=registry).set(-1.5)
    Histogram("seconds", "help", registry=registry, buckets=(1,)).observe(2)
    Summary("size", "help", registry=registry).observe(2)
    Info("build", "help", registry=registry).info({"v": "1"})
    found = families(registry)
    assert {name: family.type for name, family in found.items()} == {
        "calls_total": 0,
        "level": 1,
        "seconds": 4,
        "size": 2,
        "build_info": 1,
    }
    [calls] = found["calls_total"].metric
    assert ([(one.name, one.value) for one in calls.label], calls.counter.value) == ([("a", 'x"\n')], 3)
    assert found["level"].metric[0].gauge.value == -1.5
    seconds = found["seconds"].metric[0].histogram
    assert [(one.upper_bound, one.cumulative_count) for one in seconds.bucket] == [(1, 0), (inf, 1)]
    assert (seconds.sample_count, seconds.sample_sum, seconds.HasField("schema")) == (1, 2, False)
    assert found["size"].metric[0].summary.sample_sum == 2


def test_the_names_of_envoyproxy_ratelimit_are_counters_if_asked_for() -> None:
    class Both:
        def collect(self) -> Iterator[UnknownMetricFamily]:
            yield UnknownMetricFamily("ratelimit_service_total_requests", "help", 1)

    registry = CollectorRegistry()
    registry.register(Both())
    assert families(registry)["ratelimit_service_total_requests"].type == 3
    assert families(registry, plain_counters=True)["ratelimit_service_total_requests"].type == 0


@given(st.lists(st.one_of(st.integers(-5, 20_000), st.integers(-(2**62), 2**62)), max_size=30))
def test_durations_are_in_the_bucket_that_holds_them(durations_us: list[int]) -> None:
    """Prometheus refuses a native histogram whose buckets do not add up to its count."""
    counters = RequestCounters()
    for duration_us in durations_us:
        counters.observe("r", "2xx", duration_us)
    registry = CollectorRegistry()
    registry.register(RequestCollector(counters, lambda: 0.0))
    metrics = families(registry)["accesslog_request_duration_seconds"].metric if durations_us else []
    for metric in metrics:
        histogram = metric.histogram
        found: dict[int, int] = {}
        index = count = 0
        deltas = iter(histogram.positive_delta)
        for span in histogram.positive_span:
            index += span.offset
            for _ in range(span.length):
                count += next(deltas)
                found[index] = count
                index += 1
        expected = [us for us in durations_us if us > 0]
        assert histogram.schema == 3
        assert histogram.zero_count == len(durations_us) - len(expected)
        assert histogram.sample_count == histogram.zero_count + sum(found.values()) == len(durations_us)
        for us in expected:
            seconds = us / 1e6
            holders = [at for at in found if 2 ** ((at - 1) / 8) < seconds * (1 + 1e-9)]
            assert any(seconds * (1 - 1e-9) <= 2 ** (at / 8) for at in holders)
