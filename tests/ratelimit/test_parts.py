"""A request whose buckets are kept in several places: check, charge, give back."""

from collections.abc import Awaitable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.buckets import MAX_WINDOW_US, SECOND_US, FixedWindow, Taken, TokenBucket
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.parts import Part, PartedTakes
from ratelimit.stores.store import NOT_TAKEN, Failure, Mode, StoreError, Take
from ratelimit.stores.take_all import is_refused
from tests.support.limiter import AwayStore

NOW = 1_790_000_040 * SECOND_US
SLOW = TokenBucket(5, 5, MAX_WINDOW_US)
WINDOW = FixedWindow(5, MAX_WINDOW_US)


class Places:
    """Two stores, each asked for one of two buckets; `race` is taken before a charge, by another request."""

    def __init__(self) -> None:
        self.stores = [MemoryStore(lambda: NOW), MemoryStore(lambda: NOW)]
        self.calls: list[list[tuple[str, int]]] = []
        self.parted = PartedTakes(5.0)
        self.race: Take | None = None

    def _asks(self, index: int) -> Part:
        def ask(takes: Sequence[Take], _: float | None) -> list[Taken] | Awaitable[list[Taken]]:
            self.calls.append([(take.key, take.hits) for take in takes])
            if self.race is not None and any(take.hits for take in takes):
                race, self.race = self.race, None
                self.stores[int(race.key)].take([race])
            return self.stores[index].take(takes)

        return Part(ask, [index])

    async def take(self, *takes: Take) -> list[Taken]:
        found = await self.parted.take(takes, [self._asks(0), self._asks(1)], None)
        await self.parted.close()
        return found

    def left(self) -> list[int]:
        buckets = [("0", SLOW), ("1", SLOW)]
        return [
            store.peek(key, bucket, 0, NOW).remaining
            for store, (key, bucket) in zip(self.stores, buckets, strict=True)
        ]


async def test_it_checks_before_it_charges() -> None:
    places = Places()
    assert [taken.remaining for taken in await places.take(Take("0", SLOW, 2), Take("1", SLOW, 3))] == [3, 2]
    assert places.calls == [[("0", 0)], [("1", 0)], [("0", 2)], [("1", 3)]]


async def test_a_request_that_is_over_one_limit_never_charges_the_other() -> None:
    places = Places()
    places.stores[1].take([Take("1", SLOW, 4)])
    taken = await places.take(Take("0", SLOW, 2), Take("1", SLOW, 3))
    assert [(one.allowed, one.remaining) for one in taken] == [(True, 5), (False, 1)]
    assert places.calls[2:] == [[("1", 3)]]
    assert taken[1].retry_after_us > 0
    assert places.left() == [5, 1]


async def test_what_races_with_another_request_is_given_back() -> None:
    places = Places()
    places.race = Take("1", SLOW, 4)
    taken = await places.take(Take("0", SLOW, 2), Take("1", SLOW, 3))
    assert [(one.allowed, one.remaining) for one in taken] == [(True, 5), (False, 1)]
    assert places.left() == [5, 1]


async def test_windows_that_count_refused_hits_need_no_check() -> None:
    """Under --compat a request costs one round trip, as before."""
    places = Places()
    await places.take(Take("0", WINDOW, 2), Take("1", WINDOW, 3))
    assert places.calls == [[("0", 2)], [("1", 3)]]


async def test_a_refused_request_charges_what_always_charges() -> None:
    places = Places()
    places.stores[0].take([Take("0", SLOW, 5)])
    taken = await places.take(Take("0", SLOW, 1), Take("1", WINDOW, 2))
    assert [(one.allowed, one.remaining) for one in taken] == [(False, 0), (True, 3)]
    assert places.stores[1].take([Take("1", WINDOW, 0)])[0].remaining == 3


async def test_a_place_without_an_answer_charges_nothing_elsewhere() -> None:
    memory = MemoryStore(lambda: NOW)
    parts = [Part(memory.take, [0]), Part(AwayStore(waits=True).take, [1])]
    with pytest.raises(StoreError):
        await PartedTakes(5.0).take([Take("0", SLOW, 1), Take("1", SLOW, 1)], parts, None)
    assert len(memory) == 0


@pytest.mark.parametrize("bucket", [SLOW, WINDOW], ids=["token_bucket", "fixed_window"])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_definite_refusal_wins_over_a_place_without_an_answer(
    bucket: TokenBucket | FixedWindow, waits: bool
) -> None:
    memory = MemoryStore(lambda: NOW)
    memory.take([Take("0", bucket, 5)])
    parts = [Part(memory.take, [0]), Part(AwayStore(waits=waits).take, [1])]
    takes = [Take("0", bucket, 1), Take("1", bucket, 1)]
    over, unknown = await PartedTakes(5.0).take(takes, parts, None)
    assert not over.allowed
    assert over.retry_after_us > 0
    assert unknown is NOT_TAKEN
    with pytest.raises(StoreError):  # a limit in shadow mode refuses nothing
        await PartedTakes(5.0).take([takes[0]._replace(mode=Mode.SHADOW), takes[1]], parts, None)


async def test_the_charge_has_only_the_time_that_the_check_left() -> None:
    times = iter([0.0, 6.0])
    memory = MemoryStore(lambda: NOW)
    parted = PartedTakes(5.0, lambda: next(times))
    parts = [Part(memory.take, [0]), Part(memory.take, [1])]
    with pytest.raises(StoreError) as caught:
        await parted.take([Take("0", SLOW, 1), Take("1", SLOW, 1)], parts, None)
    assert caught.value.failure is Failure.NO_TIME
    assert len(memory) == 0


takes_of = st.tuples(
    st.sampled_from([SLOW, WINDOW, TokenBucket(5, 5, MAX_WINDOW_US, charge_rejected=True)]),
    st.integers(-2, 6),
    st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, *Mode]),
    st.booleans(),
)


@settings(max_examples=200)
@given(st.lists(st.lists(takes_of, min_size=2, max_size=4), min_size=1, max_size=8))
async def test_one_after_the_other_it_decides_as_one_place_does(
    requests: list[list[tuple[TokenBucket | FixedWindow, int, Mode, bool]]],
) -> None:
    """Without races: the same answers, and the same state."""
    one, several = MemoryStore(lambda: NOW), [MemoryStore(lambda: NOW) for _ in range(4)]
    parted = PartedTakes(5.0)
    for request in requests:
        takes = [
            Take(f"{index}{type(bucket).__name__}{bucket.charge_rejected}", bucket, hits, mode, spare)
            for index, (bucket, hits, mode, spare) in enumerate(request)
        ]
        parts = [Part(several[index].take, [index]) for index in range(len(takes))]
        expected = one.take(takes)
        found = await parted.take(takes, parts, None)
        await parted.close()
        assert [taken.allowed for taken in found] == [taken.allowed for taken in expected]
        assert [taken.remaining for taken in found] == [taken.remaining for taken in expected]
        if is_refused(zip(takes, expected, strict=True)):
            refusals = [
                (a.retry_after_us, b.retry_after_us)
                for a, b in zip(found, expected, strict=True)
                if not a.allowed
            ]
            assert all(ours == theirs for ours, theirs in refusals)
        for index, take in enumerate(takes):
            check = take._replace(hits=0, mode=Mode.SHADOW)
            assert several[index].take([check])[0].remaining == one.take([check])[0].remaining
