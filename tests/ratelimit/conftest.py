"""Fixtures of the rate limit tests."""

from tests.support.redis_server import _session_redis, redis_server, shared_redis
from tests.support.redis_topologies import (
    _session_cluster,
    _session_sentinels,
    redis_cluster,
    sentinels,
    shared_sentinels,
)

__all__ = [
    "_session_cluster",
    "_session_redis",
    "_session_sentinels",
    "redis_cluster",
    "redis_server",
    "sentinels",
    "shared_redis",
    "shared_sentinels",
]
