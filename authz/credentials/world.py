"""What credentials need of the process around them."""

from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from authz.credentials.fetch import Fetch
from authz.credentials.metrics import CredentialMetrics
from authz.credentials.post import Poster
from authz.credentials.settings.introspection import IntrospectionConfig
from ratelimit.stores.breaker import Breaker


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
