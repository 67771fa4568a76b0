"""One Redis of a running process: what runs in the background, and what `/config` shows."""

from collections.abc import Coroutine, Iterator
from typing import Any

from redis.asyncio import Redis

from common.redis_cluster import Cluster
from sidecars.process.redis import describe, watch
from sidecars.process.redis_cluster import RedisCluster
from sidecars.process.redis_fitness import RedisFitness


class RedisInUse:
    """A server, a master that Sentinels name, or a cluster. `section` of the settings names it."""

    def __init__(self, client: Redis | Cluster, section: str) -> None:
        self._client = client
        self._fitness = RedisFitness(client, section) if isinstance(client, Redis) else None

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

    def describe(self) -> dict[str, Any]:
        """The state of the connections, and of the server."""
        if isinstance(self._client, RedisCluster):
            return self._client.describe()
        if isinstance(self._client, Redis) and self._fitness is not None:
            return {**describe(self._client), **self._fitness.describe()}
        return {}

    async def aclose(self) -> None:
        """Close the connections."""
        if isinstance(self._client, Redis | RedisCluster):
            await self._client.aclose()
