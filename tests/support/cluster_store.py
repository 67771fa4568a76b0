"""A store in a Redis Cluster, for tests."""

import time
from functools import partial

from common.circuit_breaker import CircuitBreaker
from common.redis_cluster import Cluster
from ratelimit.stores.cluster import ClusterStore
from ratelimit.stores.redis import RedisStore

PREFIX = "t:"


def cluster_store(
    cluster: Cluster, *, timeout_seconds: float = 10.0, failures: int = 5, prefix: str = PREFIX
) -> ClusterStore:
    """Return a store whose keys begin with `prefix`."""
    make_store = partial(RedisStore, prefix=prefix, timeout_seconds=timeout_seconds)

    def make_breaker(_: object) -> CircuitBreaker:
        return CircuitBreaker(time.monotonic, lambda: 0.0, failures)

    return ClusterStore(cluster, make_store, make_breaker, prefix=prefix, timeout_seconds=timeout_seconds)
