"""However sidecars with leases share a limit, what passes is within the bound of docs/ratelimit.md."""

from dataclasses import replace
from random import Random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.buckets import SECOND_US
from tests.support.lease_simulation import Fate, World
from tests.support.limiter import of

SIZE: Final = 200
WINDOW_US: Final = 2 * SECOND_US
HOT = of(("hot", "1"))
COLD = of(("cold", "1"))
TOKEN_BUCKET: Final = f"""
  - {{key: hot, rate_limit: {{unit: second, requests_per_unit: {SIZE}, lease: true}}}}
  - {{key: cold, rate_limit: {{unit: second, requests_per_unit: {SIZE // 2}}}}}
"""

FATES = st.sampled_from([Fate.FAST] * 6 + list(Fate))
ASKS = st.tuples(st.just("ask"), st.integers(0, 2), st.integers(1, 3))
BOTH = st.tuples(st.just("both"), st.integers(0, 2), st.integers(1, 3))
OTHERS = st.tuples(st.sampled_from(["crash", "drain", "reload"]), st.integers(0, 2), st.just(0))
GAPS = st.one_of(st.integers(0, 5_000), st.integers(0, 100_000), st.integers(0, 3 * SECOND_US))
STEPS = st.lists(
    st.tuples(GAPS, st.one_of(ASKS, ASKS, ASKS, BOTH, OTHERS), FATES, st.integers(0, 8_000)),
    min_size=10,
    max_size=120,
)
Step = tuple[int, tuple[str, int, int], Fate, int]


def run(world: World, steps: list[Step]) -> None:
    for gap_us, (what, index, hits), fate, delay_us in steps:
        world.pass_time(gap_us)
        world.fate, world.delay_us = fate, delay_us
        if what == "ask":
            world.ask(index, HOT, hits=hits)
        elif what == "both":
            world.ask(index, HOT, COLD, hits=hits)
        else:
            getattr(world, what)(index)
    world.pass_time(SECOND_US)


def random_steps(random: Random, number: int) -> list[Step]:
    """Phases of light and heavy traffic, with an outage now and then."""
    steps: list[Step] = []
    longest_us, usual, left = 0, [Fate.FAST], 0
    for _ in range(number):
        if not left:
            left = random.randrange(20, 120)
            longest_us = random.choice([1_000, 5_000, 10_000, 20_000, 100_000])
            usual = random.choice([[Fate.FAST]] * 7 + [list(Fate), [Fate.LOST], [Fate.REFUSED]])
        left -= 1
        what = random.choices(["ask", "both", "crash", "drain", "reload"], [80, 20, 0.4, 0.4, 0.4])[0]
        step = what, random.randrange(3), random.choice([1, 1, 2])
        delay_us = random.choice([300, 300, 1_000, 3_000])
        steps.append((random.randrange(longest_us), step, random.choice(usual), delay_us))
    return steps


def hold_token_bucket(world: World) -> None:
    """In every span: at most the size, what is refilled, and what was leased out at its beginning."""
    for first in world.passed:
        hits = 0
        for one in sorted(world.passed, key=lambda passed: passed.answered_us):
            if one.asked_us >= first.asked_us:
                hits += one.hits
                refilled = SIZE * (one.answered_us - first.asked_us) / SECOND_US
                assert hits <= SIZE + refilled + first.out


def hold_window(world: World, limit: int) -> None:
    """In every window: at most its limit, leases or not."""
    counts: dict[int, int] = {}
    for one in world.passed:
        window = one.asked_us // WINDOW_US
        if one.answered_us // WINDOW_US == window:
            counts[window] = counts.get(window, 0) + one.hits
    assert all(hits <= limit for hits in counts.values())


def windows(algorithm: str) -> str:
    return f"""
  - {{key: hot, rate_limit: {{period: 2s, requests_per_unit: {SIZE}, algorithm: {algorithm}, lease: true}}}}
  - {{key: cold, rate_limit: {{unit: second, requests_per_unit: {SIZE // 2}}}}}
"""


@given(STEPS, st.floats(0.1, 5), st.floats(0.1, 1))
def test_a_token_bucket_admits_its_size_its_rate_and_what_was_leased_out(
    steps: list[Step], seconds: float, share: float
) -> None:
    world = World(TOKEN_BUCKET, lease_seconds=seconds, share=share)
    run(world, steps)
    hold_token_bucket(world)


@pytest.mark.parametrize("algorithm", ["fixed_window", "sliding_window"])
@given(steps=STEPS, seconds=st.floats(0.1, 5), share=st.floats(0.1, 1))
def test_a_window_admits_its_limit(algorithm: str, steps: list[Step], seconds: float, share: float) -> None:
    world = World(windows(algorithm), lease_seconds=seconds, share=share)
    run(world, steps)
    hold_window(world, SIZE)


@pytest.mark.parametrize("seed", range(6))
def test_a_token_bucket_under_heavy_traffic(seed: int) -> None:
    world = World(TOKEN_BUCKET, share=1.0)
    run(world, random_steps(Random(seed), 1_500))
    hold_token_bucket(world)
    leases = [sidecar.leases for sidecar in world.sidecars]
    assert any(lease.answered for lease in leases), "leases answer"


@pytest.mark.parametrize("algorithm", ["fixed_window", "sliding_window"])
@pytest.mark.parametrize("seed", range(3))
def test_a_window_under_heavy_traffic(seed: int, algorithm: str) -> None:
    world = World(windows(algorithm), share=1.0)
    run(world, random_steps(Random(seed), 1_500))
    hold_window(world, SIZE)
    assert any(sidecar.leases.answered for sidecar in world.sidecars), "leases answer"


def test_the_simulation_finds_tokens_that_are_handed_out_twice() -> None:
    """A check that cannot fail would show nothing."""
    world = World(TOKEN_BUCKET)
    for _ in range(500):
        world.ask(0, HOT)
        world.pass_time(1_000)
        for lease in world.sidecars[0].leases._leases.values():
            lease.left += 1 if lease.left else 0
    world.passed = [replace(one, out=0) for one in world.passed]
    with pytest.raises(AssertionError):
        hold_token_bucket(world)
