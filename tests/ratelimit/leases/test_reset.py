"""What becomes of a lease when its key gets its whole limit back."""

from common.buckets import MAX_HITS, SECOND_US
from ratelimit.stores.store import Mode
from ratelimit.stores.take_all import take_all
from tests.ratelimit.leases.test_leases import COLD, HOT, SLOW_BUCKET, charged, warm
from tests.support.lease_simulation import World


def give_back(world: World) -> None:
    """Reset the hot key in the store, and tell the first sidecar."""
    [take] = world.sidecars[0].limiter.plan(world.request(HOT)).takes
    take_all([take._replace(hits=-MAX_HITS, mode=Mode.SHADOW)], world.states, world.now_us)
    world.sidecars[0].limiter.forget(take.key)


def test_a_lease_ends_and_is_not_returned_once_more() -> None:
    world = warm(World(SLOW_BUCKET))
    out = world.tokens_out
    assert out > 0
    give_back(world)
    leases = world.sidecars[0].leases
    assert (len(leases), world.tokens_out, leases.lost) == (0, 0, out)
    world.ask(1, HOT, hits=20)
    world.pass_time(3 * SECOND_US)
    assert charged(world) == 20


def test_a_lease_that_is_on_its_way_is_lost() -> None:
    world = World(SLOW_BUCKET)
    world.ask(0, HOT)
    world.pass_time(10_000)
    world.delay_us = 3_000
    world.ask(0, HOT)
    give_back(world)
    world.pass_time(10_000)
    assert (len(world.sidecars[0].leases), world.tokens_out) == (0, 0)
    assert len(world.passed) == 2


def test_what_a_refused_request_puts_back_is_lost() -> None:
    world = warm(World(SLOW_BUCKET, lease_seconds=10.0))
    world.ask(1, COLD, hits=10)
    world.pass_time(10_000)
    world.delay_us = 3_000
    world.ask(0, HOT, COLD)
    give_back(world)
    world.pass_time(10_000)
    assert world.decisions[-1].over_limit
    assert world.tokens_out == 0
    world.delay_us = 0
    world.ask(1, HOT, hits=20)
    world.pass_time(3 * SECOND_US)
    assert charged(world) == 20


def test_a_key_without_a_lease_is_left_alone() -> None:
    world = World(SLOW_BUCKET)
    give_back(world)
    assert world.tokens_out == 0


def test_a_ban_that_is_lifted_elsewhere_ends_the_lease() -> None:
    world = warm(World(SLOW_BUCKET))
    limiter = world.sidecars[0].limiter
    limiter.bans.remove(limiter.plan(world.request(HOT)).takes[0].key)
    assert (len(world.sidecars[0].leases), world.tokens_out) == (0, 0)
