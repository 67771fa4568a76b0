"""What credentials need of the process around them."""

from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from authz.credentials.core.metrics import CredentialMetrics
from authz.credentials.introspection.client import Poster
from authz.credentials.introspection.config import IntrospectionConfig
from authz.credentials.jwt.fetch import Fetch
from common.circuit_breaker import Breaker


@dataclass(frozen=True, slots=True)
class World:
    """What credentials need of the process around them."""

    fetch: Fetch
    poster: Callable[[IntrospectionConfig], Poster]
    wall_clock: Callable[[], float]
    monotonic_clock: Callable[[], float]
    random: Callable[[], float]
    redis: Redis | None
    random_bytes: Callable[[int], bytes]
    metrics: CredentialMetrics
    redis_breaker: Breaker
    """Shared by all that ask Redis: once one finds that it hangs, the others need not wait."""
