"""Any configurations, any calls, any workers: no page has a duplicate series, and no counter falls."""

import re
import shutil
import subprocess
import time
from typing import Any

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from accesslog.metrics import AccesslogCollector, SinkMetrics
from accesslog.pipeline import Pipeline
from accesslog.records.counters import DropReason, EntryCounters
from accesslog.sinks.queue import Bounds, SinkQueue
from authz.credentials.core.metrics import CredentialMetrics
from authz.engine.decide import Decision
from authz.engine.metrics import DecisionMetrics
from authz.policy.rule import Outcome, Verdict
from authz.request.identity import CredentialKind, Refusal, RefusalReason
from common.buckets import SECOND_US
from common.configfile import parse
from ratelimit.config import compile_limits
from ratelimit.limiter import Limiter
from ratelimit.request import Descriptor, LimitRequest, Override
from ratelimit.rules import Options, Unit
from ratelimit.stats import Stats
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.metrics import StoreCollector
from sidecars.observability.connection_metrics import ConnectionMetrics
from sidecars.observability.process_metrics import ReloadMetrics, process_metrics
from sidecars.workers.metrics import MetricTotals, scrape
from tests.support.sinks import MoodySink

WORKERS = ("0", "1")

Series = tuple[str, tuple[tuple[str, str], ...]]

AWKWARD = ['q"', "l\nm", "b\\n", "é", "\x85}=,"]
keys = st.sampled_from(["a", "a", "a", "b", "b.c", "c", "(other)"])
values = st.sampled_from(["", "", "x", "x", "b.c", *AWKWARD])
names = keys | values
hits = st.integers(0, 5)


@st.composite
def descriptors(draw: st.DrawFn, depth: int = 3) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key, value in draw(st.lists(st.tuples(keys, values | st.just("*")), max_size=4)):
        one: dict[str, Any] = {"key": key, **({"value": value} if value else {})}
        for flag in ("detailed_metric", "value_to_metric", "shadow_mode"):
            one[flag] = draw(st.booleans())
        if value == "*":
            one["share_threshold"] = draw(st.booleans())
        one["rate_limit"] = draw(
            st.sampled_from([{"unlimited": True}, {"unit": "hour", "requests_per_unit": 3}])
        )
        if depth > 1:
            one["descriptors"] = draw(descriptors(depth - 1))
        found[f"{key}_{value}" if value else key] = one
    return list(found.values())


@st.composite
def configurations(draw: st.DrawFn) -> str:
    return yaml.safe_dump({"domain": "d", "descriptors": draw(descriptors())})


requests = st.builds(
    Descriptor,
    st.lists(st.tuples(keys, values), max_size=3).map(tuple),
    hits,
    st.booleans(),
    st.none() | st.builds(Override, st.integers(0, 3), st.just(Unit.HOUR), st.just(1)),
)
decisions = st.tuples(values, st.sampled_from(["", "jwt"])).map(
    lambda drawn: Decision(
        Verdict(Outcome.DENY, "denied_by_rule", 403, drawn[0]), "id", "revision", credential=drawn[1]
    )
)
steps = st.one_of(
    st.tuples(st.just("rule"), st.integers(0, 20)),
    st.tuples(st.just("ask"), st.lists(requests, min_size=1, max_size=8)),
    st.tuples(st.just("limits"), st.integers(0, 1)),
    st.tuples(st.just("decision"), decisions),
    st.tuples(st.just("entry"), values),
    st.tuples(st.just("issuers"), st.sets(names, max_size=2)),
    st.tuples(st.just("end"), st.none()),
    st.tuples(st.just("silent"), st.none()),
)


class Worker:
    """The metrics of one process; `do` has it do one thing."""

    def __init__(self, *configurations: str, envoyproxy_names: bool = False) -> None:
        self.configurations = [compile_limits([parse(text)], Options()) for text in configurations]
        self.registry = CollectorRegistry()
        memory = MemoryStore(lambda: 1_790_000_040 * SECOND_US)
        stats = Stats(max_request_keys=2, envoyproxy_names=envoyproxy_names)
        self.limiter = Limiter(self.configurations[0], memory, memory, stats)
        self.ledger, self.decisions = EntryCounters(), DecisionMetrics()
        self.credentials, self.reloads = CredentialMetrics(lambda: 0.0), ReloadMetrics(self.registry)
        pipeline = Pipeline([SinkQueue(MoodySink(), Bounds(), lambda: 0.0, SinkMetrics(self.registry, []))])
        connections = ConnectionMetrics(self.registry)
        connections.of("authz").connection_opened()
        for collector in (
            self.limiter.stats,
            StoreCollector(memory, None),
            AccesslogCollector(self.ledger, pipeline, Streams()),
            self.decisions,
            self.credentials,
        ):
            self.registry.register(collector)

    def do(self, what: str, argument: Any) -> None:
        if what == "ask":
            self.limiter.decide(self.limiter.plan(LimitRequest("d", argument)))
        elif what == "rule" and self.limiter.limits.rules:
            rules = self.limiter.limits.rules
            _, *levels = rules[argument % len(rules)].path
            entries = tuple((level, "") for level in levels)
            self.limiter.decide(self.limiter.plan(LimitRequest("d", (Descriptor(entries, 2),))))
        elif what == "limits":
            limits = self.configurations[argument]
            self.limiter.use(limits)
            self.reloads.loaded("ratelimit", {"revision": f"r{len(limits.rules)}"}, 1.0)
        elif what == "decision":
            self.decisions.count(argument)
            self.credentials.count_refusal(Refusal(RefusalReason.REVOKED, kind=CredentialKind.JWT))
        elif what == "entry":
            log = self.ledger.log(argument, "http")
            log.received += 1
            log.dropped[DropReason.MALFORMED] += 1
        elif what == "issuers":
            for issuer in argument:
                self.credentials.key_set(issuer).fetched("ok")
            self.credentials.serve({}, argument, None, None)


class Streams:
    open_streams = 0


class Collected:
    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> list[Metric]:
        return self.families


class Page:
    """A page as Prometheus reads it, scrape after scrape."""

    def __init__(self) -> None:
        self.highest: dict[Series, float] = {}

    def read(self, registry: CollectorRegistry) -> None:
        """Fails where a series is duplicated or a counter is below what it ever was."""
        found: dict[Series, float] = {}
        for family in parse_classic(generate_latest(registry).decode()):
            for sample in family.samples:
                labels = tuple(sorted((name, value) for name, value in sample.labels.items() if value))
                assert (sample.name, labels) not in found, f"twice: {sample}"
                found[sample.name, labels] = sample.value
                if family.type != "gauge":
                    series = (sample.name, labels)
                    assert sample.value >= self.highest.get(series, 0.0), f"fell: {sample}"
                    self.highest[series] = sample.value


# Without shrinking: a counterexample of a few steps is told as it was found, in seconds.
@settings(max_examples=40, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    configurations(),
    configurations(),
    st.lists(st.tuples(st.sampled_from(WORKERS), steps), max_size=8),
    st.booleans(),
)
def test_in_no_page_does_a_series_stand_twice_or_a_counter_fall(
    first: str,
    second: str,
    doings: list[tuple[str, tuple[str, Any]]],
    envoyproxy_names: bool,
) -> None:
    """The pages of each worker, and of the supervisor that sums them over ends, reloads and lost scrapes."""
    workers = {number: Worker(first, second, envoyproxy_names=envoyproxy_names) for number in WORKERS}
    pages = {number: Page() for number in WORKERS}
    totals, whole = MetricTotals(), Page()
    for number, (what, argument) in doings:
        if what == "end":
            totals.ended(number)
            workers[number] = Worker(first, second, envoyproxy_names=envoyproxy_names)
            pages[number] = Page()
        else:
            workers[number].do(what, argument)
        fresh = []
        for each, worker in workers.items():
            pages[each].read(worker.registry)
            if (each, what) != (number, "silent"):
                totals.saw(each, scrape(openmetrics(worker.registry).decode()))  # type: ignore[no-untyped-call]
                fresh.append(each)
        registry = CollectorRegistry()
        registry.register(Collected(list(totals.families(fresh))))
        whole.read(registry)
        list(parse_openmetrics(openmetrics(registry).decode()))  # type: ignore[no-untyped-call]


def test_promtool_takes_the_page() -> None:
    """Prometheus's own reader, where it is installed (Debian: apt install prometheus)."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on the PATH: Prometheus's own reader has not seen the page")
    text = "{domain: d, descriptors: [{key: a, rate_limit: {unlimited: true}}]}"
    totals = MetricTotals()
    for number in WORKERS:
        worker = Worker(text)
        process_metrics(worker.registry, "native", time.time)
        worker.do("limits", 0)
        worker.do("ask", [Descriptor((("a", "x"),), override=Override(1, Unit.HOUR))])
        worker.do("entry", "edge")
        totals.saw(number, scrape(openmetrics(worker.registry).decode()))  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    registry.register(Collected(list(totals.families(WORKERS))))
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True, check=False
    )
    # 3: it could be read, and the names are not to its taste (those of envoyproxy/ratelimit have no _total).
    result = (checked.stdout + checked.stderr).decode()
    assert checked.returncode in {0, 3}, result
    foreign = re.compile(r"^ratelimit_service_|^$")
    assert [line for line in result.splitlines() if not foreign.match(line)] == []
