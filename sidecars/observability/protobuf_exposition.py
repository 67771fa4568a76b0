"""Writes metrics in Prometheus' protobuf format, the only one that carries native histograms.

The messages are those of io.prometheus.client (client_model, metrics.proto), each after its length.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from struct import Struct
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from common.native_histogram import NativeBuckets, NativeHistogramFamily
from protos.wire import varint

CONTENT_TYPE: Final = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)

_WANTED: Final = re.compile(
    r"application/vnd\.google\.protobuf(?=[^,]*proto=io\.prometheus\.client\.MetricFamily)"
    r"(?=[^,]*encoding=delimited)[^,]*"
)
_QUALITY: Final = re.compile(r";\s*q=([0-9.]+)")
_DOUBLE: Final = Struct("<d")
_COUNTER, _GAUGE, _SUMMARY, _UNTYPED, _HISTOGRAM = range(5)
_VALUE_FIELDS: Final = {_COUNTER: 3, _GAUGE: 2, _UNTYPED: 5}
_ZERO_THRESHOLD: Final = 2.0**-128
"""That of the Go client (client_golang, DefNativeHistogramZeroThreshold)."""

Labels = tuple[tuple[str, str], ...]


def is_wanted(accept: str) -> bool:
    """Whether a scraper prefers this format, as Prometheus does if it stores native histograms."""
    ours = _WANTED.search(accept)
    if ours is None:
        return False
    return _quality(ours[0]) >= max(map(_quality, accept.split(",")))


def protobuf_page(registry: CollectorRegistry, counters: str = "") -> bytes:
    """The metrics of `registry`. Those of unknown type whose names begin with `counters` are counters."""
    families = (family for metric in registry.collect() for family in _families(metric, counters))
    return b"".join([varint(len(family)) + family for family in families])


def _quality(item: str) -> float:
    found = _QUALITY.search(item)
    try:
        return float(found[1]) if found else 1.0
    except ValueError:
        return 0.0


def _families(metric: Metric, counters: str) -> Iterator[bytes]:
    """The families of a metric: one, or one for each name of its samples."""
    if metric.type in {"histogram", "summary"}:
        kind = _HISTOGRAM if metric.type == "histogram" else _SUMMARY
        yield _family(metric.name, metric.documentation, kind, _distributions(metric, kind))
        return
    kind = {"counter": _COUNTER, "unknown": _UNTYPED}.get(metric.type, _GAUGE)
    if kind == _UNTYPED and counters and metric.name.startswith(counters):
        kind = _COUNTER
    by_name: dict[str, list[bytes]] = {}
    for sample in metric.samples:
        if not sample.name.endswith("_created"):
            value = _message(_VALUE_FIELDS[kind], _double(1, sample.value))
            by_name.setdefault(sample.name, []).append(_labels(_labels_of(sample)) + value)
    for name, rows in by_name.items():
        yield _family(name, metric.documentation, kind, rows)


def _family(name: str, documentation: str, kind: int, rows: Iterable[bytes]) -> bytes:
    head = _text(1, name) + _text(2, documentation) + _number(3, kind)
    return head + b"".join([_message(4, row) for row in rows])


def _distributions(metric: Metric, kind: int) -> Iterator[bytes]:
    samples: dict[Labels, list[Sample]] = {}
    for sample in metric.samples:
        samples.setdefault(_labels_of(sample, "le", "quantile"), []).append(sample)
    native: Mapping[tuple[str, ...], NativeBuckets] = {}
    if isinstance(metric, NativeHistogramFamily):
        native = metric.native
    for labels, rows in samples.items():
        content = b""
        for sample in rows:
            ending = sample.name.removeprefix(metric.name)
            if ending == "_count":
                content += _number(1, int(sample.value))
            elif ending == "_sum":
                content += _double(2, sample.value)
            elif ending == "_bucket":
                bound = float(sample.labels["le"])
                content += _message(3, _number(1, int(sample.value)) + _double(2, bound))
            elif "quantile" in sample.labels:
                content += _message(
                    3, _double(1, float(sample.labels["quantile"])) + _double(2, sample.value)
                )
        buckets = native.get(tuple(value for _, value in labels))
        if buckets is not None:
            content += _native(buckets)
        yield _labels(labels) + _message(7 if kind == _HISTOGRAM else 4, content)


def _native(buckets: NativeBuckets) -> bytes:
    """The sparse buckets: spans of neighbours, and the difference of each count from the one before."""
    indexes = sorted(buckets.counts)
    counts = [0, *(buckets.counts[index] for index in indexes)]
    spans: list[list[int]] = []
    last = 0
    for index in indexes:
        if spans and index == last:
            spans[-1][1] += 1
        else:
            spans.append([index - last, 1])
        last = index + 1
    return b"".join(
        (
            _number(5, _signed(buckets.schema)),
            _double(6, _ZERO_THRESHOLD),
            _number(7, buckets.zero),
            *(_message(12, _number(1, _signed(offset)) + _number(2, length)) for offset, length in spans),
            *(_number(13, _signed(after - before)) for before, after in pairwise(counts)),
        )
    )


def _labels_of(sample: Sample, *left_out: str) -> Labels:
    return tuple((name, value) for name, value in sample.labels.items() if name not in left_out)


def _labels(labels: Sequence[tuple[str, str]]) -> bytes:
    return b"".join([_message(1, _text(1, name) + _text(2, value)) for name, value in labels])


def _message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def _text(field: int, text: Any) -> bytes:
    return _message(field, str(text).encode())


def _number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def _double(field: int, value: float) -> bytes:
    return varint(field << 3 | 1) + _DOUBLE.pack(value)


def _signed(value: int) -> int:
    """ZigZag, as `sint32` and `sint64` have it."""
    return value << 1 if value >= 0 else (-value << 1) - 1
