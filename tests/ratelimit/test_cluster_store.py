"""A real Redis Cluster: slots that move, nodes that go, keys of one request at several nodes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from common.buckets import MAX_WINDOW_US, FixedWindow, TokenBucket
from common.circuit_breaker import CircuitState
from common.redis_cluster import key_slot
from common.tasks import cancel_and_wait
from ratelimit.stores.cluster import ClusterStore
from ratelimit.stores.store import Failure, StoreError, Take
from sidecars.process.redis import ClientMaker
from sidecars.process.redis_cluster import RedisCluster as ClusterNodes
from tests.support.cluster_store import PREFIX, cluster_store
from tests.support.redis_server import RedisServer
from tests.support.redis_topologies import RedisCluster, wait_until

pytestmark = pytest.mark.redis

SLOW = TokenBucket(10, 10, MAX_WINDOW_US)
MANY = TokenBucket(1_000_000, 1, MAX_WINDOW_US)
WINDOW = FixedWindow(10, MAX_WINDOW_US)


@pytest.fixture
async def nodes(redis_cluster: RedisCluster) -> AsyncIterator[ClusterNodes]:
    async with running(redis_cluster) as found:
        yield found


@pytest.fixture
async def store(nodes: ClusterNodes) -> AsyncIterator[ClusterStore]:
    found = cluster_store(nodes)
    yield found
    await found.close()


@asynccontextmanager
async def running(topology: RedisCluster, **settings: int) -> AsyncIterator[ClusterNodes]:
    found = ClusterNodes(ClientMaker(topology.settings(**settings)))
    task = asyncio.create_task(found.run())
    yield found
    await cancel_and_wait(task)
    await found.aclose()


def one_key_for_each_node(topology: RedisCluster) -> list[str]:
    found: dict[int, str] = {}
    for number in range(1000):
        found.setdefault(topology.owner(f"{PREFIX}k{number}").port, f"k{number}")
        if len(found) == 3:
            return list(found.values())
    raise AssertionError("three nodes have all slots")


@pytest.fixture
def moving(redis_cluster: RedisCluster) -> Iterator[tuple[str, RedisServer, RedisServer]]:
    """A hash tag, the node that has its slot, and another, which has it no longer when the test ends."""
    source = redis_cluster.owner(f"{PREFIX}{{tag}}")
    target = next(server for server in redis_cluster.servers if server is not source)
    slot = key_slot(b"tag")
    yield "{tag}", source, target
    if redis_cluster.owner(f"{PREFIX}{{tag}}") is source:
        redis_cluster.begin_migration(slot, source, target)
        redis_cluster.move_keys(slot, source, target)
        redis_cluster.end_migration(slot, source, target)
    redis_cluster.begin_migration(slot, target, source)
    redis_cluster.move_keys(slot, target, source)
    redis_cluster.end_migration(slot, target, source)
    wait_until(redis_cluster.is_ok, "the cluster is not ok")


async def test_each_key_is_counted_at_the_node_that_has_its_slot(
    store: ClusterStore, redis_cluster: RedisCluster
) -> None:
    keys = one_key_for_each_node(redis_cluster)
    for key in keys:
        await store.take([Take(key, SLOW, 1)])
        with redis_cluster.owner(PREFIX + key).client() as client:
            assert [name.decode() for name in client.keys("*")] == [PREFIX + key]


async def test_keys_of_different_slots_never_share_a_call(
    store: ClusterStore, redis_cluster: RedisCluster
) -> None:
    """Not even where one node has both: it would refuse the call (CROSSSLOT)."""
    keys = [f"k{number}" for number in range(200)]
    found = await asyncio.gather(*[store.take([Take(key, SLOW, 1)]) for key in keys])
    assert [taken.remaining for [taken] in found] == [9] * 200
    assert sum(store.failures.values()) == 0


async def test_what_arrives_together_is_one_round_trip_to_each_node(
    store: ClusterStore, redis_cluster: RedisCluster
) -> None:
    await asyncio.gather(*[store.take([Take(f"k{number}", SLOW, 1)]) for number in range(60)])
    before = [_reads(server) for server in redis_cluster.servers]
    await asyncio.gather(*[store.take([Take(f"k{number}", SLOW, 1)]) for number in range(60)])
    # The statistics themselves are a read, too.
    reads = [_reads(server) - old for server, old in zip(redis_cluster.servers, before, strict=True)]
    assert all(count <= 12 for count in reads), reads


def _reads(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("stats")["total_reads_processed"])


@pytest.mark.parametrize("bucket", [SLOW, WINDOW], ids=["token_bucket", "fixed_window"])
async def test_a_request_over_several_nodes_is_charged_as_a_whole(
    store: ClusterStore, redis_cluster: RedisCluster, bucket: TokenBucket | FixedWindow
) -> None:
    keys = one_key_for_each_node(redis_cluster)
    for expected in range(9, -1, -1):
        taken = await store.take([Take(key, bucket, 1) for key in keys])
        assert [one.remaining for one in taken] == [expected] * 3
    assert [one.allowed for one in await store.take([Take(key, bucket, 1) for key in keys])] == [False] * 3


async def test_a_request_over_several_nodes_that_is_refused_charges_none_of_them(
    store: ClusterStore, redis_cluster: RedisCluster
) -> None:
    keys = one_key_for_each_node(redis_cluster)
    await store.take([Take(keys[2], SLOW, 10)])
    taken = await store.take([Take(key, SLOW, 3) for key in keys])
    assert [(one.allowed, one.remaining) for one in taken] == [(True, 10), (True, 10), (False, 0)]
    assert [one.remaining for one in await store.take([Take(key, SLOW, 0) for key in keys])] == [10, 10, 0]


async def test_a_hash_tag_in_the_prefix_makes_each_request_one_step_again(
    nodes: ClusterNodes, redis_cluster: RedisCluster
) -> None:
    store = cluster_store(nodes, prefix="{limits}:")
    owner = redis_cluster.owner("{limits}:")
    with owner.client() as client:
        await store.take([Take("first", SLOW, 1)])  # the script is known
        client.config_resetstat()
        found = await asyncio.gather(*[store.take([Take(key, SLOW, 6) for key in "abc"]) for _ in range(2)])
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
        assert client.dbsize() == 4
    assert [[one.allowed for one in taken] for taken in found] == [[True] * 3, [False] * 3]
    await store.close()


async def test_requests_that_race_over_several_nodes_never_pass_a_limit(
    store: ClusterStore, redis_cluster: RedisCluster
) -> None:
    keys = one_key_for_each_node(redis_cluster)
    found = await asyncio.gather(
        *[store.take([Take(keys[number % 3], SLOW, 1), Take(keys[2], SLOW, 1)]) for number in range(60)]
    )
    passed = sum(all(one.allowed for one in taken) for taken in found)
    assert 0 < passed <= 10


async def test_a_moved_slot_is_followed_inside_the_call(
    store: ClusterStore, redis_cluster: RedisCluster, moving: tuple[str, RedisServer, RedisServer]
) -> None:
    tag, source, target = moving
    assert (await store.take([Take(tag, SLOW, 1)]))[0].remaining == 9
    slot = key_slot(b"tag")
    redis_cluster.begin_migration(slot, source, target)
    redis_cluster.move_keys(slot, source, target)
    redis_cluster.end_migration(slot, source, target)
    assert (await store.take([Take(tag, SLOW, 1)]))[0].remaining == 8
    assert sum(store.failures.values()) == 0
    assert store.breaker.cause == ""


async def test_while_a_slot_moves_each_key_is_asked_where_it_is(
    store: ClusterStore, redis_cluster: RedisCluster, moving: tuple[str, RedisServer, RedisServer]
) -> None:
    """One that stays so far, one that moved, one that is new (ASK), and all in one request (TRYAGAIN)."""
    tag, source, target = moving
    stays, moved, new = f"{tag}stays", f"{tag}moved", f"{tag}new"
    await store.take([Take(stays, SLOW, 1), Take(moved, SLOW, 1)])
    redis_cluster.begin_migration(key_slot(b"tag"), source, target)
    with source.client() as client:
        client.execute_command("MIGRATE", "127.0.0.1", target.port, PREFIX + moved, 0, 5000)
    assert [(await store.take([Take(key, SLOW, 1)]))[0].remaining for key in (stays, moved, new)] == [8, 8, 9]
    taken = await store.take([Take(key, SLOW, 1) for key in (stays, moved, new)])
    assert [one.remaining for one in taken] == [7, 7, 8]
    together = await asyncio.gather(*[store.take([Take(key, SLOW, 1)]) for key in (stays, moved, new) * 2])
    assert [one.remaining for [one] in together] == [6, 6, 7, 5, 5, 6]
    refused = await store.take([Take(stays, SLOW, 1), Take(moved, SLOW, 6)])
    assert [(one.allowed, one.remaining) for one in refused] == [(True, 5), (False, 5)]
    assert sum(store.failures.values()) == 0


async def test_no_hit_is_lost_or_counted_twice_while_slots_move_under_load(
    store: ClusterStore, redis_cluster: RedisCluster, moving: tuple[str, RedisServer, RedisServer]
) -> None:
    tag, source, target = moving
    slot = key_slot(b"tag")
    keys = [f"{tag}{number}" for number in range(20)]
    charged = dict.fromkeys(keys, 0)
    stopping = asyncio.Event()

    async def load() -> None:
        number = 0
        while not stopping.is_set():
            key = keys[number % len(keys)]
            assert (await store.take([Take(key, MANY, 1)]))[0].allowed
            charged[key] += 1
            number += 1

    async with asyncio.TaskGroup() as group:
        loads = [group.create_task(load()) for _ in range(5)]
        for begin, end in ((source, target), (target, source)):
            await asyncio.sleep(0.05)
            await asyncio.to_thread(redis_cluster.begin_migration, slot, begin, end)
            await asyncio.sleep(0.05)
            await asyncio.to_thread(redis_cluster.move_keys, slot, begin, end)
            await asyncio.sleep(0.05)
            await asyncio.to_thread(redis_cluster.end_migration, slot, begin, end)
        stopping.set()
    assert all(task.done() for task in loads)
    left = [(await store.take([Take(key, MANY, 0)]))[0].remaining for key in keys]
    assert left == [MANY.capacity - charged[key] for key in keys]
    assert sum(store.failures.values()) == 0


async def test_forgotten_scripts_are_sent_again_inside_the_call(
    store: ClusterStore, redis_cluster: RedisCluster
) -> None:
    keys = one_key_for_each_node(redis_cluster)
    for expected in (9, 8):
        for server in redis_cluster.servers:
            with server.client() as client:
                client.script_flush()
        taken = await store.take([Take(key, SLOW, 1) for key in keys])
        assert [one.remaining for one in taken] == [expected] * 3


async def test_a_node_that_is_full_stays_refused_until_it_may_write(redis_cluster: RedisCluster) -> None:
    """The probe takes from a key of the node: another would be answered with MOVED, and close the breaker."""
    async with running(redis_cluster) as nodes:
        store = cluster_store(nodes, failures=2)
        keys = one_key_for_each_node(redis_cluster)
        await asyncio.gather(*[store.take([Take(key, MANY, 1)]) for key in keys])
        with redis_cluster.owner(PREFIX + keys[0]).client() as full:
            full.config_set("maxmemory", 1)
            for _ in range(3):
                with pytest.raises(StoreError):
                    await store.take([Take(keys[0], MANY, 1)])
            await asyncio.sleep(0.5)  # probes happen
            assert (store.breaker.state, store.breaker.opened) == (CircuitState.OPEN, 1)
            full.config_set("maxmemory", 0)
        async with asyncio.timeout(30):
            while True:
                if store.breaker.state is CircuitState.CLOSED:
                    break
                await asyncio.sleep(0.01)
        assert (await store.take([Take(keys[0], MANY, 1)]))[0].allowed
        await store.close()


async def test_the_slots_are_found_from_any_node_that_the_settings_name(redis_cluster: RedisCluster) -> None:
    settings = redis_cluster.settings().model_copy(update={"url": "redis://127.0.0.1:1"})
    nodes = ClusterNodes(ClientMaker(settings))
    store = cluster_store(nodes)
    assert (await store.take([Take("k", SLOW, 1)]))[0].remaining == 9
    await store.close()
    await nodes.aclose()


async def test_a_cluster_that_cannot_be_reached_is_no_answer() -> None:
    settings = RedisCluster().settings(connect_timeout_ms=100)
    nodes = ClusterNodes(ClientMaker(settings))
    store = cluster_store(nodes, timeout_seconds=5.0)
    with pytest.raises(StoreError) as caught:
        await store.take([Take("k", SLOW, 1)])
    assert caught.value.failure is Failure.UNREACHABLE
    assert store.failures[Failure.UNREACHABLE] == 1
    await store.close()
    await nodes.aclose()


async def test_a_node_that_is_down_fails_its_own_keys_alone_until_its_replica_is_the_master() -> None:
    with RedisCluster(replicas=True) as topology:
        async with running(topology) as nodes:
            store = cluster_store(nodes, failures=2)
            keys = one_key_for_each_node(topology)
            await asyncio.gather(*[store.take([Take(key, MANY, 1)]) for key in keys])
            gone = topology.owner(PREFIX + keys[0])
            gone.stop()
            with pytest.raises(StoreError):
                await store.take([Take(keys[0], MANY, 1)])
            assert (await store.take([Take(keys[1], MANY, 1)]))[0].allowed
            async with asyncio.timeout(30):
                while True:
                    with suppress(StoreError):
                        taken = await store.take([Take(keys[0], MANY, 1)])
                        break
                    await asyncio.sleep(0.02)
            assert taken[0].allowed
            assert nodes.owner(key_slot(f"{PREFIX}{keys[0]}".encode())) != ("127.0.0.1", gone.port)
            failures, opened = store.failures, store.breaker.opened
            async with asyncio.timeout(30):
                while True:
                    if ("127.0.0.1", gone.port) not in store._nodes:
                        break
                    await asyncio.sleep(0.05)
            assert store.breaker.state is CircuitState.CLOSED  # a gauge would stay at open forever
            assert (store.failures, store.breaker.opened) == (failures, opened)
            await store.close()
