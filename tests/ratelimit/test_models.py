"""Every store against the models: any clocks, costs, refunds, modes, interleavings and descriptors."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from common.buckets import (
    MAX_WINDOW_US,
    SECOND_US,
    Bucket,
    FixedWindow,
    SlidingWindow,
    Taken,
    TokenBucket,
)
from common.circuit_breaker import CircuitBreaker
from ratelimit.stores.memory import _TIME_SHIFT, MemoryStore
from ratelimit.stores.redis import RedisStore
from ratelimit.stores.store import Mode, Store, Take
from sidecars.process.redis import ClientMaker, connect
from sidecars.process.redis_cluster import RedisCluster as ClusterNodes
from tests.ratelimit.models import ModelStore
from tests.support.cluster_store import PREFIX, cluster_store
from tests.support.redis_server import RedisServer
from tests.support.redis_topologies import RedisCluster, Sentinels

# Ten years: so slow that the time a test takes changes nothing, which a real Redis cannot be told.
WINDOW_US = MAX_WINDOW_US
sizes = st.integers(1, 12)
buckets: st.SearchStrategy[Bucket] = (
    st.builds(TokenBucket, sizes, sizes, st.just(WINDOW_US), st.booleans())
    | st.builds(FixedWindow, st.integers(0, 12), st.just(WINDOW_US), st.booleans())
    | st.builds(SlidingWindow, st.integers(0, 12), st.just(WINDOW_US), st.booleans())
)


@dataclass(frozen=True)
class Ask:
    """Requests that are made at once: each has takes of (bucket number, hits, mode, spare)."""

    requests: list[list[tuple[int, int, Mode, bool]]]


@dataclass(frozen=True)
class Pass:
    """Time passes: whole windows, and for token buckets in addition this part of one."""

    windows: int
    part: float


modes = st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, *Mode])
take_parts = st.tuples(st.integers(0, 3), st.integers(-3, 9), modes, st.booleans())
one_request = st.lists(take_parts, min_size=1, max_size=4, unique_by=lambda part: part[0])
passes = st.builds(Pass, st.integers(0, 1), st.floats(0, 0.99))


@dataclass
class Driver:
    """A store, its clock, and a way to let time pass for keys."""

    store: Store
    now_us: Callable[[], int]
    pass_time: Callable[[str, int], None]
    """Move the past of a key by microseconds."""
    settle: Callable[[], Awaitable[None]]
    """Wait for what the store does after its answers."""
    together: bool = True
    """Whether requests made at once are served in their order."""


async def check(driver: Driver, prefix: str, chosen: list[Bucket], steps: list[Ask | Pass]) -> None:
    model = ModelStore()
    for step in steps:
        if isinstance(step, Pass):
            for number, bucket in enumerate(chosen):
                part_us = int(step.part * WINDOW_US) if isinstance(bucket, TokenBucket) else 0
                passed_us = step.windows * WINDOW_US + part_us
                _pass_in_model(model, f"{prefix}{number}", passed_us)
                driver.pass_time(f"{prefix}{number}", passed_us)
            continue
        requests = [
            [
                Take(f"{prefix}{number % len(chosen)}", chosen[number % len(chosen)], hits, mode, spare)
                for number, hits, mode, spare in request
                if number < len(chosen)
            ]
            for request in step.requests
        ]
        requests = [takes for takes in requests if takes]
        if not driver.together:
            requests = requests[:1]
        found = await asyncio.gather(*[_taken(driver.store.take(takes)) for takes in requests])
        await driver.settle()
        for takes, outcomes in zip(requests, found, strict=True):
            expected = model.take(takes, driver.now_us())
            assert [(one.allowed, one.remaining) for one in outcomes] == expected, takes


def _pass_in_model(model: ModelStore, key: str, passed_us: int) -> None:
    """Move the past of one bucket: so that each store has the clock of the machine."""
    kept: Any = model.models.get(key)
    if kept is None:
        return
    if hasattr(kept, "at_us"):
        kept.at_us -= passed_us
    else:
        windows = passed_us // WINDOW_US
        kept.counts = {index - windows: count for index, count in kept.counts.items()}


async def _taken(answer: list[Taken] | Awaitable[list[Taken]]) -> list[Taken]:
    return answer if isinstance(answer, list) else await answer


async def _nothing() -> None: ...


def wall_us() -> int:
    return int(time.time() * SECOND_US)


def move_in_redis(plain: Any, key: str, passed_us: int) -> None:
    stored = plain.get(PREFIX + key)
    if stored is not None:
        *counted, at_us = stored.decode().split()
        plain.set(PREFIX + key, " ".join([*counted, str(int(at_us) - passed_us)]), keepttl=True)


numbers = itertools.count()
scenarios = given(
    st.lists(buckets, min_size=1, max_size=4),
    st.lists(st.builds(Ask, st.lists(one_request, min_size=1, max_size=4)) | passes, min_size=1, max_size=8),
)
thorough = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def move(store: MemoryStore, key: str, passed_us: int) -> None:
    """Move the past of a bucket."""
    packed = store._buckets.get(key)
    if packed is not None:
        store._buckets[key] = packed - (passed_us << _TIME_SHIFT)


@scenarios
async def test_memory(chosen: list[Bucket], steps: list[Ask | Pass]) -> None:
    store = MemoryStore(wall_us)

    await check(Driver(store, wall_us, partial(move, store), _nothing), "", chosen, steps)


@pytest.mark.redis
@scenarios
@thorough
async def test_redis(shared_redis: RedisServer, chosen: list[Bucket], steps: list[Ask | Pass]) -> None:
    with shared_redis.client() as plain:
        async with Redis.from_url(shared_redis.url) as client:
            await _check_redis(client, plain, chosen, steps)


@pytest.mark.redis
@scenarios
@thorough
async def test_redis_by_sentinel(
    shared_sentinels: Sentinels, chosen: list[Bucket], steps: list[Ask | Pass]
) -> None:
    with shared_sentinels.servers[0].client() as plain:
        async with connect(shared_sentinels.settings()) as client:
            await _check_redis(client, plain, chosen, steps)


async def _check_redis(client: Redis, plain: Any, chosen: list[Bucket], steps: list[Ask | Pass]) -> None:
    breaker = CircuitBreaker(time.monotonic, lambda: 0.0)
    store = RedisStore(client, breaker, prefix=PREFIX, timeout_seconds=10.0)

    def pass_time(key: str, passed_us: int) -> None:
        move_in_redis(plain, key, passed_us)

    await check(Driver(store, wall_us, pass_time, _nothing), f"m{next(numbers)}-", chosen, steps)
    await store.close()


@pytest.mark.redis
@scenarios
@thorough
async def test_redis_cluster(
    redis_cluster: RedisCluster, chosen: list[Bucket], steps: list[Ask | Pass]
) -> None:
    """Requests over several slots are not one atomic step, so they are made one after the other."""
    nodes = ClusterNodes(ClientMaker(redis_cluster.settings()))
    store = cluster_store(nodes)

    def pass_time(key: str, passed_us: int) -> None:
        with redis_cluster.owner(PREFIX + key).client() as plain:
            move_in_redis(plain, key, passed_us)

    driver = Driver(store, wall_us, pass_time, store.settled, together=False)
    await check(driver, f"m{next(numbers)}-", chosen, steps)
    await store.close()
    await nodes.aclose()
