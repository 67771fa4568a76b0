"""Sidecars that count themselves in Redis, so that each grants its share while Redis is away."""

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ratelimit.stores.heartbeat import ALIVE_SECONDS, BEAT_SECONDS, Heartbeat, beat_script
from sidecars.process.redis import ClientMaker
from sidecars.process.redis_cluster import RedisCluster as ClusterNodes
from tests.support.redis_server import RedisServer
from tests.support.redis_topologies import RedisCluster

pytestmark = pytest.mark.redis


def heartbeats(client: Redis | ClusterNodes, *names: str) -> list[Heartbeat]:
    return [Heartbeat(beat_script(client), "t:", name, unknown=4) for name in names]


async def test_each_counts_all_that_are_there(shared_redis: RedisServer) -> None:
    async with Redis.from_url(shared_redis.url) as client:
        all_three = heartbeats(client, "a", "b", "c")
        for _ in range(2):
            for one in all_three:
                await one.beat()
        assert [one.replicas for one in all_three] == [3, 3, 3]


async def test_one_that_leaves_counts_no_longer(shared_redis: RedisServer) -> None:
    async with Redis.from_url(shared_redis.url) as client:
        first, second = heartbeats(client, "a", "b")
        await second.beat()
        await first.beat()
        assert first.replicas == 2
        await second.leave()
        [later] = heartbeats(client, "a")
        await later.beat()
        assert later.replicas == 1


async def test_one_that_dies_counts_until_its_time_is_over(shared_redis: RedisServer) -> None:
    async with Redis.from_url(shared_redis.url) as client:
        first, second = heartbeats(client, "a", "b")
        await second.beat()
        with shared_redis.client() as plain:
            [(_, until)] = plain.zrange("t:sidecars", 0, -1, withscores=True)
            seconds, _ = plain.time()
            assert until / 1000 == pytest.approx(seconds + ALIVE_SECONDS, abs=5)
            plain.zadd("t:sidecars", {"b": seconds * 1000 - 1})
        await first.beat()
        assert first.replicas == 1


async def test_a_redis_that_forgot_the_others_is_not_believed_at_once(shared_redis: RedisServer) -> None:
    """After a restart it knows of few, and may be gone again before they have told it."""
    async with Redis.from_url(shared_redis.url) as client:
        first, second = heartbeats(client, "a", "b")
        await second.beat()
        await first.beat()
        with shared_redis.client() as plain:
            plain.flushall()
        for _ in range(round(ALIVE_SECONDS / BEAT_SECONDS) - 1):
            await first.beat()
            assert first.replicas == 2
        await first.beat()
        assert first.replicas == 1


async def test_while_redis_is_away_the_last_count_holds(redis_server: RedisServer) -> None:
    failures: list[str] = []
    async with Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), 0)) as client:
        first, second = heartbeats(client, "a", "b")
        first._failed = failures.append
        assert first.replicas == 4  # unknown as yet
        await second.beat()
        await first.beat()
        redis_server.stop()
        for _ in range(3):
            await first.beat()
        await first.leave()
        assert first.replicas == 2
        assert len(failures) == 1


async def test_nodes_of_a_cluster_count_them_too(redis_cluster: RedisCluster) -> None:
    nodes = ClusterNodes(ClientMaker(redis_cluster.settings()))
    first, second = heartbeats(nodes, "a", "b")
    await second.beat()
    await first.beat()
    assert first.replicas == 2
    await nodes.aclose()
