"""Counts what each rule did, under the metric names of envoyproxy/ratelimit.

Dashboards made for it keep working: the names (src/stats/prom/default_mapper.yaml) and the labels
`domain`, `key1`, `key2` are the same; levels below the second are joined to `key2` by dots. Those names
lack the `_total` that Prometheus wants of counters, so their type is `untyped` here.

Several metric keys may come to the same labels: an override of a configured key, a detailed metric without
a value, a value with a dot. They share one series, and so one count: Prometheus refuses a page in which a
series appears twice.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from prometheus_client import Metric
from prometheus_client.registry import Collector

from common.configfile import Breathe, no_breaks
from ratelimit.metric_names import Path, Series, by_dots, by_level, unknown_domain_metric
from ratelimit.request import BadInput
from ratelimit.unmatched import MAX_SHAPES, OTHER, Unmatched

MAX_REQUEST_KEYS: Final = 1_000
"""Metric keys with values of requests in them (detailed_metric, value_to_metric, overrides): without a bound
each client would add its own (envoyproxy/ratelimit#275, #1132). Further ones share one key a domain."""

MAX_RULE_KEYS: Final = 10_000
"""Rules with counters of their own: 60,000 time series are many for one Prometheus target."""

MAX_GONE_KEYS: Final = 10_000
"""The most removed rules whose counts are kept, to continue if the rules come back."""

_COUNTERS: Final = {
    "total_hits": "Hits to the rule.",
    "over_limit": "Hits above the limit.",
    "near_limit": "Hits between near_limit_ratio and the limit.",
    "within_limit": "Hits of requests that passed.",
    "shadow_mode": "Hits above the limit, of rules in shadow mode.",
    "total_negative_hits": "Hits given back.",
    "over_limit_with_local_cache": "Hits above the limit that the deny cache refused.",
}
_PREFIX: Final = "ratelimit_service_rate_limit"


class Counts:
    """The counters of one rule."""

    __slots__ = (*_COUNTERS,)

    def __init__(self) -> None:
        self.total_hits = 0
        self.over_limit = 0
        self.near_limit = 0
        self.within_limit = 0
        self.shadow_mode = 0
        self.total_negative_hits = 0
        self.over_limit_with_local_cache = 0

    def arrived(self, hits: int) -> None:
        """Count requested hits, allowed or not; negative ones give back."""
        if hits >= 0:
            self.total_hits += hits
        else:
            self.total_negative_hits -= hits

    def decided(self, before: int, hits: int, allowed: bool, limit: int, near: int) -> None:  # noqa: FBT001
        """Count one outcome: of `hits`, added to `before`, some may be over `limit`, some above `near`.

        envoyproxy/ratelimit splits so (checkOverLimitThreshold, checkNearLimitThreshold).
        """
        after = before + hits
        if allowed:
            self.within_limit += hits
            if after > near:
                self.near_limit += hits if before >= near else after - near
        elif before >= limit:
            self.over_limit += hits
        else:
            self.over_limit += after - limit
            self.near_limit += limit - max(near, before)


class CountedRules:
    """The counters of the rules of a configuration that is to serve."""

    __slots__ = ("before", "gone", "new", "of_paths", "rules")

    def __init__(self, before: dict[Series, Counts]) -> None:
        self.before = before
        """The counters of the rules in service."""
        self.gone = dict(before)
        """Those without a rule from then on."""
        self.rules: dict[Series, Counts] = {}
        self.of_paths: dict[Path, Counts] = {}
        self.new: dict[Series, list[Path]] = {}
        """The paths of series that no rule in service has; a request or an earlier rule may have had them."""


class Stats(Collector):
    """The counters of all rules, and of what has no rule. Yields them when Prometheus asks.

    `envoyproxy_names`: with labels, and names for unknown domains, exactly as envoyproxy/ratelimit has them.
    """

    def __init__(
        self,
        max_request_keys: int = MAX_REQUEST_KEYS,
        *,
        max_unmatched: int = MAX_SHAPES,
        envoyproxy_names: bool = False,
    ) -> None:
        self.envoyproxy_names = envoyproxy_names
        """Whether names and labels are those of envoyproxy/ratelimit."""
        self.series = by_dots if envoyproxy_names else by_level
        """Returns the labels of a metric key."""
        self.errors: dict[str, int] = {"service_error": 0, "redis_error": 0}
        """Calls refused for what they asked, and calls whose store failed."""
        self.bad_input: dict[str, int] = dict.fromkeys(BadInput, 0)
        """Requests that are refused for what they hold, or odd."""
        self.failure_answers: dict[str, int] = {"open": 0, "closed": 0, "local": 0}
        """Descriptors answered by their rule's `on_failure`."""
        self.loads = 0
        """Configurations put into service."""
        self.failed_loads = 0
        """Configurations that were refused."""
        self.requests = 0
        self.global_shadow_mode = 0
        self._of_paths: dict[Path, Counts] = {}
        # Each series is in one of these three.
        self._rules: dict[Series, Counts] = {}
        self._of_requests: dict[Series, Counts] = {}
        self._gone: dict[Series, Counts] = {}
        self._max_request_keys = max_request_keys
        self._unknown_domains: dict[str, int] = {}
        self._max_unknown_domains = max_unmatched
        self.unmatched = Unmatched(max_unmatched)
        """Descriptors without a rule, and unknown domains, for the log."""

    def counted(self, paths: Iterable[Path], yield_gil: Breathe = no_breaks) -> "CountedRules":
        """Return the counters that these rules are to have: those that they have, and new ones.

        May run in a thread: for thousands of rules it takes tens of milliseconds.
        """
        kept = CountedRules(self._rules)
        gone = kept.gone
        for path in paths:
            yield_gil()
            series = self.series(path)
            counts = kept.rules.get(series)
            if counts is None:
                if len(kept.rules) >= MAX_RULE_KEYS:
                    continue
                counts = gone.pop(series, None)
                if counts is None:
                    counts = Counts()
                    kept.new[series] = []
                kept.rules[series] = counts
            if series in kept.new:
                kept.new[series].append(path)
            kept.of_paths[path] = counts
        return kept

    def keep_rules(self, paths: Iterable[Path], counted: "CountedRules | None" = None) -> None:
        """Count for these rules from now on. Known ones go on from where they are; others are not shown.

        `counted`: what `counted` has returned for them; not used if other rules were kept since.
        """
        kept = counted if counted is not None and counted.before is self._rules else self.counted(paths)
        self._rules, self._of_paths = kept.rules, kept.of_paths
        for known in (self._of_requests, self._gone):
            for series in known.keys() & kept.new.keys():
                counts = self._rules[series] = known.pop(series)
                self._of_paths.update(dict.fromkeys(kept.new[series], counts))
        self._gone |= kept.gone
        while len(self._gone) > MAX_GONE_KEYS:
            del self._gone[next(iter(self._gone))]

    def of_rule(self, path: Path) -> Counts:
        """The counters of a rule of the configuration, or those of `(other)` when there are too many."""
        return self._of_paths.get(path) or self._shown(self.series((path[0], OTHER)))

    def of_request(self, path: Path) -> Counts:
        """The counters of a key with values of a request in it; of `(other)` when there are too many.

        Those of a rule, where the key comes to the same labels.
        """
        series = self.series(path)
        counts = self._rules.get(series) or self._of_requests.get(series)
        if counts is None:
            if len(self._of_requests) >= self._max_request_keys:
                series = self.series((path[0], OTHER))
            counts = self._shown(series)
        return counts

    def _shown(self, series: Series) -> Counts:
        """The counters of `series`, which is shown from now on."""
        counts = self._rules.get(series) or self._of_requests.get(series)
        if counts is None:
            counts = self._of_requests[series] = self._again(series)
        return counts

    def _again(self, series: Series) -> Counts:
        """The counters of a series that is not shown: a counter must not fall because its rule was away."""
        return self._gone.pop(series, None) or Counts()

    def domain_not_found(self, domain: str, descriptors: int) -> None:
        """Count the descriptors of a request for a domain that no file configures."""
        unknown = self._unknown_domains
        if domain not in unknown and len(unknown) >= self._max_unknown_domains:
            domain = OTHER
        unknown[domain] = unknown.get(domain, 0) + descriptors

    def totals(self) -> dict[str, dict[str, float]]:
        """Hits by outcome, over all rules, and what failed."""
        within = near = over = shadow = 0.0
        for counts in chain(self._rules.values(), self._of_requests.values(), self._gone.values()):
            within += counts.within_limit
            near += counts.near_limit
            over += counts.over_limit
            shadow += counts.shadow_mode
        outcomes = {"within_limit": within, "near_limit": near, "over_limit": over, "shadow_mode": shadow}
        return {"outcomes": outcomes, "errors": {**self.errors}}

    def describe(self) -> Iterator[Metric]:
        """The metrics without their values."""
        for name, text in _COUNTERS.items():
            yield Metric(f"{_PREFIX}_{name}", text, "unknown")

    def collect(self) -> Iterator[Metric]:
        """The current metrics."""
        rows = [*self._rules.items(), *self._of_requests.items()]
        labelled = [(_labels(series), counts) for series, counts in rows]
        for name, text in _COUNTERS.items():
            metric = Metric(f"{_PREFIX}_{name}", text, "unknown")
            for labels, counts in labelled:
                metric.add_sample(metric.name, labels, getattr(counts, name))
            yield metric
        yield from self._domains_not_found()
        yield from self.unmatched.collect()
        errors = "ratelimit_service_should_rate_limit_error"
        yield _metric(errors, "Calls that could not be answered as asked.", "err_type", self.errors)
        text = "Requests refused for what they hold, or answered although it is odd."
        yield _metric("ratelimit_service_bad_input", text, "reason", dict(self.bad_input))
        text = "Descriptors answered by on_failure of their rule."
        yield _metric("ratelimit_service_failure_answers", text, "on_failure", self.failure_answers)
        text = "Calls."
        yield _metric(
            "ratelimit_service_total_requests", text, "grpc_method", {"ShouldRateLimit": self.requests}
        )
        yield _single("global_shadow_mode", "Requests let pass by shadow_mode.", self.global_shadow_mode)
        yield _single("config_load_success", "Configurations put into service.", self.loads)
        yield _single("config_load_error", "Configurations that could not be loaded.", self.failed_loads)

    def _domains_not_found(self) -> Iterator[Metric]:
        text = "Descriptors of requests for a domain that is not configured."
        if not self.envoyproxy_names:
            yield _metric(f"{_PREFIX}_domain_not_found", text, "domain", self._unknown_domains)
            return
        counts: dict[str, int] = {}
        for domain, count in self._unknown_domains.items():
            name = unknown_domain_metric(domain)
            counts[name] = counts.get(name, 0) + count
        for name, count in counts.items():
            metric = Metric(name, text, "unknown")
            metric.add_sample(name, {}, count)
            yield metric


def _single(name: str, text: str, value: int) -> Metric:
    metric = Metric(f"ratelimit_service_{name}", text, "unknown")
    metric.add_sample(metric.name, {}, value)
    return metric


def _metric(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    metric = Metric(name, text, "unknown")
    for value, count in values.items():
        metric.add_sample(name, {label: value}, count)
    return metric


def _labels(series: Series) -> dict[str, str]:
    domain, key1, key2 = series
    labels = {"domain": domain}
    if key1:
        labels["key1"] = key1
    if key2:
        labels["key2"] = key2
    return labels
