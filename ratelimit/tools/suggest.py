"""Limits that fit recorded calls: how often each key calls, and what candidates would have refused."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ratelimit.request import Descriptor, LimitRequest
from ratelimit.rules import UNIT_SECONDS, Unit
from ratelimit.tools.recorded import RecordedCall

PERIODS: Final = (Unit.SECOND, Unit.MINUTE, Unit.HOUR, Unit.DAY)

MAX_KEYS: Final = 200_000
"""Keys counted in one period, about 30 MB each; calls of others are left out, and counted."""

MAX_SHAPES: Final = 1_000
"""Domains with the keys of a descriptor."""

_MICROSECONDS: Final = 1_000_000

Shape = tuple[str, tuple[str, ...]]
"""A domain, and the keys of a descriptor."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A limit, and the share of hits beyond it."""

    limit: int
    refused_share: float


@dataclass(frozen=True, slots=True)
class Suggestion:
    """How many hits a key has in a period, over all periods in which it has any."""

    domain: str
    keys: tuple[str, ...]
    unit: Unit
    values: int
    """Values of the keys, such as clients, that were seen in the busiest period."""
    p50: Candidate
    p99: Candidate
    most: Candidate
    left_out: int
    """Hits of keys beyond MAX_KEYS."""


@dataclass(slots=True)
class _Period:
    """The hits of each value in the current period, and how often there were how many."""

    number: int = -1
    hits: Counter[tuple[str, ...]] = field(default_factory=Counter)
    seen: Counter[int] = field(default_factory=Counter)
    most_values: int = 0
    left_out: int = 0

    def add(self, number: int, values: tuple[str, ...], hits: int) -> None:
        if number != self.number:
            self.turn()
            self.number = number
        if values in self.hits or len(self.hits) < MAX_KEYS:
            self.hits[values] += hits
        else:
            self.left_out += hits

    def turn(self) -> None:
        self.seen.update(self.hits.values())
        self.most_values = max(self.most_values, len(self.hits))
        self.hits.clear()


def suggest(calls: Iterable[RecordedCall]) -> list[Suggestion]:
    """Return what each kind of key does in each of PERIODS. `calls` are in the order of time.

    Periods are those of fixed windows. Hits that are given back do not count.
    """
    found: dict[Shape, dict[Unit, _Period]] = {}
    for call in calls:
        seconds = call.at_us // _MICROSECONDS
        for descriptor in call.request.descriptors:
            if not descriptor.entries:
                continue
            shape = call.request.domain, tuple([key for key, _ in descriptor.entries])
            periods = found.get(shape)
            if periods is None:
                if len(found) >= MAX_SHAPES:
                    continue
                periods = found[shape] = {unit: _Period() for unit in PERIODS}
            values, hits = tuple([value for _, value in descriptor.entries]), _hits(call.request, descriptor)
            if hits > 0:
                for unit, period in periods.items():
                    period.add(seconds // UNIT_SECONDS[unit], values, hits)
    for periods in found.values():
        for period in periods.values():
            period.turn()
    return [
        _suggestion(shape, unit, period)
        for shape, periods in sorted(found.items())
        for unit, period in periods.items()
        if period.seen
    ]


def refused_share(seen: Counter[int], limit: int) -> float:
    """Return the share of hits that a fixed window of `limit` refuses; `seen` counts periods by hits."""
    total = sum(hits * times for hits, times in seen.items())
    beyond = sum((hits - limit) * times for hits, times in seen.items() if hits > limit)
    return beyond / total if total else 0.0


def percentile(seen: Counter[int], share: float) -> int:
    """Return the fewest hits such that this `share` of periods has no more; `seen` as above, not empty."""
    total, passed = seen.total(), 0
    counts: Sequence[int] = sorted(seen)
    for hits in counts:
        passed += seen[hits]
        if passed >= share * total:
            return hits
    return counts[-1]


def _suggestion(shape: Shape, unit: Unit, period: _Period) -> Suggestion:
    def candidate(share: float) -> Candidate:
        limit = percentile(period.seen, share)
        return Candidate(limit, refused_share(period.seen, limit))

    return Suggestion(
        *shape,
        unit,
        period.most_values,
        candidate(0.5),
        candidate(0.99),
        candidate(1.0),
        period.left_out,
    )


def _hits(request: LimitRequest, descriptor: Descriptor) -> int:
    if descriptor.refund:
        return 0
    return descriptor.hits if descriptor.hits is not None else request.hits_addend or 1
