"""Slots of requests in flight, against a plain model: memory, Redis, and any interleaving of requests."""

import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from common.buckets import MAX_SLOTS, MAX_WINDOW_US, SECOND_US, FixedWindow, Slots, Taken
from common.circuit_breaker import CircuitBreaker
from ratelimit.concurrency import holder_of
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.redis import RedisStore
from ratelimit.stores.split import SplitStore
from ratelimit.stores.store import Mode, Take
from sidecars.process.redis import ClientMaker
from sidecars.process.redis_cluster import RedisCluster as ClusterNodes
from tests.support.cluster_store import PREFIX, cluster_store
from tests.support.redis_server import RedisServer
from tests.support.redis_topologies import RedisCluster

LEASE_US = 3_600 * SECOND_US
RATE = FixedWindow(5, MAX_WINDOW_US, charge_rejected=False)


@dataclass
class SlotModel:
    """What a concurrency limit means: a list of the requests in flight, and when each began."""

    limit: int
    lease_us: int
    held: list[tuple[int, int]] = field(default_factory=list)

    def take(self, holder: int, hits: int, now_us: int, *, refused_elsewhere: bool = False) -> bool:
        self.held = [(one, at) for one, at in self.held if now_us - at < self.lease_us]
        if hits < 0:
            index = next((index for index, (one, _) in enumerate(self.held) if one == holder), None)
            if index is not None:
                del self.held[index]
            return True
        passes = len(self.held) + hits <= self.limit
        if passes and hits and not refused_elsewhere:
            self.held.append((holder, now_us))
        return passes


class Harness(Protocol):
    async def take(self, *takes: Take) -> list[Taken]: ...

    def now_us(self) -> int: ...

    def pass_time(self, key: str, microseconds: int) -> None: ...


class MemoryHarness:
    def __init__(self) -> None:
        self.at_us = int(time.time() * SECOND_US)
        self.store = MemoryStore(self.now_us)

    def now_us(self) -> int:
        return self.at_us

    async def take(self, *takes: Take) -> list[Taken]:
        return self.store.take(takes)

    def pass_time(self, _key: str, microseconds: int) -> None:
        self.at_us += microseconds


class RedisHarness:
    """The clock is that of Redis, so here the past of the slots is moved instead."""

    def __init__(self, client: Redis, plain: Any) -> None:
        breaker = CircuitBreaker(time.monotonic, lambda: 0.0)
        self.store = RedisStore(client, breaker, prefix="s:", timeout_seconds=10.0)
        self._plain = plain
        self._passed_us = 0

    def now_us(self) -> int:
        return int(time.time() * SECOND_US) + self._passed_us

    async def take(self, *takes: Take) -> list[Taken]:
        return await self.store.take(takes)

    def pass_time(self, key: str, microseconds: int) -> None:
        self._passed_us += microseconds
        _move_past(self._plain, f"s:{key}", microseconds)


class ClusterHarness:
    """Three nodes: the limits of one request are at several."""

    def __init__(self, topology: RedisCluster, nodes: ClusterNodes) -> None:
        self._topology = topology
        self.store = cluster_store(nodes)
        self._passed_us = 0

    def now_us(self) -> int:
        return int(time.time() * SECOND_US) + self._passed_us

    async def take(self, *takes: Take) -> list[Taken]:
        taken = self.store.take(takes)
        outcomes = taken if isinstance(taken, list) else await taken
        # What a refused request took is given back after its answer.
        await self.store.settled()
        return outcomes

    def pass_time(self, key: str, microseconds: int) -> None:
        self._passed_us += microseconds
        with self._topology.owner(PREFIX + key).client() as plain:
            _move_past(plain, PREFIX + key, microseconds)


def _move_past(plain: Any, name: str, microseconds: int) -> None:
    stored = plain.get(name)
    if stored:
        slots = [slot.split("@") for slot in stored.decode().split()]
        moved = "".join(f"{holder}@{int(at) - microseconds:016d} " for holder, at in slots)
        plain.set(name, moved, keepttl=True)


@pytest.fixture(
    params=["memory", *(pytest.param(name, marks=pytest.mark.redis) for name in ("redis", "cluster"))]
)
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    if request.param == "memory":
        yield MemoryHarness()
        return
    if request.param == "cluster":
        topology: RedisCluster = request.getfixturevalue("redis_cluster")
        nodes = ClusterNodes(ClientMaker(topology.settings()))
        cluster_harness = ClusterHarness(topology, nodes)
        yield cluster_harness
        await cluster_harness.store.close()
        await nodes.aclose()
        return
    server: RedisServer = request.getfixturevalue("shared_redis")
    with server.client() as plain:
        async with Redis.from_url(server.url) as client:
            redis_harness = RedisHarness(client, plain)
            yield redis_harness
            await redis_harness.store.close()


keys = (f"k{number}" for number in itertools.count())


def slot(key: str, request: str, hits: int = 1, limit: int = 2, mode: Mode = Mode.ENFORCE) -> Take:
    return Take(key, Slots(limit, LEASE_US, holder_of(request)), hits, mode)


def passed(outcomes: Sequence[Taken]) -> list[bool]:
    return [outcome.allowed for outcome in outcomes]


async def test_as_many_requests_run_at_once_as_the_limit_says(harness: Harness) -> None:
    key = next(keys)
    found = [(await harness.take(slot(key, name)))[0] for name in "abc"]
    assert passed(found) == [True, True, False]
    assert [(one.used_before, one.remaining, one.retry_after_us) for one in found] == [
        (0, 1, 0), (1, 0, 0), (2, 0, 0),
    ]  # fmt: skip
    await harness.take(slot(key, "a", -1))
    assert passed(await harness.take(slot(key, "c"))) == [True]


async def test_the_release_of_a_refused_request_frees_no_slot(harness: Harness) -> None:
    key = next(keys)
    for name in "abc":
        await harness.take(slot(key, name))
    (released,) = await harness.take(slot(key, "c", -1))
    assert (released.allowed, released.remaining) == (True, 0)
    assert passed(await harness.take(slot(key, "d"))) == [False]


async def test_a_second_release_frees_no_slot(harness: Harness) -> None:
    key = next(keys)
    for name in "ab":
        await harness.take(slot(key, name))
    for _ in range(3):
        await harness.take(slot(key, "a", -1))
    assert passed([(await harness.take(slot(key, name)))[0] for name in "cd"]) == [True, False]


async def test_a_slot_that_is_not_given_back_is_free_again_after_its_time(harness: Harness) -> None:
    key = next(keys)
    await harness.take(slot(key, "a"))
    harness.pass_time(key, LEASE_US // 2)
    await harness.take(slot(key, "b"))
    harness.pass_time(key, LEASE_US // 2)
    assert passed([(await harness.take(slot(key, name)))[0] for name in "cd"]) == [True, False]
    await harness.take(slot(key, "a", -1))
    assert passed(await harness.take(slot(key, "d"))) == [False]


async def test_a_request_id_that_comes_twice_takes_two_slots(harness: Harness) -> None:
    key = next(keys)
    assert passed([(await harness.take(slot(key, "a")))[0] for _ in range(3)]) == [True, True, False]
    await harness.take(slot(key, "a", -1))
    assert passed([(await harness.take(slot(key, name)))[0] for name in "bc"]) == [True, False]


async def test_a_check_takes_no_slot(harness: Harness) -> None:
    key = next(keys)
    assert passed([(await harness.take(slot(key, "a", 0)))[0] for _ in range(4)]) == [True] * 4
    assert passed([(await harness.take(slot(key, name)))[0] for name in "abc"]) == [True, True, False]


async def test_a_request_that_another_limit_refuses_takes_no_slot(harness: Harness) -> None:
    key, rate = next(keys), next(keys)
    for number in range(9):
        await harness.take(slot(key, f"r{number}", limit=20), Take(rate, RATE, 1))
    (found,) = await harness.take(slot(key, "x", 0, limit=20))
    assert found.remaining == 15


async def test_a_request_without_a_slot_charges_no_other_limit(harness: Harness) -> None:
    key, rate = next(keys), next(keys)
    for name in "abcd":
        await harness.take(Take(rate, RATE, 1), slot(key, name))
    (found,) = await harness.take(Take(rate, RATE, 0))
    assert found.remaining == 3


async def test_in_shadow_mode_a_request_without_a_slot_passes_and_holds_none(harness: Harness) -> None:
    key, rate = next(keys), next(keys)
    for name in "abc":
        await harness.take(Take(rate, RATE, 1), slot(key, name, mode=Mode.SHADOW))
    (found,) = await harness.take(Take(rate, RATE, 0))
    assert found.remaining == 2
    await harness.take(slot(key, "a", -1))
    assert passed([(await harness.take(slot(key, name)))[0] for name in "de"]) == [True, False]


async def test_the_largest_limit_fits_into_the_store(harness: Harness) -> None:
    key = next(keys)
    for number in range(MAX_SLOTS):
        await harness.take(slot(key, f"r{number}", limit=MAX_SLOTS))
    (refused,) = await harness.take(slot(key, "x", limit=MAX_SLOTS))
    assert (refused.allowed, refused.used_before) == (False, MAX_SLOTS)
    for number in reversed(range(MAX_SLOTS)):
        await harness.take(slot(key, f"r{number}", -1, limit=MAX_SLOTS))
    (found,) = await harness.take(slot(key, "x", 0, limit=MAX_SLOTS))
    assert found.remaining == MAX_SLOTS


@dataclass(frozen=True)
class Step:
    """A request begins, ends or asks; first, time passes."""

    request: int
    hits: int
    rate_hits: int
    """The hits of another limit in the same request; 0: the request has none."""
    passes_us: int


steps = st.lists(
    st.builds(
        Step,
        st.integers(0, 6),
        st.sampled_from([1, 1, -1, -1, 0]),
        st.sampled_from([0, 0, 0, 1, 4]),
        st.sampled_from([0, 0, 1, LEASE_US // 3, LEASE_US // 2, LEASE_US - 60 * SECOND_US, LEASE_US]),
    ),
    min_size=1,
    max_size=25,
)
thorough = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


async def check(harness: Harness, limit: int, sequence: list[Step], clock: Callable[[], int]) -> None:
    key, rate = next(keys), next(keys)
    model = SlotModel(limit, LEASE_US)
    used = 0
    for step in sequence:
        if step.passes_us:
            harness.pass_time(key, step.passes_us)
        bucket = Slots(limit, LEASE_US, holder_of(str(step.request)))
        takes = [Take(key, bucket, step.hits)]
        over = used + step.rate_hits > RATE.limit
        if step.rate_hits:
            takes.append(Take(rate, RATE, step.rate_hits))
        outcome = (await harness.take(*takes))[0]
        passes = model.take(
            bucket.holder, step.hits, clock(), refused_elsewhere=bool(step.rate_hits) and over
        )
        assert outcome.allowed == passes
        assert outcome.remaining == limit - len(model.held)
        assert len(model.held) <= limit
        if passes and not over:
            used += step.rate_hits


@given(st.integers(1, 5), steps)
@settings(max_examples=400, deadline=None)
async def test_memory_does_as_the_model(limit: int, sequence: list[Step]) -> None:
    harness = MemoryHarness()
    await check(harness, limit, sequence, harness.now_us)


@pytest.mark.redis
@given(st.integers(1, 5), steps)
@thorough
async def test_redis_does_as_the_model(shared_redis: RedisServer, limit: int, sequence: list[Step]) -> None:
    with shared_redis.client() as plain:
        async with Redis.from_url(shared_redis.url) as client:
            harness = RedisHarness(client, plain)
            await check(harness, limit, sequence, harness.now_us)
            await harness.store.close()


@pytest.mark.redis
async def test_redis_keeps_no_slot_longer_than_its_time(shared_redis: RedisServer) -> None:
    with shared_redis.client() as plain:
        async with Redis.from_url(shared_redis.url) as client:
            harness, key = RedisHarness(client, plain), next(keys)
            await harness.take(slot(key, "a"))
            left: Any = plain.pttl(f"s:{key}")
            assert LEASE_US // 1000 < left + 60_000 <= LEASE_US // 1000 + 61_000
            await harness.take(slot(key, "a", -1))
            left = plain.pttl(f"s:{key}")
            assert left <= 1_000
            await harness.store.close()


@pytest.mark.redis
@pytest.mark.parametrize("text", ["nonsense", "1@2 ", "0000000000000001@000000000000000x "])
async def test_what_others_stored_in_redis_is_not_counted(shared_redis: RedisServer, text: str) -> None:
    with shared_redis.client() as plain:
        async with Redis.from_url(shared_redis.url) as client:
            harness, key = RedisHarness(client, plain), next(keys)
            plain.set(f"s:{key}", text)
            assert passed([(await harness.take(slot(key, name)))[0] for name in "abc"]) == [True, True, False]
            await harness.store.close()


def test_a_clock_that_steps_back_keeps_slots_in_order_and_frees_none_of_them() -> None:
    slots = Slots(3, 60 * SECOND_US, 1)
    _, state = slots.take(None, 1, 100 * SECOND_US)
    taken, state = slots.held_by(2).take(state, 1, 95 * SECOND_US)
    assert (taken.allowed, state) == (True, (1, 100 * SECOND_US, 2, 100 * SECOND_US))


def test_a_slot_of_a_wrong_clock_is_free() -> None:
    slots = Slots(1, 60 * SECOND_US, 1)
    _, state = slots.take(None, 1, 10_000 * SECOND_US)
    taken, _ = slots.held_by(2).take(state, 1, 100 * SECOND_US)
    assert taken.allowed


def test_a_time_is_never_taken_for_a_holder() -> None:
    at_us = 1_790_000_000 * SECOND_US
    slots = Slots(2, 60 * SECOND_US, 1)
    _, state = slots.take(None, 1, at_us)
    _, kept = slots.held_by(at_us).take(state, -1, at_us)
    assert kept is state


def test_slots_in_memory_may_be_forgotten_once_they_are_free() -> None:
    now_us = 1_790_000_000 * SECOND_US
    store = MemoryStore(lambda: now_us)
    for number in range(100):
        key = f"k{number}"
        store.take([slot(key, "a")])
        store.take([slot(key, "a", -1)])
    assert len(store) < 10
    assert store.evicted == 0


@pytest.mark.parametrize("limit", [0, MAX_SLOTS + 1])
def test_a_limit_out_of_range_is_an_error(limit: int) -> None:
    with pytest.raises(ValueError, match="concurrency must be 1 to 1000"):
        Slots(limit, SECOND_US)


async def test_slots_are_never_in_the_store_of_short_windows() -> None:
    long, short = MemoryStore(lambda: SECOND_US), MemoryStore(lambda: SECOND_US)
    store = SplitStore(long, short)
    store.take([Take("k", Slots(1, SECOND_US, 1), 1)])
    assert (len(long), len(short)) == (1, 0)
