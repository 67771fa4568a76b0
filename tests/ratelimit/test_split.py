"""Short windows in a store of their own: what goes where, and what becomes of a failure."""

import pytest

from common.buckets import SECOND_US, FixedWindow, TokenBucket
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.split import SplitStore
from ratelimit.stores.store import Mode, Store, StoreError, Take
from tests.support.limiter import AwayStore, LaterStore

PATIENCE_SECONDS = 30.0
"""More than a busy machine needs; by default a store has the milliseconds of a request."""
NOW = 1_790_000_040 * SECOND_US
SHORT = Take("short", FixedWindow(5, SECOND_US), 1)
HALF_A_MINUTE = Take("half", TokenBucket(5, 5, 30 * SECOND_US), 1)
LONG = Take("long", FixedWindow(5, 60 * SECOND_US), 1)


@pytest.fixture
def stores() -> tuple[MemoryStore, MemoryStore]:
    return MemoryStore(lambda: NOW), MemoryStore(lambda: NOW)


async def test_each_window_goes_to_its_store_and_the_order_is_kept(
    stores: tuple[MemoryStore, MemoryStore],
) -> None:
    both = SplitStore(*stores, PATIENCE_SECONDS)
    answer = both.take([SHORT, LONG, HALF_A_MINUTE, LONG])
    assert not isinstance(answer, list)
    assert [taken.remaining for taken in await answer] == [4, 4, 4, 3]
    assert [len(store) for store in stores] == [1, 2]


@pytest.mark.parametrize(("take", "index"), [(LONG, 0), (SHORT, 1)])
def test_a_request_of_one_kind_asks_one_store_and_at_once(
    stores: tuple[MemoryStore, MemoryStore], take: Take, index: int
) -> None:
    assert isinstance(SplitStore(*stores, PATIENCE_SECONDS).take([take, take]), list)
    assert [len(store) for store in stores] == [int(index == 0), int(index == 1)]


@pytest.mark.parametrize("waits", [False, True])
async def test_without_one_of_them_there_is_no_answer(waits: bool) -> None:
    """After the other has answered, so that no call goes on without its caller."""
    memory = MemoryStore(lambda: NOW)
    pairs: list[tuple[Store, Store]] = [
        (LaterStore(memory), AwayStore(waits=waits)),
        (AwayStore(waits=waits), LaterStore(memory)),
    ]
    for charged, pair in enumerate(pairs, 1):
        answer = SplitStore(*pair, PATIENCE_SECONDS).take([SHORT, LONG])
        assert not isinstance(answer, list)
        with pytest.raises(StoreError):
            await answer
        assert len(memory) == charged


SHORT_BUCKET = TokenBucket(5, 5, SECOND_US)
LONG_BUCKET = TokenBucket(5, 5, 3_600 * SECOND_US)


@pytest.mark.parametrize("full", ["short", "long"])
async def test_a_request_that_one_store_refuses_is_given_back_in_the_other(
    stores: tuple[MemoryStore, MemoryStore], full: str
) -> None:
    both = SplitStore(*stores, PATIENCE_SECONDS)
    takes = [Take("short", SHORT_BUCKET, 2), Take("long", LONG_BUCKET, 2)]
    stores[full == "short"].take([Take(full, SHORT_BUCKET if full == "short" else LONG_BUCKET, 4)])
    answer = both.take(takes)
    assert not isinstance(answer, list)
    taken = {take.key: outcome for take, outcome in zip(takes, await answer, strict=True)}
    [other] = taken.keys() - {full}
    assert (taken[full].allowed, taken[full].remaining) == (False, 1)
    assert (taken[other].allowed, taken[other].remaining) == (True, 5)
    checks = [take._replace(hits=0) for take in takes]
    left = both.take(checks)
    assert not isinstance(left, list)
    assert {take.key: one.remaining for take, one in zip(checks, await left, strict=True)} == {
        full: 1,
        other: 5,
    }


async def test_fixed_windows_are_not_given_back(stores: tuple[MemoryStore, MemoryStore]) -> None:
    both = SplitStore(*stores, PATIENCE_SECONDS)
    stores[0].take([Take("long", LONG_BUCKET, 5)])
    answer = both.take([SHORT, Take("long", LONG_BUCKET, 1)])
    assert not isinstance(answer, list)
    assert [taken.remaining for taken in await answer] == [4, 0]
    assert stores[1].take([SHORT])[0].remaining == 3


async def test_quotas_are_judged_over_both_stores(stores: tuple[MemoryStore, MemoryStore]) -> None:
    """The quota in one is used up, that in the other is not: the request passes, and all else is charged."""
    both = SplitStore(*stores, PATIENCE_SECONDS)
    stores[0].take([Take("long", LONG_BUCKET, 5)])
    takes = [
        Take("long", LONG_BUCKET, 1, Mode.QUOTA),
        Take("other", LONG_BUCKET, 1),
        Take("short", SHORT_BUCKET, 3, Mode.QUOTA),
    ]
    for expected in ([0, 4, 2], [0, 4, 2]):
        answer = both.take(takes)
        assert not isinstance(answer, list)
        assert [taken.remaining for taken in await answer] == expected
