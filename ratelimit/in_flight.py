"""Which requests hold slots of concurrency limits, as this process has seen them begin and end."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.buckets import SECOND_US, Slots
from ratelimit.decision import BANNED, LimitDecision
from ratelimit.metric_names import Path
from ratelimit.stats import Stats
from ratelimit.stores.store import Result

MAX_IN_FLIGHT: Final = 100_000
"""Slots, of about 0.2 KB each. Further ones are limited, and not shown in the metrics."""


class _Slot(NamedTuple):
    key: str
    """Its bucket."""
    holder: int
    in_process: bool
    """Whether it was taken from this process instead of the store, which was away."""


class _OfRule:
    __slots__ = ("healed", "held")

    def __init__(self) -> None:
        self.held: dict[_Slot, float] = {}
        """When each slot expires. In this order, as all are held for the same time."""
        self.healed = 0

    def sweep(self, now: float) -> int:
        """Forget the slots that have expired; returns how many."""
        expired = 0
        while self.held and next(iter(self.held.values())) <= now:
            del self.held[next(iter(self.held))]
            expired += 1
        self.healed += expired
        return expired


class InFlight(Collector):
    """The slots that decisions of this process took and gave back. `clock` counts seconds."""

    def __init__(self, stats: Stats, clock: Callable[[], float], most: int = MAX_IN_FLIGHT) -> None:
        self._stats = stats
        self._clock = clock
        self._most = most
        self._rules: dict[Path, _OfRule] = {}
        self._total = 0

    def noting(self, finish: Callable[[LimitDecision], Result]) -> Callable[[LimitDecision], Result]:
        """Return `finish` that first notes the slots which a decision takes or gives back."""

        def noted(decision: LimitDecision) -> Result:
            self._note(decision)
            return finish(decision)

        return noted

    def _note(self, decision: LimitDecision) -> None:
        plan = decision.plan
        away = decision.failure not in ("", BANNED)
        for charge, take in zip(plan.charges, plan.takes, strict=True):
            if not isinstance(take.bucket, Slots):
                continue
            status = decision.statuses[charge.position]
            slot = _Slot(take.key, take.bucket.holder, away)
            if charge.hits < 0:
                self._released(charge.rule.path, slot)
            elif (
                charge.hits
                and status.known
                and not (decision.over_limit or status.over_limit or status.shadowed)
            ):
                self._taken(charge.rule.path, slot, take.bucket.lease_us / SECOND_US)

    def _taken(self, path: Path, slot: _Slot, seconds: float) -> None:
        rule = self._rules.get(path)
        if rule is None:
            rule = self._rules[path] = _OfRule()
        now = self._clock()
        self._total -= rule.sweep(now)
        if self._total < self._most and slot not in rule.held:
            rule.held[slot] = now + seconds
            self._total += 1

    def _released(self, path: Path, slot: _Slot) -> None:
        rule = self._rules.get(path)
        if rule is not None and rule.held.pop(slot, None) is not None:
            self._total -= 1

    def collect(self) -> Iterator[Metric]:
        """The current metrics."""
        names = ["domain", "key1", "key2"]
        in_flight = GaugeMetricFamily(
            "ratelimit_concurrency_in_flight",
            "Requests that hold a slot of a concurrency limit, as far as this process knows.",
            labels=names,
        )
        healed = CounterMetricFamily(
            "ratelimit_concurrency_healed",
            "Slots that were not given back, and so were freed by release_after.",
            labels=names,
        )
        now = self._clock()
        by_series: dict[tuple[str, str, str], tuple[int, int]] = {}
        for path, rule in self._rules.items():
            self._total -= rule.sweep(now)
            series = self._stats.series(path)
            held, freed = by_series.get(series, (0, 0))
            by_series[series] = held + len(rule.held), freed + rule.healed
        for series, (held, freed) in by_series.items():
            in_flight.add_metric(list(series), held)
            healed.add_metric(list(series), freed)
        yield in_flight
        yield healed
