"""However Envoys ask, come, go and report, what they admit is within the bound of docs/quota.md."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.quota.quotas import SWEEP_SECONDS, Quotas, Report, Usage
from ratelimit.stats import Stats
from tests.support.quota_simulation import (
    BOUNDS,
    BUCKET,
    DOMAIN,
    MOST_DELAY_TICKS,
    REPORT_TICKS,
    TICK_SECONDS,
    Clock,
    Conformance,
    SimulatedEnvoy,
    login_limit,
    refresh,
    serve_waiting,
)

LIMITS = [(20.0, 20), (20.0, 5), (2.0, 60), (200.0, 10), (0.5, 4)]
"""Requests a second, and the burst."""


@dataclass
class World:
    """One sidecar, and the Envoys that ask it."""

    per_second: float
    burst: int
    clock: Clock = field(default_factory=Clock)
    envoys: list[SimulatedEnvoy] = field(default_factory=list)
    conformance: Conformance = field(default_factory=Conformance)

    def __post_init__(self) -> None:
        self.quotas = Quotas(login_limit(self.per_second, self.burst), self.clock, BOUNDS, stats=Stats())

    def join(self, phase: int, delay: int, demand: float) -> SimulatedEnvoy:
        envoy = SimulatedEnvoy(self.clock, phase % REPORT_TICKS, delay % (MOST_DELAY_TICKS + 1), demand)
        envoy.connect(self.quotas)
        self.envoys.append(envoy)
        return envoy

    def run(self, seconds: float) -> int:
        """Let time pass. Returns how many requests were admitted."""
        total = 0
        for _ in range(round(seconds / TICK_SECONDS)):
            self.clock.ticks += 1
            if self.clock.ticks % 20 == 0:
                serve_waiting(self.quotas)
            admitted = sum([envoy.step(self.quotas) for envoy in self.envoys])
            self.conformance.admitted(admitted, self.per_second, self.burst)
            self.check_ledgers()
            total += admitted
        return total

    def check_ledgers(self) -> None:
        """What is assigned, and what may be assigned at once, are together no more than the limit."""
        now = self.clock()
        for ledger in self.quotas.ledgers.values():
            assert ledger.rate_at(now) <= self.per_second + 1e-9
            assert ledger.spare + ledger.burst_at(now) <= self.burst + 1e-9

    def reload(self, per_second: float, burst: int) -> None:
        self.per_second, self.burst = per_second, burst
        refresh(self.quotas, login_limit(per_second, burst))


def random_life(world: World, random: Random, steps: int) -> None:
    """Envoys whose demand changes, that lose their stream, vanish or lie."""
    for _ in range(steps):
        what = random.choice(["join", "demand", "demand", "demand", "lose", "reconnect", "vanish", "lie"])
        present = [envoy for envoy in world.envoys if envoy.subscriber is not None]
        if what == "join" and len(world.envoys) < 8:
            demand = random.choice([0, 0.2, 1, 3, 10]) * world.per_second
            world.join(random.randrange(REPORT_TICKS), random.randrange(MOST_DELAY_TICKS + 1), demand)
        elif what == "demand" and world.envoys:
            random.choice(world.envoys).demand = random.choice([0, 0.1, 0.5, 1, 5]) * world.per_second
        elif what == "lose" and present:
            random.choice(present).disconnect(world.quotas)
        elif what == "reconnect":
            for envoy in world.envoys:
                if envoy.subscriber is None:
                    envoy.connect(world.quotas)
        elif what == "vanish" and present:
            envoy = random.choice(present)
            envoy.disconnect(world.quotas)
            world.envoys.remove(envoy)
        elif what == "lie" and present:
            subscriber = random.choice(present).subscriber
            assert subscriber is not None
            usage = Usage(BUCKET, random.choice([0, 2**64 - 1]), random.choice([0, 2**64 - 1]))
            world.quotas.report(subscriber, Report(DOMAIN, [usage]))
        world.run(random.choice([0.05, 0.5, 3, 5, 12, 30]))


@pytest.mark.parametrize("limit", LIMITS, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_what_is_admitted_stays_within_the_limit(limit: tuple[float, int], seed: int) -> None:
    world = World(*limit)
    random_life(world, Random(seed), 50)
    assert sum(envoy.admitted for envoy in world.envoys) > 0


@given(st.randoms(use_true_random=False), st.sampled_from(LIMITS))
def test_what_is_admitted_stays_within_the_limit_in_any_life(
    random: Random, limit: tuple[float, int]
) -> None:
    random_life(World(*limit), random, 8)


def test_envoys_that_follow_each_other_do_not_each_get_a_burst() -> None:
    """The first one is idle for long, so its bucket and what is spare are both as full as they can be."""
    world = World(20, 600)
    envoy = world.join(0, 3, 0.1)
    world.run(400)
    for _ in range(5):
        envoy.demand = 600
        world.run(5)
        envoy.disconnect(world.quotas)
        world.run(BOUNDS.seconds + 2)
        world.envoys.remove(envoy)
        envoy = world.join(0, 3, 600)


def test_envoys_that_are_busy_in_turn_do_not_each_get_a_burst() -> None:
    world = World(20, 600)
    first, second = world.join(0, 3, 0.1), world.join(50, 3, 0.1)
    for _ in range(10):
        first.demand, second.demand = 60, 0.1
        world.run(90)
        first, second = second, first


def life_with_reloads(random: Random) -> Iterator[World]:
    """Yield after each piece of a life; after a reload only once no former assignment is in force."""
    world = World(*random.choice(LIMITS))
    for _ in range(5):
        random_life(world, random, 5)
        yield world
        per_second, burst = random.choice(LIMITS)
        # Until former assignments have expired, those of Envoys that are away may still be used.
        former, world.conformance = (world.per_second, world.burst), Conformance()
        world.reload(per_second, burst)
        world.per_second, world.burst = max(per_second, former[0]), burst + former[1]
        world.run(BOUNDS.seconds + 2)
        world.per_second, world.burst, world.conformance = per_second, burst, Conformance()


@pytest.mark.parametrize("seed", range(3))
def test_a_changed_limit_holds_once_former_assignments_have_expired(seed: int) -> None:
    assert len(list(life_with_reloads(Random(seed)))) == 5


def test_a_busy_envoy_has_nearly_the_whole_limit_while_others_are_idle() -> None:
    world = World(20, 20)
    busy, *idle = [world.join(phase, 3, 0) for phase in (0, 30, 60, 90)]
    busy.demand = 60
    for envoy in idle:
        envoy.demand = 0.2
    world.run(60)
    before = busy.admitted
    world.run(60)
    assert busy.admitted - before >= 0.85 * 20 * 60
    assert min(envoy.admitted for envoy in idle) > 0


def test_busy_envoys_get_equal_parts_and_a_small_one_what_it_needs() -> None:
    world = World(20, 20)
    small, *busy = [world.join(phase, 3, demand) for phase, demand in ((0, 2), (30, 60), (60, 40))]
    world.run(60)
    before = [envoy.admitted for envoy in busy]
    served = small.admitted
    world.run(60)
    parts = [envoy.admitted - old for envoy, old in zip(busy, before, strict=True)]
    assert max(parts) <= 1.3 * min(parts)
    assert sum(parts) >= 0.8 * 18 * 60
    assert small.admitted - served >= 0.8 * 2 * 60


def test_the_part_of_an_envoy_that_went_away_returns_when_it_has_expired() -> None:
    world = World(20, 20)
    first, second = world.join(0, 3, 60), world.join(50, 3, 60)
    world.run(60)
    first.disconnect(world.quotas)
    world.envoys.remove(first)
    world.run(BOUNDS.seconds + 10)
    before = second.admitted
    world.run(30)
    assert second.admitted - before >= 0.85 * 20 * 30


def test_a_sidecar_that_restarts_adds_one_burst_and_what_was_assigned() -> None:
    world = World(20, 20)
    for phase in (0, 30, 60):
        world.join(phase, 3, 60)
    world.run(40)
    world.quotas = Quotas(login_limit(20, 20), world.clock, BOUNDS, stats=Stats())
    for envoy in world.envoys:
        envoy.disconnect(None)
    admitted = 0
    for envoy in world.envoys:
        envoy.connect(world.quotas)
    world.per_second, world.burst = 40, 40
    admitted = world.run(BOUNDS.seconds + 2)
    assert admitted > 0
    world.per_second, world.burst, world.conformance = 20, 20, Conformance()
    world.run(60)


def test_ledgers_that_no_envoy_needs_are_forgotten() -> None:
    world = World(20, 20)
    envoy = world.join(0, 3, 60)
    world.run(10)
    assert len(world.quotas.ledgers) == 1
    envoy.demand = 0
    world.run(BOUNDS.idle_seconds + 20)
    assert (world.quotas.buckets, envoy.strategy) == (0, None)
    other = world.join(10, 3, 0)
    assert other.subscriber is not None
    for _ in range(2):
        world.quotas.report(other.subscriber, Report(DOMAIN, []))
        world.run(SWEEP_SECONDS + 1)
    assert len(world.quotas.ledgers) == 0
