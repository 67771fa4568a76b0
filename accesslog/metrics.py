"""Prometheus metrics of the entries, queues and sinks.

The counters are plain integers of the ledger, read when Prometheus asks: no entry pays for a metric.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from accesslog.pipeline import Pipeline
from accesslog.records.counters import DropReason, EntryCounters
from accesslog.records.requests import SCHEMA, ExampleRequest, RequestCounters
from common.native_histogram import NativeBuckets, NativeHistogramFamily

_LOG: Final = ("log_name", "type")
_REQUEST: Final = ("route", "response_class")
_WRITE_SECONDS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10)


class SinkMetrics:
    """Latency and errors of the sinks; the `SinkObserver` of their queues."""

    __slots__ = ("_errors", "_seconds")

    def __init__(self, registry: CollectorRegistry, sinks: Sequence[str]) -> None:
        seconds = Histogram(
            "accesslog_sink_write_seconds",
            "How long a sink took to write a batch.",
            ["sink"],
            registry=registry,
            buckets=_WRITE_SECONDS,
        )
        self._seconds = {sink: seconds.labels(sink) for sink in sinks}
        self._errors = Counter(
            "accesslog_sink_errors",
            "Attempts of a sink to write a batch that failed; most are tried again.",
            ["sink", "reason"],
            registry=registry,
        )

    def wrote(self, sink: str, seconds: float) -> None:
        """A batch was written, and how long that took."""
        self._seconds[sink].observe(seconds)

    def failed(self, sink: str, reason: DropReason) -> None:
        """An attempt to write a batch failed."""
        self._errors.labels(sink, reason.value).inc()


class OpenStreams(Protocol):
    """Knows how many streams are open."""

    @property
    def open_streams(self) -> int:
        """How many Envoy workers are connected."""


class AccesslogCollector(Collector):
    """The numbers of the counters, the pipeline and the streams at the time of the scrape."""

    def __init__(self, counters: EntryCounters, pipeline: Pipeline, streams: OpenStreams) -> None:
        self._ledger = counters
        self._pipeline = pipeline
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        """All metrics but those of `SinkMetrics`."""
        yield from self._entries()
        yield from self._queues()
        yield from self._spools()
        yield GaugeMetricFamily("accesslog_streams_open", "Open streams.", self._streams.open_streams)
        yield GaugeMetricFamily(
            "accesslog_streams_waiting",
            "Streams not being read because the sinks have no room.",
            self._pipeline.waiting_streams,
        )
        yield CounterMetricFamily(
            "accesslog_streams_unidentified",
            "Streams whose first message named neither node nor log.",
            self._ledger.unidentified_streams,
        )
        yield CounterMetricFamily(
            "accesslog_messages_unreadable",
            "Messages that could not be read as a StreamAccessLogsMessage.",
            self._ledger.unreadable_messages,
        )

    def _entries(self) -> Iterator[Metric]:
        received = CounterMetricFamily(
            "accesslog_entries_received", "Entries received from Envoy.", labels=_LOG
        )
        sampled = CounterMetricFamily("accesslog_entries_sampled_out", "Entries sampled out.", labels=_LOG)
        redacted = CounterMetricFamily(
            "accesslog_entries_redacted", "Entries in which something was redacted.", labels=_LOG
        )
        written = CounterMetricFamily(
            "accesslog_entries_written", "Entries written, by sink.", labels=(*_LOG, "sink")
        )
        dropped = CounterMetricFamily(
            "accesslog_entries_dropped",
            "Entries lost, by sink (empty: before any sink saw them) and reason.",
            labels=(*_LOG, "sink", "reason"),
        )
        recovered = CounterMetricFamily(
            "accesslog_entries_recovered",
            "Entries that an earlier process left in the spool of a sink.",
            labels=(*_LOG, "sink"),
        )
        for log in self._ledger:
            labels = (log.name, log.type)
            received.add_metric(labels, log.received)
            sampled.add_metric(labels, log.sampled_out)
            redacted.add_metric(labels, log.redacted)
            for sink_queue in self._pipeline.sink_queues:
                written.add_metric((*labels, sink_queue.sink.name), log.written_to[sink_queue.sink.name])
            for reason, count in log.dropped.items():
                dropped.add_metric((*labels, "", reason.value), count)
            for (sink, reason), count in log.dropped_by.items():
                dropped.add_metric((*labels, sink, reason.value), count)
            for sink, count in log.recovered.items():
                recovered.add_metric((*labels, sink), count)
        yield from (received, sampled, redacted, written, dropped, recovered)

    def _queues(self) -> Iterator[Metric]:
        entries = GaugeMetricFamily("accesslog_queue_entries", "Entries waiting for a sink.", labels=["sink"])
        size = GaugeMetricFamily("accesslog_queue_bytes", "Bytes waiting for a sink.", labels=["sink"])
        failing = GaugeMetricFamily(
            "accesslog_sink_failing",
            "1 while the last attempt to open or write failed.",
            labels=["sink"],
        )
        for sink_queue in self._pipeline.sink_queues:
            labels = [sink_queue.sink.name]
            entries.add_metric(labels, sink_queue.entries)
            size.add_metric(labels, sink_queue.size_bytes)
            failing.add_metric(labels, sink_queue.failing)
        yield from (entries, size, failing)

    def _spools(self) -> Iterator[Metric]:
        entries = GaugeMetricFamily("accesslog_spool_entries", "Entries on disk for a sink.", labels=["sink"])
        size = GaugeMetricFamily("accesslog_spool_bytes", "Bytes on disk for a sink.", labels=["sink"])
        most = GaugeMetricFamily(
            "accesslog_spool_max_bytes",
            "The most bytes on disk for a sink; then entries wait or are lost.",
            labels=["sink"],
        )
        failing = GaugeMetricFamily(
            "accesslog_spool_failing", "1 while the spool cannot be opened or written.", labels=["sink"]
        )
        cut = CounterMetricFamily(
            "accesslog_spool_cut_bytes", "Bytes of torn frames cut off the spool at start.", labels=["sink"]
        )
        aside = GaugeMetricFamily(
            "accesslog_spool_files_left_aside",
            "Files in the spool folder that are not segments of this version.",
            labels=["sink"],
        )
        for sink_queue in self._pipeline.sink_queues:
            spool = sink_queue.spool
            if spool is not None:
                labels = [sink_queue.sink.name]
                entries.add_metric(labels, spool.entries)
                size.add_metric(labels, spool.size_bytes)
                most.add_metric(labels, spool.bounds.max_bytes)
                failing.add_metric(labels, spool.failing)
                cut.add_metric(labels, spool.cut_bytes)
                aside.add_metric(labels, spool.left_aside)
        yield from (entries, size, most, failing, cut, aside)


class RequestCollector(Collector):
    """Rate, errors and durations of the finished requests, before sampling."""

    def __init__(self, requests: RequestCounters, wall_clock: Callable[[], float]) -> None:
        self._requests = requests
        self._wall_clock = wall_clock

    def collect(self) -> Iterator[Metric]:
        """The histogram by route and class of response, whose `_count` is the rate; errors; the bound."""
        durations = NativeHistogramFamily(
            "accesslog_request_duration_seconds",
            "Finished HTTP requests by duration, from the start to the last byte sent.",
            labels=_REQUEST,
        )
        errors = CounterMetricFamily(
            "accesslog_request_errors",
            "Finished HTTP requests that failed: a status from 500, or no response.",
            labels=_REQUEST,
        )
        bounds = (*map(str, self._requests.bounds_seconds), "+Inf")
        now = self._wall_clock()
        for series in self._requests:
            labels = (series.route, series.response_class)
            counts = tuple(accumulate(series.counts))
            buckets = list(map(_bucket, bounds, counts, series.examples(now)))
            durations.add_metric(labels, buckets, series.sum_us / 1e6)
            durations.native[labels] = NativeBuckets(SCHEMA, series.zero, dict(series.native))
            if series.response_class in {"5xx", "none"}:
                errors.add_metric(labels, counts[-1])
        yield durations
        yield errors
        yield CounterMetricFamily(
            "accesslog_request_series_overflow",
            "Requests counted under the route (other), because there are most_series label sets.",
            self._requests.overflowed,
        )


def _bucket(
    bound: str, count: float, example: ExampleRequest | None
) -> tuple[str, float] | tuple[str, float, Exemplar]:
    if example is None:
        return bound, count
    labels = {"request_id": example.request_id}
    return bound, count, Exemplar(labels, example.duration_us / 1e6, example.read_at)
