"""Metrics of several workers as one page."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from sidecars.workers import metrics
from sidecars.workers.metrics import MetricTotals, Scrape, scrape


class Source:
    """A worker's metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("calls", "Calls.", ["method"], registry=self.registry)
        self.seconds = Histogram("took_seconds", "Time.", buckets=(1, 2), registry=self.registry)
        self.open = Gauge("streams_open", "Streams.", registry=self.registry)
        Info("build", "What runs.", registry=self.registry).info({"version": "1"})

    def scrape(self) -> Scrape:
        return scrape(generate_latest(self.registry).decode())


def samples(totals: MetricTotals, *fresh: str) -> dict[str, float]:
    return {
        sample.name
        + "".join(f"|{name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in totals.families(fresh)
        for sample in family.samples
    }


def two() -> tuple[MetricTotals, Source, Source]:
    totals, first, second = MetricTotals(), Source(), Source()
    first.calls.labels("Check").inc(2)
    second.calls.labels("Check").inc(3)
    second.calls.labels("Watch").inc()
    first.seconds.observe(0.5)
    second.seconds.observe(1.5)
    first.open.set(4)
    second.open.set(5)
    totals.saw("0", first.scrape())
    totals.saw("1", second.scrape())
    return totals, first, second


def test_counters_are_summed_by_their_labels() -> None:
    found = samples(two()[0], "0", "1")
    assert found["calls_total|method=Check"] == 5
    assert found["calls_total|method=Watch"] == 1


def test_histograms_are_summed_bucket_by_bucket() -> None:
    found = samples(two()[0], "0", "1")
    buckets = [found[f"took_seconds_bucket|le={bound}"] for bound in ("1.0", "2.0", "+Inf")]
    assert buckets == [1, 2, 2]
    assert (found["took_seconds_count"], found["took_seconds_sum"]) == (2, 2)


def test_a_gauge_and_an_info_stay_apart_by_worker() -> None:
    found = samples(two()[0], "0", "1")
    assert (found["streams_open|worker=0"], found["streams_open|worker=1"]) == (4, 5)
    assert found["build_info|version=1|worker=1"] == 1


def test_an_untyped_sample_is_a_counter_as_those_of_envoyproxy_ratelimit_are() -> None:
    totals = MetricTotals()
    for worker in ("0", "1"):
        totals.saw(worker, scrape('# TYPE total_hits untyped\ntotal_hits{key1="a"} 3\n'))
    assert samples(totals, "0", "1") == {"total_hits|key1=a": 6}


def test_of_a_summary_the_quantiles_stay_apart() -> None:
    totals = MetricTotals()
    page = '# TYPE size summary\nsize{quantile="0.5"} 3\nsize_count 2\nsize_sum 9\n'
    for worker in ("0", "1"):
        totals.saw(worker, scrape(page))
    found = samples(totals, "0", "1")
    assert found["size_count"] == 4
    assert found["size|quantile=0.5|worker=1"] == 3


def test_a_gauge_that_names_its_worker_keeps_that() -> None:
    totals = MetricTotals()
    totals.saw(
        "supervisor", scrape('# TYPE sidecars_worker_ready gauge\nsidecars_worker_ready{worker="1"} 1\n')
    )
    assert samples(totals, "supervisor") == {"sidecars_worker_ready|worker=1": 1}


def test_a_sum_does_not_fall_when_a_worker_ends_and_another_begins_from_0() -> None:
    """Prometheus takes a counter that falls for one that was reset, and counts all of it again."""
    totals, _, _ = two()
    totals.ended("1")
    assert samples(totals, "0")["calls_total|method=Check"] == 5
    again = Source()
    again.calls.labels("Check").inc(1)
    totals.saw("1", again.scrape())
    assert samples(totals, "0", "1")["calls_total|method=Check"] == 6


def test_gauges_of_a_worker_that_does_not_answer_are_left_out_and_its_counts_stay() -> None:
    found = samples(two()[0], "1")
    assert "streams_open|worker=0" not in found
    assert found["calls_total|method=Check"] == 5


def hits(**rules: float) -> Scrape:
    """The untyped counters of ratelimit, of the rules that are configured."""
    lines = [f'total_hits{{key1="{rule}"}} {count}' for rule, count in rules.items()]
    return scrape("\n".join(["# TYPE total_hits untyped", *lines, ""]))


def test_a_sum_does_not_fall_while_a_reload_has_reached_one_worker_only() -> None:
    """20 fell to 14: one worker had removed the rule, the other not yet."""
    totals = MetricTotals()
    totals.saw("0", hits(a=6))
    totals.saw("1", hits(a=14))
    totals.saw("0", hits(b=1))
    assert samples(totals, "0", "1") == {"total_hits|key1=a": 20, "total_hits|key1=b": 1}
    totals.saw("1", hits(b=1))
    assert samples(totals, "0", "1") == {"total_hits|key1=b": 2}
    totals.saw("1", hits(a=15, b=1))
    assert samples(totals, "0", "1") == {"total_hits|key1=a": 21, "total_hits|key1=b": 2}


def test_a_worker_that_counts_a_series_from_0_again_makes_no_sum_fall() -> None:
    totals = MetricTotals()
    for count in (5, 2, 3):
        totals.saw("0", hits(a=count))
    assert samples(totals, "0") == {"total_hits|key1=a": 8}


def test_the_counts_of_series_that_no_one_shows_any_more_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = 2_000
    monkeypatch.setattr(metrics, "MAX_HIDDEN", hidden)
    totals = MetricTotals()
    many = hidden // 2
    for generation in range(4):
        totals.saw("0", hits(kept=1, **{f"r{generation}_{number}": 1 for number in range(many)}))
    assert sum(len(seen.counted) for seen in totals._seen.values()) <= hidden + many
    assert samples(totals, "0")["total_hits|key1=kept"] == 1


def test_a_worker_that_ends_just_after_its_answer_is_in_the_sums_and_has_no_gauges() -> None:
    totals = two()[0]
    totals.ended("1")
    found = samples(totals, "0", "1")
    assert found["calls_total|method=Check"] == 5
    assert "streams_open|worker=0" in found
    assert "streams_open|worker=1" not in found


def test_a_worker_that_ended_before_it_was_ever_seen_changes_nothing() -> None:
    totals = two()[0]
    before = samples(totals, "0", "1")
    totals.ended("7")
    assert samples(totals, "0", "1") == before


class Collected:
    def __init__(self, totals: MetricTotals) -> None:
        self._totals = totals

    def collect(self) -> list[Metric]:
        return list(self._totals.families(("0", "1")))


def registry_of(totals: MetricTotals) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Collected(totals))
    return registry


def test_the_page_is_good_openmetrics_too() -> None:
    page = openmetrics(registry_of(two()[0])).decode()  # type: ignore[no-untyped-call]
    families = {family.name for family in parse_openmetrics(page)}  # type: ignore[no-untyped-call]
    assert {"calls", "took_seconds", "streams_open"} <= families


def with_exemplar(decision_id: str, at: int) -> Scrape:
    exemplar = f'# {{decision_id="{decision_id}"}} 0.5 {at}'
    lines = [
        f'took_bucket{{le="1.0"}} 2 {exemplar}',
        'took_bucket{le="+Inf"} 2',
        "took_count 2",
        "took_sum 1",
    ]
    return scrape("\n".join(["# TYPE took histogram", *lines, "# EOF\n"]))


def test_of_the_exemplars_of_a_bucket_the_newest_is_shown() -> None:
    totals = MetricTotals()
    totals.saw("0", with_exemplar("newer", 1700000002))
    totals.saw("1", with_exemplar("older", 1700000001))
    registry = registry_of(totals)
    line = b'took_bucket{le="1.0"} 4.0 # {decision_id="newer"} 0.5 1700000002.000000000'
    assert line in openmetrics(registry).splitlines()  # type: ignore[no-untyped-call]
    assert b'took_bucket{le="1.0"} 4.0' in generate_latest(registry).splitlines()


def test_the_exemplars_of_a_worker_that_has_ended_are_left_out() -> None:
    totals = MetricTotals()
    totals.saw("0", with_exemplar("gone", 1700000002))
    totals.ended("0")
    assert b"gone" not in openmetrics(registry_of(totals))  # type: ignore[no-untyped-call]
