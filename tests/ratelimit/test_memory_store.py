"""The memory store takes several buckets at once as `take_all` does."""

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from common.buckets import SECOND_US, CalendarWindow, FixedWindow, SlidingWindow, State, TokenBucket
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.store import Mode, Take
from ratelimit.stores.take_all import take_all

MINUTE_US: Final = 60 * SECOND_US
BUCKETS: Final = (
    TokenBucket(5, 5, MINUTE_US),
    TokenBucket(3, 1, SECOND_US, charge_rejected=True),
    FixedWindow(4, MINUTE_US),
    SlidingWindow(4, MINUTE_US),
    CalendarWindow(4, 1),
)
numbers = st.integers(0, len(BUCKETS) - 1)
parts = st.tuples(numbers, st.integers(-2, 4), st.sampled_from(Mode), st.booleans())
asked = st.lists(st.tuples(st.integers(0, MINUTE_US), st.lists(parts, min_size=1, max_size=4)), max_size=12)


class TestMemoryStore:
    @given(asked)
    def test_takes_as_take_all_does_also_several_times_from_one_bucket(
        self, steps: list[tuple[int, list[tuple[int, int, Mode, bool]]]]
    ) -> None:
        now_us = 1_790_000_000 * SECOND_US
        store = MemoryStore(lambda: now_us)
        states: dict[str, State] = {}
        for passed_us, request in steps:
            now_us += passed_us
            takes = [
                Take(str(number), BUCKETS[number], hits, mode, spare) for number, hits, mode, spare in request
            ]
            assert store.take(takes) == take_all(takes, states, now_us)

    def test_a_request_with_more_buckets_than_there_is_room_for_keeps_the_store_bounded(self) -> None:
        now_us = 1_790_000_000 * SECOND_US
        store = MemoryStore(lambda: now_us, max_buckets=2)
        for number in range(20):
            # The first bucket is there already, and makes room for the others.
            names = [str(number), f"{number}a", f"{number}b"]
            store.take([Take(names[0], BUCKETS[0], 1)])
            store.take([Take(name, BUCKETS[0], 1) for name in names])
            assert len(store) <= 2
