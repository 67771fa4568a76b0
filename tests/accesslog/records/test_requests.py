"""Finished requests are counted before sampling, the same from lines and from records."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from accesslog.metrics import RequestCollector
from accesslog.records.counters import EntryCounters
from accesslog.records.decoder import EntryDecoder, Rules
from accesslog.records.redact import Redaction
from accesslog.records.requests import OTHER, RequestCounters, response_class
from accesslog.records.sample import Sampling
from protos.accesslog_data_pb2 import (
    AccessLogType,
    DownstreamEnd,
    DownstreamPeriodic,
    DownstreamStart,
    HTTPAccessLogEntry,
    ResponseFlags,
    UpstreamEnd,
)
from tests.support.entries import http_entry, message, tcp_entry

ALL = Sampling()
NOW = 1_700_000_000.0


class Counted:
    """A decoder with counters and a registry that shows them."""

    def __init__(self, sampling: Sampling = ALL, most: int = 500) -> None:
        self.requests = RequestCounters((0.005, 0.01, 1.0), most)
        self.registry = CollectorRegistry()
        self.registry.register(RequestCollector(self.requests, lambda: NOW))
        self.entries = EntryCounters()
        rules = Rules(Redaction(), sampling, requests=self.requests)
        self.decoder = EntryDecoder(rules, self.entries, lambda: 1.0, lambda: 0.5)

    def read(self, *entries: Any, odd: bool = False) -> list[dict[str, Any]]:
        data = message(*entries).SerializeToString()
        if odd:
            data = data.replace(b"UTF8", b"\xff" * 4)
        return [orjson.loads(line) for batch in self.decoder.read(data) for line in batch.lines]

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"accesslog_request_{name}", labels)


def entry(
    route: str = "orders", code: int = 200, kind: int = DownstreamEnd, **more: Any
) -> HTTPAccessLogEntry:
    made = http_entry(code=code, **more)
    made.common_properties.route_name = route
    made.common_properties.access_log_type = kind  # type: ignore[assignment]
    return made


def test_rate_errors_and_durations_by_route_and_class() -> None:
    counted = Counted(Sampling(0.0))
    counted.read(entry(), entry(), entry(code=503), entry("users", 404), entry(code=0))
    assert counted.sample("duration_seconds_count", route="orders", response_class="2xx") == 2
    assert counted.sample("duration_seconds_sum", route="orders", response_class="2xx") == 2 * 0.007654
    buckets = [
        counted.sample("duration_seconds_bucket", route="orders", response_class="2xx", le=bound)
        for bound in ("0.005", "0.01", "1.0", "+Inf")
    ]
    assert buckets == [0, 2, 2, 2]
    assert counted.sample("errors_total", route="orders", response_class="5xx") == 1
    assert counted.sample("errors_total", route="orders", response_class="none") == 1
    assert counted.sample("errors_total", route="users", response_class="4xx") is None
    assert counted.sample("duration_seconds_count", route="users", response_class="4xx") == 1


@pytest.mark.parametrize("odd", [False, True], ids=["lines", "records"])
def test_only_the_end_of_a_request_counts(odd: bool) -> None:
    counted = Counted()
    text: dict[str, Any] = {"request_id": "UTF8"} if odd else {}
    kinds = (AccessLogType.NotSet, DownstreamStart, DownstreamPeriodic, DownstreamEnd, UpstreamEnd)
    intermediate = entry(**text)
    intermediate.common_properties.intermediate_log_entry = True
    lines = counted.read(*[entry(kind=kind, **text) for kind in kinds], intermediate, odd=odd)
    counted.read(tcp_entry())
    assert len(lines) == 6
    assert sum(sum(series.counts) for series in counted.requests) == 2


def test_label_sets_are_bounded_and_what_fell_into_other_is_counted() -> None:
    counted = Counted(most=3)
    for number in range(10):
        counted.read(entry(f"route-{number}"))
    assert {series.route for series in counted.requests} == {"route-0", "route-1", "route-2", OTHER}
    assert counted.sample("duration_seconds_count", route=OTHER, response_class="2xx") == 7
    assert counted.sample("series_overflow_total") == 7


@pytest.mark.parametrize(
    ("code", "name"), [(0, "none"), (99, "other"), (100, "1xx"), (204, "2xx"), (599, "5xx"), (600, "other")]
)
def test_classes(code: int, name: str) -> None:
    assert response_class(code) == name


class TestSampling:
    def test_has_a_rate_for_each_route(self) -> None:
        counted = Counted(Sampling(1.0, {"healthz": 0.0}))
        assert [line["route"] for line in counted.read(entry("healthz"), entry("orders"))] == ["orders"]
        assert len(counted.read(entry("healthz", 503))) == 1

    def test_keeps_slow_requests(self) -> None:
        counted = Counted(Sampling(0.0, slow_us=7_654))
        fast = entry()
        fast.common_properties.duration.nanos = 7_653_000
        [line] = counted.read(entry(), fast)
        assert "sample_rate" not in line

    def test_writes_the_rate(self) -> None:
        lines = Counted(Sampling(0.5)).read(*[entry(request_id=f"id-{number}") for number in range(40)])
        assert 5 < len(lines) < 35
        assert {line["sample_rate"] for line in lines} == {0.5}

    @pytest.mark.parametrize("odd", [False, True])
    def test_the_rate_is_ours_and_that_of_the_entry_another_field(self, odd: bool) -> None:
        some = [entry(request_id=f"id-{number}") for number in range(40)]
        for one in some:
            one.common_properties.sample_rate = 7.0
            one.request.user_agent = "UTF8"
        lines = Counted(Sampling(0.5)).read(*some, odd=odd)
        assert lines
        assert {(line["sample_rate"], line["envoy_sample_rate"]) for line in lines} == {(0.5, 7.0)}

    def test_comes_after_redaction(self) -> None:
        counted = Counted(Sampling(0.0))
        assert counted.read(entry(path="/a?token=t")) == []
        [log] = counted.entries
        assert (log.redacted, log.sampled_out) == (1, 1)


@pytest.mark.parametrize("outcome", [{"a": 1}, ["deny"], None, 5])
def test_an_outcome_that_is_no_text_is_written_all_the_same(outcome: Any) -> None:
    """Any filter may write into the metadata of authz."""
    metadata = {"envoy.filters.http.ext_authz": {"outcome": outcome}}
    counted = Counted(Sampling(0.5, slow_us=1))
    [line] = counted.read(entry(metadata=metadata))
    assert line["authz_outcome"] == outcome


outcomes = st.sampled_from(["allow", "deny", "error"])
some_entries = st.builds(
    lambda route, code, kind, number, outcome, flag: entry(
        route,
        code,
        kind,
        request_id=f"UTF8-{number}" if number else "UTF8",
        metadata={"envoy.filters.http.ext_authz": {"outcome": outcome}},
        flags=ResponseFlags(rate_limited=flag),
    ),
    st.sampled_from(["", "a", "b"]),
    st.sampled_from([0, 200, 302, 404, 503]),
    st.sampled_from([AccessLogType.NotSet, DownstreamStart, DownstreamEnd, UpstreamEnd]),
    st.integers(0, 50),
    outcomes,
    st.booleans(),
)


@given(st.lists(some_entries, max_size=20), st.sampled_from([0.0, 0.3, 1.0]))
def test_lines_and_records_are_sampled_and_counted_alike(some: list[Any], rate: float) -> None:
    """An entry with bytes that are not UTF-8, which keep it from the quick way, is judged as others are."""
    lines, records = (Counted(Sampling(rate, {"b": 0.5})) for _ in range(2))
    kept = lines.read(*some)
    for one in some:
        one.request.user_agent = "UTF8"
    odd = [orjson.loads(line) for line in _read_odd(records, some)]
    assert [line["request_id"] for line in kept] == [line["request_id"] for line in odd]
    assert [line.get("sample_rate") for line in kept] == [line.get("sample_rate") for line in odd]
    shown = [
        {(series.route, series.response_class): series.counts for series in one.requests}
        for one in (lines, records)
    ]
    assert shown[0] == shown[1]


def _read_odd(counted: Counted, some: list[Any]) -> list[bytes]:
    data = message(*some).SerializeToString()
    # The user agent alone: the id, which decides, stays as it is.
    data = data.replace(b"\x32\x04UTF8", b"\x32\x04\xff\xff\xff\xff")
    return [line for batch in counted.decoder.read(data) for line in batch.lines]


def timed(milliseconds: int, request_id: str, *, odd: bool = False) -> HTTPAccessLogEntry:
    made = entry(request_id=request_id)
    made.common_properties.duration.nanos = milliseconds * 1_000_000
    if odd:
        made.request.user_agent = "UTF8"
    return made


def examples(counted: Counted) -> dict[str, tuple[str, float, float]]:
    """The exemplar of each bucket at this scrape, by its upper bound."""
    return {
        sample.labels["le"]: (
            sample.exemplar.labels["request_id"],
            sample.exemplar.value,
            float(sample.exemplar.timestamp or 0),
        )
        for family in counted.registry.collect()
        for sample in family.samples
        if sample.exemplar is not None
    }


@pytest.mark.parametrize("odd", [False, True])
def test_a_bucket_has_the_request_id_of_its_first_request_since_the_last_scrape(*, odd: bool) -> None:
    counted = Counted()
    for request_id, milliseconds in (("a", 2), ("b", 3), ("slow", 700)):
        counted.read(timed(milliseconds, request_id, odd=odd), odd=odd)
    assert examples(counted) == {"0.005": ("a", 0.002, NOW), "1.0": ("slow", 0.7, NOW)}
    counted.read(timed(4, "c", odd=odd), odd=odd)
    assert examples(counted) == {"0.005": ("c", 0.004, NOW), "1.0": ("slow", 0.7, NOW)}


@pytest.mark.parametrize("request_id", ["", "x" * 101, "\u00e9"])
def test_a_request_without_a_usable_id_is_no_example(request_id: str) -> None:
    counted = Counted()
    counted.read(timed(2, request_id))
    assert examples(counted) == {}
    counted.read(timed(2, 'quoted "id"'))
    assert examples(counted) == {"0.005": ('quoted "id"', 0.002, NOW)}
    page = openmetrics(counted.registry).decode()  # type: ignore[no-untyped-call]
    read = [sample for family in parse_openmetrics(page) for sample in family.samples]  # type: ignore[no-untyped-call]
    assert [sample.exemplar.labels for sample in read if sample.exemplar] == [{"request_id": 'quoted "id"'}]
