"""Prometheus metrics of the stores."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ratelimit.deny_cache import DenyCache
from ratelimit.leases.leases import Leases
from ratelimit.stores.memory import MemoryStore

if TYPE_CHECKING:  # else limits in memory would load redis-py, 10 MB
    from ratelimit.stores.cluster import ClusterStore
    from ratelimit.stores.redis import RedisStore


class StoreCollector(Collector):
    """Buckets and evictions in memory; failures, waiting requests and the breaker of each Redis."""

    def __init__(
        self,
        memory: MemoryStore,
        redis: "RedisStore | ClusterStore | None",
        per_second: "RedisStore | ClusterStore | None" = None,
        deny_cache: DenyCache | None = None,
        leases: Leases | None = None,
    ) -> None:
        self._memory = memory
        self._stores = {"ratelimit_redis": redis, "ratelimit_redis_per_second": per_second}
        self._deny_cache = deny_cache
        self._leases = leases

    def collect(self) -> Iterator[Metric]:
        """The current metrics."""
        yield GaugeMetricFamily(
            "ratelimit_memory_buckets", "Buckets in this process.", value=len(self._memory)
        )
        yield CounterMetricFamily(
            "ratelimit_memory_buckets_evicted",
            "Buckets dropped for want of room although something was charged.",
            value=self._memory.evicted,
        )
        for prefix, store in self._stores.items():
            if store is not None:
                yield from _of_redis(prefix, store)
        if self._deny_cache is not None:
            yield CounterMetricFamily(
                "ratelimit_deny_cache_hits",
                "Requests refused without asking Redis.",
                value=self._deny_cache.hits,
            )
            yield GaugeMetricFamily(
                "ratelimit_deny_cache_entries", "Buckets known to refuse.", value=len(self._deny_cache)
            )
        if self._leases is not None:
            yield from _of_leases(self._leases)


def _of_leases(leases: Leases) -> Iterator[Metric]:
    yield GaugeMetricFamily("ratelimit_leases", "Keys with a lease.", value=len(leases))
    yield GaugeMetricFamily(
        "ratelimit_lease_tokens_out",
        "Tokens charged in Redis in advance, and neither handed out nor back.",
        value=leases.tokens_out,
    )
    yield CounterMetricFamily(
        "ratelimit_lease_decisions", "Requests answered from leases alone.", value=leases.answered
    )
    tokens = CounterMetricFamily("ratelimit_lease_tokens", "Tokens of leases.", labels=["event"])
    for event in ("taken", "returned", "lost"):
        tokens.add_metric([event], getattr(leases, event))
    yield tokens


def _of_redis(prefix: str, store: "RedisStore | ClusterStore") -> Iterator[Metric]:
    failures = CounterMetricFamily(
        f"{prefix}_failures", "Requests that Redis gave no answer to.", labels=["reason"]
    )
    for reason, times in store.failures.items():
        failures.add_metric([reason.value], times)
    yield failures
    yield GaugeMetricFamily(f"{prefix}_queue_length", "Requests not sent yet.", value=store.waiting)
    breaker = store.breaker
    yield GaugeMetricFamily(f"{prefix}_breaker_state", "0 closed, 1 half open, 2 open.", value=breaker.state)
    yield CounterMetricFamily(f"{prefix}_breaker_opened", "Times the breaker opened.", value=breaker.opened)
