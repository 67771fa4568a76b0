"""A simulated day: what is released when, when the server is out, and the result of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from random import Random
from typing import Final

from bench.tools.fleet import Behaviour, Fleet, Outage
from bench.tools.pipeline import CHECK_SECONDS, Pipeline, Step

HOUR: Final = 3600.0
ERRS: Final = Behaviour(error_share=0.05)
"""Errors are not seen in the shadow, which counts them as unknown: only canaries show them."""
DENIES: Final = Behaviour(changed_share=0.1)


@dataclass(frozen=True, slots=True)
class Day:
    """What happens on a day, in seconds since its start."""

    nodes: int = 5000
    seconds: float = 24 * HOUR
    releases: tuple[tuple[float, Behaviour], ...] = (
        (1 * HOUR, Behaviour()),
        (4 * HOUR, Behaviour()),
        (7 * HOUR, ERRS),
        (9 * HOUR, Behaviour()),
        (15 * HOUR, DENIES),
        (17 * HOUR, Behaviour()),
        (20 * HOUR, Behaviour()),
    )
    outage: Outage = field(default_factory=lambda: Outage(13 * HOUR, 13 * HOUR + 300))
    short_outage: Outage = field(default_factory=lambda: Outage(22 * HOUR, 22 * HOUR + 20))
    """Shorter than the interval: edges are still at their first, fast retries when it ends."""
    seed: int = 18


@dataclass(frozen=True, slots=True)
class Lived:
    """A day that was simulated."""

    day: Day
    fleet: Fleet
    steps: Sequence[Step]

    def bad_release(self) -> tuple[Step, Step, Step, Step]:
        """Return the start, the first wave, the hold and the rollback of the release that errs."""
        hold = next(step for step in self.steps if step.action == "hold" and step.active)
        own = [step for step in self.steps if step.revision == hold.revision]
        start, canary, held, back = own
        return start, canary, held, back

    def changed_to(self, revision: str) -> int:
        """Return how many edges began to serve it."""
        return len({change.node for change in self.fleet.changes if change.revision == revision})


def live(day: Day) -> Lived:
    """Simulate a day."""
    pipeline = Pipeline(day.releases)
    fleet = Fleet(day.nodes, pipeline.release, Random(day.seed).random, (day.outage, day.short_outage))
    now = 0.0
    while now < day.seconds:
        at = now
        pipeline.check(at, lambda behaviours: fleet.reports(at, behaviours))  # noqa: B023 - called at once
        now = min(now + CHECK_SECONDS, day.seconds)
        fleet.advance(now, pipeline.release)
    return Lived(day, fleet, pipeline.steps)


def delays(lived: Lived) -> Iterator[tuple[Step, list[float]]]:
    """Yield each step, and after how many seconds each edge that it changes had changed, in rising order."""
    ends = [*(step.at for step in lived.steps[1:]), lived.day.seconds]
    times = [change.at for change in lived.fleet.changes]
    for step, end in zip(lived.steps, ends, strict=True):
        yield step, sorted(at - step.at for at in times if step.at <= at < end)


def at_share(delays: Sequence[float], share: float) -> float:
    """Return after how many seconds that share of the edges had changed."""
    return delays[ceil(share * len(delays)) - 1]
