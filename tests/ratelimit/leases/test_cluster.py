"""Leases on a real Redis Cluster and on Sentinels: tokens are accounted for while slots and masters move."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle

import pytest

from common.buckets import TokenBucket
from common.circuit_breaker import CircuitBreaker
from common.configfile import parse
from common.redis_cluster import key_slot
from common.tasks import cancel_and_wait
from ratelimit.config import compile_limits
from ratelimit.decision import LimitDecision
from ratelimit.leases.leases import Leases
from ratelimit.leases.returns import LeaseReturns
from ratelimit.limiter import Limiter
from ratelimit.request import Descriptor, LimitRequest
from ratelimit.rules import OnFailure, Options
from ratelimit.stats import Stats
from ratelimit.stores.cluster import ClusterStore
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.redis import RedisStore
from ratelimit.stores.store import Take
from sidecars.process.redis import ClientMaker, connect, watch
from sidecars.process.redis_cluster import RedisCluster as ClusterNodes
from tests.support.cluster_store import PREFIX, cluster_store
from tests.support.redis_topologies import RedisCluster, Sentinels

pytestmark = pytest.mark.redis

SIZE = 1_000_000
LIMITS = f"""
domain: d
descriptors:
  - {{key: hot, rate_limit: {{period: 365d, requests_per_unit: {SIZE}, burst: {SIZE}, lease: true}}}}
"""
KEYS = 12
SECONDS = 1.5


class Sidecar:
    """A limiter with leases on a store, which counts what it admits by key, and answers without the store."""

    def __init__(self, store: ClusterStore | RedisStore) -> None:
        self.store = store
        self.leases = Leases(time.monotonic, seconds=0.2, share=0.1, replicas=lambda: 2)
        self.returns = LeaseReturns(self.leases, store)
        self.admitted: Counter[str] = Counter()
        self.failed = 0
        self.bucket_keys: dict[str, str] = {}
        limits = compile_limits([parse(LIMITS, "limits.yaml")], Options(on_failure=OnFailure.CLOSED), "r1")
        memory = MemoryStore(lambda: int(time.time() * 1e6))
        self.limiter = Limiter(limits, store, memory, Stats(), leases=self.leases)

    async def ask(self, *names: str) -> None:
        request = LimitRequest("d", tuple(Descriptor((("hot", name),)) for name in names), 1)
        plan = self.limiter.plan(request)
        decision = self.limiter.decide(plan)
        if not isinstance(decision, LimitDecision):
            decision = await decision
        if decision.failure:
            self.failed += 1
            return
        assert not decision.over_limit
        for name, take in zip(names, plan.takes, strict=True):
            self.admitted[name] += 1
            self.bucket_keys[name] = take.key


@asynccontextmanager
async def two_sidecars(topology: RedisCluster) -> AsyncIterator[list[Sidecar]]:
    nodes = ClusterNodes(ClientMaker(topology.settings()))
    running = asyncio.create_task(nodes.run())
    sidecars = [Sidecar(cluster_store(nodes)) for _ in range(2)]
    returning = [asyncio.create_task(one.returns.run()) for one in sidecars]
    try:
        yield sidecars
    finally:
        await cancel_and_wait(running, *returning)
        for one in sidecars:
            await one.store.close()
        await nodes.aclose()


async def load(sidecar: Sidecar, until: float) -> None:
    """Ask for one key, and for two, most often of different slots."""
    for number in cycle(range(KEYS)):
        if time.monotonic() >= until:
            return
        await sidecar.ask(f"{number}")
        await sidecar.ask(f"{number}", f"{(number * 5 + 1) % KEYS}")
        if number == KEYS - 1:
            await asyncio.sleep(0)


async def used_in_redis(sidecar: Sidecar, names: list[str]) -> dict[str, int]:
    bucket = TokenBucket(SIZE, SIZE, 365 * 86_400 * 1_000_000)
    found = {}
    for name in names:
        [taken] = await sidecar.store.take([Take(sidecar.bucket_keys[name], bucket, 0)])
        found[name] = SIZE - taken.remaining
    return found


async def test_what_redis_has_charged_is_what_was_admitted_while_slots_move(
    redis_cluster: RedisCluster,
) -> None:
    async with two_sidecars(redis_cluster) as sidecars:
        until = time.monotonic() + SECONDS
        loads = [asyncio.create_task(load(one, until)) for one in sidecars for _ in range(3)]
        await asyncio.sleep(0.2)
        key = sidecars[0].bucket_keys["0"]
        slot = key_slot(f"{PREFIX}{key}".encode())
        source = redis_cluster.owner(f"{PREFIX}{key}")
        target = next(server for server in redis_cluster.servers if server is not source)
        for begin, end in ((source, target), (target, source)):
            await asyncio.to_thread(redis_cluster.begin_migration, slot, begin, end)
            await asyncio.to_thread(redis_cluster.move_keys, slot, begin, end)
            await asyncio.to_thread(redis_cluster.end_migration, slot, begin, end)
        await asyncio.gather(*loads)
        answered = sum(one.leases.answered for one in sidecars)
        for one in sidecars:
            await one.returns.close()
        admitted = sidecars[0].admitted + sidecars[1].admitted
        assert answered > sum(admitted.values()) / 4, "leases answer"
        assert [one.leases.tokens_out for one in sidecars] == [0, 0]
        assert [one.leases.lost for one in sidecars] == [0, 0]
        assert len({redis_cluster.owner(PREFIX + key).port for key in sidecars[0].bucket_keys.values()}) == 3
        used = await used_in_redis(sidecars[0], sorted(admitted))
        # A year refills one token in half a minute.
        assert all(0 <= admitted[name] - count <= 1 for name, count in used.items()), (admitted, used)
        assert [one.failed for one in sidecars] == [0, 0]


async def test_after_a_failover_leases_are_taken_from_the_new_master(sentinels: Sentinels) -> None:
    client = connect(sentinels.settings())
    work = watch(client)
    assert work is not None
    following = asyncio.create_task(work)
    breaker = CircuitBreaker(time.monotonic, lambda: 0.0)
    sidecar = Sidecar(RedisStore(client, breaker, prefix=PREFIX, timeout_seconds=1.0))
    returning = asyncio.create_task(sidecar.returns.run())
    try:
        await load(sidecar, time.monotonic() + 0.5)
        assert (sidecar.failed, sidecar.leases.answered > 0) == (0, True)
        before = sentinels.master
        await asyncio.to_thread(sentinels.fail_over)
        assert sentinels.master is not before
        answered = 0

        async def has_recovered() -> None:
            nonlocal answered
            while answered < 100:
                failed, leased = sidecar.failed, sidecar.leases.answered
                await load(sidecar, time.monotonic() + 0.1)
                answered += sidecar.leases.answered - leased if sidecar.failed == failed else 0

        await asyncio.wait_for(has_recovered(), 60)
        await cancel_and_wait(returning)
        await sidecar.returns.close()
        assert sidecar.leases.tokens_out == 0
        used = await used_in_redis(sidecar, sorted(sidecar.admitted))
        # What was not replicated yet is forgotten, and what was lost was charged.
        assert sum(used.values()) <= sidecar.admitted.total() + sidecar.leases.lost
        assert all(used.values())
    finally:
        await cancel_and_wait(following, returning)
        await sidecar.store.close()
        await client.aclose()
