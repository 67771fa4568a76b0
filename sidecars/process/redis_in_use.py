"""One Redis of a running process: what runs in the background, and what `/config` shows."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from redis.asyncio import Redis

from common.redis_cluster import Cluster, NodeAddress
from common.tasks import cancel_and_wait
from sidecars.process.redis import describe, watch
from sidecars.process.redis_cluster import RedisCluster
from sidecars.process.redis_fitness import RedisFitness

NODES_SECONDS: Final = 5.0
"""The time between two looks for new nodes of a cluster, whose fitness is checked once they are known."""


class RedisInUse:
    """A server, a master that Sentinels name, or a cluster. `section` of the settings names it."""

    def __init__(self, client: Redis | Cluster, section: str) -> None:
        self._client = client
        self._section = section
        self._fitness = RedisFitness(client, section) if isinstance(client, Redis) else None
        self._nodes: dict[NodeAddress, RedisFitness] = {}

    def background(self) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield what must run as long as the process does."""
        if self._fitness is not None:
            yield self._fitness.run()
        if isinstance(self._client, Redis):
            work = watch(self._client)
            if work is not None:
                yield work
        elif isinstance(self._client, RedisCluster):
            yield self._client.run()
            yield self._check_nodes(self._client)

    def describe(self) -> dict[str, Any]:
        """The state of the connections, and of the server."""
        if isinstance(self._client, RedisCluster):
            nodes = self._nodes.items()
            misfits = {f"{host}:{port}": list(node.misfits) for (host, port), node in nodes if node.misfits}
            return {**self._client.describe(), "misfits": misfits}
        if isinstance(self._client, Redis) and self._fitness is not None:
            return {**describe(self._client), **self._fitness.describe()}
        return {}

    async def aclose(self) -> None:
        """Close the connections."""
        if isinstance(self._client, Redis | RedisCluster):
            await self._client.aclose()

    async def _check_nodes(self, cluster: RedisCluster) -> None:
        """Check the fitness of each master, from when it is known until it has no slots."""
        checks: dict[NodeAddress, asyncio.Task[None]] = {}
        try:
            while True:
                for address in cluster.masters - checks.keys():
                    fitness = RedisFitness(
                        cluster.client(address), self._section, f"{address[0]}:{address[1]}"
                    )
                    self._nodes[address] = fitness
                    checks[address] = asyncio.create_task(fitness.run(), name="redis fitness")
                for address in checks.keys() - cluster.masters:
                    del self._nodes[address]
                    await cancel_and_wait(checks.pop(address))
                await asyncio.sleep(NODES_SECONDS if checks else 0.1)
        finally:
            await cancel_and_wait(*checks.values())
