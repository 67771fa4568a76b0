"""Fixtures of the rate limit tests."""

from tests.support.redis_server import _session_redis, redis_server, shared_redis

__all__ = ["_session_redis", "redis_server", "shared_redis"]
