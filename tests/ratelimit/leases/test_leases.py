"""Which requests leases answer, what they ask the store for, and what becomes of their tokens."""

from math import inf
from typing import Final

import pytest

from common.buckets import SECOND_US
from ratelimit.leases.lease import FIRST_TOKENS
from ratelimit.leases.leases import ANSWER_SECONDS, RETRY_SECONDS
from ratelimit.request import Descriptor
from tests.support.lease_simulation import Fate, World
from tests.support.limiter import of

HOT: Final = of(("hot", "1"))
COLD: Final = of(("cold", "1"))
SLOW_BUCKET: Final = """
  - {key: hot, rate_limit: {unit: hour, requests_per_unit: 1000, lease: true}}
  - {key: cold, rate_limit: {unit: hour, requests_per_unit: 10}}
"""
WINDOW: Final = """
  - {key: hot, rate_limit: {period: 2s, requests_per_unit: 100, algorithm: fixed_window, lease: true}}
  - {key: cold, rate_limit: {unit: hour, requests_per_unit: 10}}
"""


def charged(world: World, kind: str = "hot") -> int:
    """The hits in use in the store: parts of a token an hour, or the count of a window."""
    [used] = [state[0] for key, state in world.states.items() if f"{kind}=" in key]
    return -(-used // (3_600 * SECOND_US)) if used > SECOND_US else used


def warm(world: World, *, index: int = 0, requests: int = 3, descriptor: Descriptor = HOT) -> World:
    """Ask so often that a lease is there, and some of it is used."""
    for _ in range(requests):
        world.ask(index, descriptor)
        world.pass_time(10_000)
    return world


class TestHotKeys:
    def test_the_second_request_brings_a_lease_and_later_ones_ask_nothing(self) -> None:
        world = warm(World(SLOW_BUCKET), requests=2)
        assert world.messages == 2
        for _ in range(FIRST_TOKENS):
            world.ask(0, HOT)
        assert (world.messages, len(world.passed)) == (2, 2 + FIRST_TOKENS)
        leases = world.sidecars[0].leases
        assert (leases.answered, leases.taken, leases.tokens_out) == (FIRST_TOKENS, FIRST_TOKENS, 0)
        assert charged(world) == 2 + FIRST_TOKENS

    def test_a_key_that_is_asked_for_too_seldom_has_none(self) -> None:
        world = World(SLOW_BUCKET)
        for _ in range(4):
            world.ask(0, HOT)
            world.pass_time(2 * SECOND_US)
        assert world.messages == 4

    def test_a_long_window_makes_leases_last(self) -> None:
        """One percent of an hour is 36 s."""
        world = World(SLOW_BUCKET, window_part=0.01)
        for _ in range(6):
            world.ask(0, HOT)
            world.pass_time(5 * SECOND_US)
        assert world.messages == 2
        world.pass_time(36 * SECOND_US)
        assert len(world.sidecars[0].leases) == 0

    def test_a_rule_without_lease_has_none(self) -> None:
        world = warm(World(SLOW_BUCKET), descriptor=COLD, requests=5)
        assert (world.messages, len(world.sidecars[0].leases)) == (5, 0)

    def test_a_lease_grows_with_the_rate_of_its_key(self) -> None:
        world = warm(World(SLOW_BUCKET, number=1), requests=200)
        assert len(world.passed) == 200
        assert world.messages < 8
        assert world.sidecars[0].leases.taken > 100

    def test_no_lease_is_larger_than_its_share_of_the_limit(self) -> None:
        world = World(SLOW_BUCKET, number=2, share=0.1, lease_seconds=60.0)
        for _ in range(300):
            world.ask(0, HOT)
            world.pass_time(1_000)
            assert world.tokens_out <= 50

    def test_no_lease_takes_more_than_a_quarter_of_what_remains(self) -> None:
        world = World(SLOW_BUCKET, number=1)
        world.ask(0, HOT, hits=980)
        world.pass_time(10_000)
        warm(world, requests=2)
        assert world.sidecars[0].leases.taken <= 5

    def test_a_limit_that_is_nearly_used_up_is_counted_exactly(self) -> None:
        world = World(SLOW_BUCKET, number=3)
        for index in range(1_300):
            world.ask(index, HOT)
            world.pass_time(3_000)
        spare = sum(sidecar.leases.tokens_out for sidecar in world.sidecars)
        assert len(world.passed) + spare >= 1_000

    def test_as_many_keys_as_the_setting_says_have_one(self) -> None:
        world = World(SLOW_BUCKET, max_keys=2)
        for value in "abc":
            warm(world, descriptor=of(("hot", value)), requests=2)
        assert len(world.sidecars[0].leases) == 2

    def test_an_answer_from_a_lease_says_what_remains(self) -> None:
        world = warm(World(SLOW_BUCKET), requests=4)
        remaining = [decision.statuses[0].remaining for decision in world.decisions]
        assert remaining == [999, 998, 997, 996]
        assert world.decisions[-1].statuses[0].reset_seconds > 0


class TestChecksAndRefunds:
    def test_a_check_asks_the_store(self) -> None:
        world = warm(World(SLOW_BUCKET))
        before = world.messages
        world.ask(0, of(("hot", "1"), hits=0))
        assert world.messages == before + 1

    def test_a_refund_goes_to_the_store(self) -> None:
        world = warm(World(SLOW_BUCKET))
        before = charged(world)
        world.ask(0, of(("hot", "1"), hits=2, refund=True))
        world.pass_time(10_000)
        assert charged(world) == before - 2


class TestReturns:
    def test_what_is_not_used_is_returned(self) -> None:
        world = warm(World(SLOW_BUCKET))
        world.pass_time(4 * SECOND_US)
        leases = world.sidecars[0].leases
        assert (len(leases), leases.tokens_out, leases.returned) == (0, 0, FIRST_TOKENS - 1)
        assert charged(world) <= len(world.passed)

    def test_a_drained_sidecar_returns_all_and_leases_no_more(self) -> None:
        world = warm(World(SLOW_BUCKET))
        sidecar = world.sidecars[0]
        sidecar.drain()
        world.pass_time(10_000)
        assert (sidecar.leases.tokens_out, charged(world)) == (0, 3)
        warm(world, requests=4)
        assert (len(sidecar.leases), charged(world)) == (0, 7)

    def test_a_crash_loses_tokens_and_admits_no_more(self) -> None:
        world = warm(World(SLOW_BUCKET))
        world.crash(0)
        assert charged(world) == 2 + FIRST_TOKENS

    def test_a_return_without_an_answer_is_lost(self) -> None:
        world = warm(World(SLOW_BUCKET))
        world.fate = Fate.LOST
        world.pass_time(4 * SECOND_US)
        leases = world.sidecars[0].leases
        assert (leases.tokens_out, leases.lost, leases.returned) == (0, FIRST_TOKENS - 1, 0)

    def test_a_reload_returns_all(self) -> None:
        world = warm(World(SLOW_BUCKET))
        world.reload(0)
        world.pass_time(2 * SECOND_US)
        assert charged(world) == 3

    def test_a_lease_that_is_larger_than_its_key_needs_returns_the_rest(self) -> None:
        world = warm(World(SLOW_BUCKET, number=1), requests=200)
        out = world.tokens_out
        for _ in range(3):
            world.ask(0, HOT)
            world.pass_time(700_000)
        assert world.tokens_out < out
        assert world.sidecars[0].leases.returned > 0

    def test_what_was_returned_without_an_answer_is_not_handed_out(self) -> None:
        world = warm(World(SLOW_BUCKET, number=1), requests=205)
        [lease] = world.sidecars[0].leases._leases.values()
        lease._had, lease.renew_at = lease.left, -inf  # none was used of late
        left, world.fate = lease.left, Fate.ANSWER_LOST
        world.ask(0, HOT)
        world.pass_time(20_000)
        leases = world.sidecars[0].leases
        assert leases.tokens_out == FIRST_TOKENS - 1
        assert leases.lost == left - FIRST_TOKENS


class TestWindows:
    @pytest.mark.parametrize("algorithm", ["fixed_window", "sliding_window"])
    def test_tokens_end_with_their_window(self, algorithm: str) -> None:
        world = warm(World(WINDOW.replace("fixed_window", algorithm), lease_seconds=10.0))
        out = world.tokens_out
        world.pass_time(2 * SECOND_US - world.now_us % (2 * SECOND_US))
        before = world.messages
        world.ask(0, HOT)
        assert world.messages == before + 1
        assert world.sidecars[0].leases.lost == out

    def test_a_new_window_admits_its_limit(self) -> None:
        world = warm(World(WINDOW))
        world.pass_time(2 * SECOND_US - world.now_us % (2 * SECOND_US) + 1)
        begin = len(world.passed)
        world.ask(1, HOT, hits=100)
        world.pass_time(10_000)
        world.ask(0, HOT)
        world.pass_time(10_000)
        assert len(world.passed) == begin + 1

    def test_tokens_charged_in_the_next_window_are_not_added_to_those_of_the_last(self) -> None:
        """The request is asked before the end of the window, and counted after it."""
        world = warm(World(WINDOW))
        world.pass_time(2 * SECOND_US - world.now_us % (2 * SECOND_US) - 2_000)
        world.delay_us = 3_000
        world.ask(0, HOT, hits=FIRST_TOKENS + 1)  # more than the lease has
        world.pass_time(20_000)
        leases = world.sidecars[0].leases
        assert leases.lost == FIRST_TOKENS - 1
        assert charged(world) == FIRST_TOKENS + 1 + leases.tokens_out

    def test_nothing_is_returned_so_late_that_it_could_reach_the_next_window(self) -> None:
        world = World(WINDOW, lease_seconds=0.9)
        world.pass_time(2 * SECOND_US - world.now_us % (2 * SECOND_US) + 1)
        warm(world)
        world.pass_time(10 * SECOND_US)
        leases = world.sidecars[0].leases
        assert (leases.returned, leases.lost) == (0, FIRST_TOKENS - 1)


class TestPartlyLeased:
    """A request of two descriptors: a lease covers one."""

    def both(self, world: World, hits: int = 1) -> None:
        world.ask(0, HOT, COLD, hits=hits)
        world.pass_time(10_000)

    def test_the_store_is_asked_about_the_other_alone(self) -> None:
        world = warm(World(SLOW_BUCKET))
        before = charged(world)
        self.both(world)
        assert (charged(world), charged(world, "cold")) == (before, 1)
        assert world.tokens_out == FIRST_TOKENS - 2

    def test_a_refusal_puts_back_what_the_lease_gave(self) -> None:
        world = warm(World(SLOW_BUCKET))
        world.ask(1, COLD, hits=10)
        world.pass_time(10_000)
        out = world.tokens_out
        self.both(world)
        decision = world.decisions[-1]
        assert decision.over_limit
        assert [status.over_limit for status in decision.statuses] == [False, True]
        assert world.tokens_out == out

    def test_a_refusal_charges_what_counts_refused_hits(self) -> None:
        world = warm(World(WINDOW))
        world.ask(1, COLD, hits=10)
        world.pass_time(10_000)
        out = world.tokens_out
        self.both(world)
        assert world.decisions[-1].over_limit
        assert world.tokens_out == out - 1

    def test_a_refusal_in_the_next_window_puts_nothing_back(self) -> None:
        world = warm(World(WINDOW.replace("fixed_window", "sliding_window")))
        world.ask(1, COLD, hits=10)
        world.pass_time(2 * SECOND_US - world.now_us % (2 * SECOND_US) - 2_000)
        world.delay_us = 3_000
        out = world.tokens_out
        self.both(world)
        assert world.decisions[-1].over_limit
        assert world.tokens_out == out - 1

    def test_a_refused_request_brings_no_lease(self) -> None:
        world = World(SLOW_BUCKET)
        world.ask(0, HOT)
        world.ask(1, COLD, hits=10)
        world.pass_time(10_000)
        self.both(world)
        assert world.decisions[-1].over_limit
        assert (world.tokens_out, charged(world)) == (0, 1)

    def test_without_an_answer_nothing_is_taken_from_the_lease(self) -> None:
        world = warm(World(SLOW_BUCKET))
        out = world.tokens_out
        world.fate = Fate.LOST
        self.both(world)
        assert world.decisions[-1].over_limit  # on_failure: closed
        assert world.tokens_out == out

    def test_a_quota_that_a_lease_covers_lets_the_other_quota_pass(self) -> None:
        world = World("""
          - {key: hot, quota_mode: true, rate_limit: {unit: hour, requests_per_unit: 1000, lease: true}}
          - {key: cold, quota_mode: true, rate_limit: {unit: hour, requests_per_unit: 10}}
        """)
        warm(world)
        world.ask(1, COLD, hits=10)
        world.pass_time(10_000)
        out = world.tokens_out
        self.both(world)
        assert not world.decisions[-1].over_limit
        assert world.tokens_out == out - 1

    def test_a_request_whose_answer_never_comes_keeps_what_it_took(self) -> None:
        world = warm(World(SLOW_BUCKET, lease_seconds=10.0))
        sidecar, out = world.sidecars[0], world.tokens_out
        plan = sidecar.limiter.plan(world.request(HOT, COLD))
        store_request = sidecar.leases.store_request(plan.takes, plan.charges)
        assert store_request is not None
        assert world.tokens_out == out
        world.pass_time(int((ANSWER_SECONDS + 1.5) * SECOND_US))
        assert world.tokens_out == out - 1


class TestOutage:
    def test_a_lease_answers_while_the_store_is_away(self) -> None:
        world = warm(World(SLOW_BUCKET))
        world.fate = Fate.REFUSED
        for _ in range(FIRST_TOKENS - 1):
            world.ask(0, HOT)
        assert len(world.passed) == 2 + FIRST_TOKENS
        world.ask(0, HOT)
        assert world.decisions[-1].over_limit

    def test_a_renewal_without_an_answer_leaves_what_there_is(self) -> None:
        world = warm(World(SLOW_BUCKET))
        world.pass_time(990_000)  # it is to be renewed, and not returned yet
        world.fate = Fate.REFUSED
        for _ in range(FIRST_TOKENS - 1):
            world.ask(0, HOT)
        assert len(world.passed) == 2 + FIRST_TOKENS

    def test_a_lease_that_may_have_been_charged_is_lost_and_asked_for_again_later(self) -> None:
        world = World(SLOW_BUCKET)
        world.ask(0, HOT)
        world.pass_time(10_000)
        world.fate = Fate.ANSWER_LOST
        world.ask(0, HOT)
        world.pass_time(20_000)
        world.fate = Fate.FAST
        leases = world.sidecars[0].leases
        assert (leases.lost, leases.tokens_out) == (FIRST_TOKENS, 0)
        warm(world, requests=5)
        assert leases.taken == 0
        world.pass_time(SECOND_US)
        warm(world, requests=5)
        assert leases.taken == FIRST_TOKENS


class TestRefusals:
    def test_a_lease_that_does_not_fit_is_none(self) -> None:
        world = World(SLOW_BUCKET)
        world.ask(0, HOT)
        world.ask(1, HOT, hits=995)
        world.pass_time(10_000)
        world.ask(0, HOT)
        world.pass_time(10_000)
        assert (world.tokens_out, charged(world)) == (0, 997)

    def test_a_limit_without_room_for_a_lease_is_tried_again_later(self) -> None:
        world = World(SLOW_BUCKET, number=1)
        world.ask(0, HOT, hits=995)
        world.pass_time(10_000)
        warm(world, requests=7)
        assert len(world.passed) == 6
        assert world.sidecars[0].leases.taken == 0

    def test_a_refusal_is_remembered_until_others_may_have_returned_tokens(self) -> None:
        world = World(WINDOW.replace("2s", "1h"), lease_seconds=1.0)
        world.ask(0, HOT, hits=100)
        world.pass_time(10_000)
        world.ask(0, HOT)
        world.pass_time(10_000)
        before = world.messages
        world.ask(0, HOT)
        assert (world.messages, world.sidecars[0].deny_cache.hits) == (before, 1)
        world.pass_time(SECOND_US)
        world.ask(0, HOT)
        assert world.messages == before + 1

    def test_two_limits_of_one_key_are_not_mixed(self) -> None:
        world = warm(World(SLOW_BUCKET))
        lease = next(iter(world.sidecars[0].leases._leases.values()))
        assert not lease.serves(world.limits.rules[1].bucket)  # type: ignore[arg-type]
        plan = world.sidecars[0].limiter.plan(world.request(HOT))
        [take] = plan.takes
        other = take._replace(bucket=world.limits.rules[1].bucket)  # type: ignore[arg-type]
        assert world.sidecars[0].leases.take([other]) is None
        assert world.sidecars[0].leases.take([take]) is not None


@pytest.mark.parametrize("algorithm", ["token_bucket", "sliding_window"])
def test_a_rule_whose_refused_hits_are_owed_can_have_no_lease(algorithm: str) -> None:
    rule = f"{{unit: hour, requests_per_unit: 9, algorithm: {algorithm}, charge_rejected: true, lease: true}}"
    with pytest.raises(Exception, match=f"lease excludes charge_rejected: true of a {algorithm}"):
        World(f"  - {{key: hot, rate_limit: {rule}}}")


def test_retries_are_rarer_than_requests() -> None:
    assert 0 < RETRY_SECONDS < 1
