"""What every store does, memory and Redis alike."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

import pytest
import redis
from redis.asyncio import Redis

from common.buckets import MAX_WINDOW_US, SECOND_US, Bucket, FixedWindow, SlidingWindow, Taken, TokenBucket
from common.circuit_breaker import CircuitBreaker
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.redis import RedisStore
from ratelimit.stores.split import SplitStore
from ratelimit.stores.store import Mode, Store, Take
from sidecars.process.redis import ClientMaker, connect
from sidecars.process.redis_cluster import RedisCluster as ClusterNodes
from tests.support.cluster_store import cluster_store
from tests.support.redis_server import RedisServer
from tests.support.redis_topologies import RedisCluster, Sentinels

MINUTE_US = 60 * SECOND_US

# Refills and windows so slow that a test cannot see them; time passes only where a test says so.
SLOW = TokenBucket(10, 10, MAX_WINDOW_US)
SLOW_WINDOW = FixedWindow(10, MAX_WINDOW_US)
SLIDING = SlidingWindow(10, MAX_WINDOW_US)
ALL = pytest.mark.parametrize(
    "bucket", [SLOW, SLOW_WINDOW, SLIDING], ids=["token_bucket", "fixed_window", "sliding_window"]
)


class Harness(Protocol):
    """A store, and a way to let time pass for one of its buckets."""

    @property
    def store(self) -> Store: ...

    async def take(self, *takes: Take) -> Sequence[Taken]: ...

    def pass_time(self, key: str, microseconds: int) -> None: ...


async def _taken(answer: list[Taken] | Awaitable[list[Taken]]) -> list[Taken]:
    return answer if isinstance(answer, list) else await answer


class MemoryHarness:
    def __init__(self) -> None:
        self.now_us = int(time.time() * SECOND_US)
        self.store = MemoryStore(lambda: self.now_us)

    async def take(self, *takes: Take) -> Sequence[Taken]:
        return await _taken(self.store.take(takes))

    def pass_time(self, key: str, microseconds: int) -> None:
        self.now_us += microseconds


class SplitHarness:
    """Short windows in one store, the others in another."""

    def __init__(self) -> None:
        self.now_us = int(time.time() * SECOND_US)
        self.store = SplitStore(MemoryStore(lambda: self.now_us), MemoryStore(lambda: self.now_us))

    async def take(self, *takes: Take) -> Sequence[Taken]:
        return await _taken(self.store.take(takes))

    def pass_time(self, key: str, microseconds: int) -> None:
        self.now_us += microseconds


class RedisHarness:
    """The clock is that of Redis, so here the past of the bucket is moved instead."""

    def __init__(self, client: Redis, plain: "redis.Redis") -> None:
        breaker = CircuitBreaker(time.monotonic, lambda: 0.0)
        self.store = RedisStore(client, breaker, prefix="t:", timeout_seconds=10.0)
        self._plain = plain

    async def take(self, *takes: Take) -> Sequence[Taken]:
        return await _taken(self.store.take(takes))

    def pass_time(self, key: str, microseconds: int) -> None:
        _move_past(self._plain, "t:" + key, microseconds)


def _move_past(plain: "redis.Redis", name: str, microseconds: int) -> None:
    stored = plain.get(name)
    assert isinstance(stored, bytes)
    *counted, at_us = stored.decode().split()
    plain.set(name, " ".join([*counted, str(int(at_us) - microseconds)]), keepttl=True)


class ClusterHarness:
    """Three nodes; the past of a bucket is moved at the node that has it."""

    def __init__(self, topology: RedisCluster, nodes: ClusterNodes) -> None:
        self._topology = topology
        self.store = cluster_store(nodes)

    async def take(self, *takes: Take) -> Sequence[Taken]:
        taken = await _taken(self.store.take(takes))
        # Hits of a refused request are given back after its answer.
        await self.store.settled()
        return taken

    def pass_time(self, key: str, microseconds: int) -> None:
        with self._topology.owner("t:" + key).client() as plain:
            _move_past(plain, "t:" + key, microseconds)


@pytest.fixture(
    params=[
        "memory",
        "split",
        *(pytest.param(name, marks=pytest.mark.redis) for name in ("redis", "sentinel", "cluster")),
    ]
)
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    if request.param == "memory":
        yield MemoryHarness()
        return
    if request.param == "split":
        yield SplitHarness()
        return
    if request.param == "cluster":
        topology: RedisCluster = request.getfixturevalue("redis_cluster")
        nodes = ClusterNodes(ClientMaker(topology.settings()))
        cluster_harness = ClusterHarness(topology, nodes)
        yield cluster_harness
        await cluster_harness.store.close()
        await nodes.aclose()
        return
    if request.param == "sentinel":
        sentinels: Sentinels = request.getfixturevalue("shared_sentinels")
        with sentinels.master.client() as plain:
            async with connect(sentinels.settings()) as client:
                sentinel_harness = RedisHarness(client, plain)
                yield sentinel_harness
                await sentinel_harness.store.close()
        return
    server: RedisServer = request.getfixturevalue("shared_redis")
    with server.client() as plain:
        async with Redis.from_url(server.url) as client:
            redis_harness = RedisHarness(client, plain)
            yield redis_harness
            await redis_harness.store.close()


@ALL
async def test_admits_exactly_the_size(harness: Harness, bucket: Bucket) -> None:
    outcomes = [(await harness.take(Take("k", bucket, 1)))[0] for _ in range(12)]
    assert [taken.allowed for taken in outcomes] == [True] * 10 + [False] * 2
    assert [taken.remaining for taken in outcomes] == [*range(9, -1, -1), 0, 0]


@ALL
async def test_keys_are_apart(harness: Harness, bucket: Bucket) -> None:
    await harness.take(Take("k", bucket, 10))
    assert (await harness.take(Take("other", bucket, 1)))[0].allowed


async def test_a_refused_request_charges_none_of_its_token_buckets(harness: Harness) -> None:
    """envoyproxy/ratelimit charges them all, so that one limit uses up the others."""
    await harness.take(Take("b", SLOW, 10))
    taken = await harness.take(Take("a", SLOW, 1), Take("b", SLOW, 1), Take("c", SLOW, 3))
    assert [(one.allowed, one.remaining) for one in taken] == [(True, 10), (False, 0), (True, 10)]
    assert [one.remaining for one in await harness.take(Take("a", SLOW, 0), Take("c", SLOW, 0))] == [10, 10]


async def test_a_refused_request_charges_what_always_charges(harness: Harness) -> None:
    """Fixed windows do as in envoyproxy/ratelimit; refunds and debts do not depend on other limits."""
    debt = TokenBucket(10, 10, MAX_WINDOW_US, charge_rejected=True)
    await harness.take(Take("full", SLOW, 10), Take("refund", SLOW, 4))
    taken = await harness.take(
        Take("full", SLOW, 1), Take("window", SLOW_WINDOW, 2), Take("debt", debt, 3), Take("refund", SLOW, -2)
    )
    assert [(one.allowed, one.remaining) for one in taken] == [(False, 0), (True, 8), (True, 7), (True, 8)]


async def test_a_request_passes_if_a_shadowed_bucket_is_over(harness: Harness) -> None:
    await harness.take(Take("shadow", SLOW, 10))
    taken = await harness.take(Take("shadow", SLOW, 1, Mode.SHADOW), Take("a", SLOW, 1))
    assert [(one.allowed, one.remaining) for one in taken] == [(False, 0), (True, 9)]


async def test_a_request_is_refused_if_all_its_quotas_are_over(harness: Harness) -> None:
    await harness.take(Take("q1", SLOW, 10))
    both = Take("q1", SLOW, 1, Mode.QUOTA), Take("q2", SLOW, 6, Mode.QUOTA), Take("a", SLOW, 1)
    assert [one.remaining for one in await harness.take(*both)] == [0, 4, 9]
    assert [one.remaining for one in await harness.take(*both)] == [0, 4, 9]


@ALL
async def test_a_key_asked_twice_is_charged_twice(harness: Harness, bucket: Bucket) -> None:
    taken = await harness.take(Take("k", bucket, 6), Take("k", bucket, 6))
    assert [one.allowed for one in taken] == [True, False]


@ALL
async def test_negative_hits_give_back(harness: Harness, bucket: Bucket) -> None:
    await harness.take(Take("k", bucket, 10))
    assert (await harness.take(Take("k", bucket, -3)))[0].remaining == 3
    assert (await harness.take(Take("k", bucket, 3)))[0].allowed


@ALL
async def test_0_hits_only_check(harness: Harness, bucket: Bucket) -> None:
    await harness.take(Take("k", bucket, 10))
    for _ in range(3):
        assert (await harness.take(Take("k", bucket, 0)))[0].allowed


async def test_a_token_bucket_refills_with_time(harness: Harness) -> None:
    bucket = TokenBucket(10, 10, 3_600 * SECOND_US)
    await harness.take(Take("k", bucket, 10))
    harness.pass_time("k", 720 * SECOND_US)
    [taken] = await harness.take(Take("k", bucket, 3))
    assert not taken.allowed
    assert taken.remaining == 2


async def test_a_window_ends(harness: Harness) -> None:
    await harness.take(Take("k", SLOW_WINDOW, 10))
    harness.pass_time("k", MAX_WINDOW_US)
    assert (await harness.take(Take("k", SLOW_WINDOW, 10)))[0].allowed


@pytest.mark.parametrize("raised", [TokenBucket(50, 50, MAX_WINDOW_US), FixedWindow(50, MAX_WINDOW_US)])
async def test_a_limit_that_is_raised_or_lowered_keeps_what_was_used(
    harness: Harness, raised: Bucket
) -> None:
    usual: Bucket = SLOW if isinstance(raised, TokenBucket) else SLOW_WINDOW
    await harness.take(Take("k", usual, 8))
    assert (await harness.take(Take("k", raised, 20)))[0].remaining == 22
    [lowered] = await harness.take(Take("k", usual, 1))
    assert (lowered.allowed, lowered.remaining) == (False, 0)


async def test_debt_is_kept(harness: Harness) -> None:
    bucket = TokenBucket(10, 10, 3_600 * SECOND_US, charge_rejected=True)
    await harness.take(Take("k", bucket, 15))
    harness.pass_time("k", 1_799 * SECOND_US)
    assert not (await harness.take(Take("k", bucket, 0)))[0].allowed
    harness.pass_time("k", 1 * SECOND_US)
    assert (await harness.take(Take("k", bucket, 0)))[0].allowed


async def test_reset_and_retry_after_are_told(harness: Harness) -> None:
    bucket = TokenBucket(10, 10, 600 * SECOND_US)
    await harness.take(Take("k", bucket, 10))
    [taken] = await harness.take(Take("k", bucket, 2))
    assert 0 <= 600 * SECOND_US - taken.reset_us < 60 * SECOND_US
    assert 0 <= 120 * SECOND_US - taken.retry_after_us < 60 * SECOND_US


@pytest.mark.parametrize("largest", [2**32 - 1])
@ALL
async def test_the_largest_numbers_are_exact(harness: Harness, bucket: Bucket, largest: int) -> None:
    huge: Bucket = (
        TokenBucket(largest, largest, MAX_WINDOW_US)
        if isinstance(bucket, TokenBucket)
        else replace(bucket, limit=largest)
    )
    taken = [await harness.take(Take("k", huge, hits)) for hits in (largest - 1, 1)]
    assert [(one.allowed, one.remaining) for [one] in taken] == [(True, 1), (True, 0)]


def memory_with(max_buckets: int) -> tuple[MemoryStore, Callable[[int], None]]:
    clock = MemoryHarness()
    store = MemoryStore(lambda: clock.now_us, max_buckets)
    return store, lambda microseconds: clock.pass_time("", microseconds)


class TestMemoryOnly:
    def test_never_holds_more_than_its_bound(self) -> None:
        store, _ = memory_with(5)
        for number in range(100):
            store.take([Take(f"k{number}", SLOW, 1)])
        assert len(store) == 5

    def test_the_bucket_unused_for_longest_goes_first_and_is_counted(self) -> None:
        store, _ = memory_with(2)
        for key in ("old", "busy"):
            store.take([Take(key, SLOW, 10)])
        store.take([Take("old", SLOW, 0)])
        store.take([Take("new", SLOW, 1)])
        assert store.evicted == 1
        assert not store.take([Take("old", SLOW, 1)])[0].allowed
        assert store.take([Take("busy", SLOW, 1)])[0].allowed

    def test_idle_buckets_go_without_being_missed(self) -> None:
        bucket = TokenBucket(10, 10, MINUTE_US)
        store, pass_time = memory_with(1_000)
        for number in range(100):
            store.take([Take(f"k{number}", bucket, 10)])
        pass_time(MINUTE_US + SECOND_US)  # when a bucket is idle is kept in whole seconds
        for number in range(50):
            store.take([Take(f"n{number}", bucket, 1)])
        assert len(store) == 50
        assert store.evicted == 0

    def test_checks_and_refunds_of_unused_buckets_take_no_room(self) -> None:
        store, _ = memory_with(5)
        store.take([Take("a", SLOW, 0), Take("b", SLOW, -1)])
        assert len(store) == 0

    def test_peek_charges_nothing(self) -> None:
        store, _ = memory_with(5)
        now_us = int(time.time() * SECOND_US)
        store.take_one("k", SLOW, 10, now_us)
        assert not store.peek("k", SLOW, 1, now_us).allowed
        assert store.peek("other", SLOW, 10, now_us).allowed
        assert len(store) == 1

    def test_forget_gives_a_fresh_start(self) -> None:
        store, _ = memory_with(5)
        store.take([Take("k", SLOW, 10)])
        store.forget("k")
        assert store.take([Take("k", SLOW, 10)])[0].allowed
