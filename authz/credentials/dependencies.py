"""The clocks, clients and random source that the process passes to the credentials."""

from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from authz.credentials.core.metrics import CredentialMetrics
from authz.credentials.introspection.client import IntrospectionClient
from authz.credentials.introspection.config import IntrospectionConfig
from authz.credentials.jwt.fetch import Fetch
from common.circuit_breaker import CircuitBreaker


@dataclass(frozen=True, slots=True)
class CredentialDependencies:
    """The clocks, clients and random source that the process passes to the credentials."""

    fetch: Fetch
    introspection_client: Callable[[IntrospectionConfig], IntrospectionClient]
    wall_clock: Callable[[], float]
    monotonic_clock: Callable[[], float]
    random: Callable[[], float]
    redis: Redis | None
    random_bytes: Callable[[int], bytes]
    metrics: CredentialMetrics
    redis_breaker: CircuitBreaker
    """Shared by everything that calls Redis: once one call finds that it hangs, the others do not wait."""
