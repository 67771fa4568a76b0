"""The report of the sidecars about an unsuitable Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common.tasks import cancel_and_wait
from sidecars.process import redis_fitness
from sidecars.process.redis import ClientMaker, connect, describe
from sidecars.process.redis_cluster import RedisCluster as ClusterNodes
from sidecars.process.redis_fitness import RedisFitness, ServerFacts
from sidecars.process.redis_in_use import RedisInUse
from sidecars.settings.redis import RedisSettings
from tests.ratelimit.test_redis_refusals import a_cluster_node, a_replica, sentinel
from tests.support.redis_server import RedisServer, redis_server
from tests.support.redis_topologies import RedisCluster, _session_cluster, redis_cluster
from tests.support.waiting import until

__all__ = ["_session_cluster", "redis_cluster", "redis_server"]

pytestmark = pytest.mark.redis

GOOD = ServerFacts("7.2.4", "standalone", "master", 0, "noeviction")


@asynccontextmanager
async def asked(url: str) -> AsyncIterator[RedisFitness]:
    client = connect(RedisSettings(url=url, operation_timeout_ms=5000, connect_timeout_ms=5000))
    fitness = RedisFitness(client)
    async with asyncio.timeout(30):
        while True:
            if await fitness.check():
                break
            await asyncio.sleep(0.1)
    yield fitness
    await client.aclose()


async def test_a_plain_server_fits(redis_server: RedisServer) -> None:
    async with asked(redis_server.url) as fitness:
        assert fitness.misfits == ()
        assert fitness.facts is not None
        assert (fitness.facts.mode, fitness.facts.role) == ("standalone", "master")


async def test_a_replica_does_not() -> None:
    with a_replica() as url:
        async with asked(url) as fitness:
            [problem] = fitness.misfits
            assert "replica" in problem


async def test_a_cluster_node_does_not() -> None:
    with a_cluster_node() as url:
        async with asked(url) as fitness:
            [problem] = fitness.misfits
            assert "CROSSSLOT" in problem


async def test_the_nodes_of_a_cluster_are_checked_each(redis_cluster: RedisCluster) -> None:
    """One that evicts keys starts their limits afresh."""
    evicting = redis_cluster.servers[1]
    with evicting.client() as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        in_use = RedisInUse(ClusterNodes(ClientMaker(redis_cluster.settings())), "redis")
        with capture_logs() as logs:
            work = [asyncio.create_task(one) for one in in_use.background()]
            await until(lambda: bool(in_use.describe()["misfits"]))
            for task in work:
                await cancel_and_wait(task)
        await in_use.aclose()
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "noeviction")
    [(node, [problem])] = in_use.describe()["misfits"].items()
    assert node == f"127.0.0.1:{evicting.port}"
    assert "allkeys-lru" in problem
    assert [line["node"] for line in logs if line["event"] == "redis does not fit"] == [node]


async def test_a_sentinel_does_not(tmp_path: Path) -> None:
    with sentinel(tmp_path) as url:
        async with asked(url) as fitness:
            [problem] = fitness.misfits
            assert "Sentinel" in problem


async def test_a_server_that_evicts_does_not_and_the_log_says_so_once() -> None:
    arguments = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with RedisServer(arguments=arguments) as server, capture_logs() as logs:
        async with asked(server.url) as fitness:
            await fitness.check()
            [problem] = fitness.misfits
    assert problem.startswith("maxmemory-policy is allkeys-lru")
    assert [line["event"] for line in logs] == ["redis does not fit"]
    assert logs[0]["problems"] == [problem]


@pytest.mark.parametrize(
    ("facts", "count"),
    [
        (GOOD, 0),
        (ServerFacts("6.0", "standalone", "master", 0, "allkeys-lru"), 0),  # no limit: nothing is evicted
        (ServerFacts("6.0", "standalone", "master", 1, "volatile-ttl"), 1),
        (ServerFacts("4.0.14", "standalone", "master", 0, "noeviction"), 1),
        (ServerFacts("", "", "", 0, ""), 0),
    ],
)
def test_only_what_does_harm_is_reported(facts: ServerFacts, count: int) -> None:
    assert len(list(facts.misfits())) == count


async def test_a_user_that_may_not_ask_is_not_a_misfit(redis_server: RedisServer) -> None:
    with redis_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "default", "-info")
    with capture_logs() as logs:
        async with asked(redis_server.url) as fitness:
            assert fitness.describe() == {"server": None, "misfits": []}
    assert "NOPERM" in logs[0]["error"]


async def test_a_user_that_may_ask_after_all_learns_what_it_is(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without other requests: `/config` must not report the refusal forever."""
    for name in ("CHECK_SECONDS", "REFUSED_SECONDS"):
        monkeypatch.setattr(redis_fitness, name, 0.02)
    client = connect(RedisSettings(url=redis_server.url))
    fitness = RedisFitness(client)
    with redis_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "default", "-info")
        running = asyncio.create_task(fitness.run())
        try:
            await until(lambda: describe(client)["state"] == "refuses")
            admin.execute_command("ACL", "SETUSER", "default", "+info")
            await until(lambda: describe(client)["state"] == "connected" and fitness.facts is not None)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await client.aclose()


async def test_a_redis_that_is_back_is_found_and_asked_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any request: `/config` must not report Redis as away forever."""
    monkeypatch.setattr(redis_fitness, "CHECK_SECONDS", 0.02)
    client = connect(RedisSettings(url=redis_server.url))
    fitness = RedisFitness(client)
    redis_server.stop()
    running = asyncio.create_task(fitness.run())
    try:
        async with asyncio.timeout(30):
            for start, state in ((False, "away"), (True, "connected")):
                if start:
                    redis_server.start()
                while True:
                    if describe(client)["state"] == state and (fitness.facts is not None) == start:
                        break
                    await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.aclose()
