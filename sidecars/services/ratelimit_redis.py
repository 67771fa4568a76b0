"""The stores of the ratelimit sidecar that are in Redis."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from uuid import uuid4

import structlog
from redis.asyncio import Redis

from common.circuit_breaker import CircuitBreaker, CircuitState
from common.redis_cluster import Cluster, NodeAddress
from common.tasks import cancel_and_wait
from ratelimit.bans import Bans
from ratelimit.leases.leases import Leases
from ratelimit.leases.returns import LeaseReturns
from ratelimit.stores.ban_stream import BanStream
from ratelimit.stores.cluster import ClusterStore
from ratelimit.stores.heartbeat import Heartbeat, beat_script
from ratelimit.stores.redis import RedisStore
from ratelimit.stores.split import SplitStore
from ratelimit.stores.store import Failure, Store
from sidecars.services.sidecar import Dependencies
from sidecars.settings.ratelimit import RatelimitSettings

REFUSAL_LOG_SECONDS: Final = 60.0
"""Time between two log lines about requests that Redis refuses: clients choose how often they come."""

_log = structlog.get_logger("sidecars.ratelimit")


class SharedStores:
    """Where several sidecars count together: `store` serves requests with `redis` and `per_second`.

    `heartbeat` counts the sidecars; without it they are as many as `replicas`.
    """

    def __init__(
        self,
        redis: RedisStore | ClusterStore,
        per_second: RedisStore | ClusterStore | None,
        store: Store,
        refusals: "RefusalLog",
        heartbeat: Heartbeat | None,
        replicas: int | None,
        share: Callable[[Bans, int, Callable[[], bool]], BanStream],
        leases: Leases | None = None,
    ) -> None:
        self.redis = redis
        self.per_second = per_second
        """The store of short windows, if they have one of their own."""
        self.store = store
        self.heartbeat = heartbeat
        self._refusals = refusals
        self.leases = leases
        self._returns = None if leases is None else LeaseReturns(leases, store)
        self._replicas = replicas
        self._running: list[asyncio.Task[None]] = []
        self._share = share
        self._stream: BanStream | None = None

    def share_bans(self, bans: Bans, most: int, wanted: Callable[[], bool]) -> None:
        """Share `bans`, at most `most`, with the other sidecars, while they are `wanted`."""
        self._stream = bans.listener = self._share(bans, most, wanted)

    def start(self) -> None:
        """Begin to count the sidecars. Redis is called by the first request, and may be away."""
        if self.heartbeat is not None:
            self._running.append(asyncio.create_task(self.heartbeat.run(), name="heartbeat"))
        if self._returns is not None:
            self._running.append(asyncio.create_task(self._returns.run(), name="return leases"))
        if self._stream is not None:
            self._running.append(asyncio.create_task(self._stream.run(), name="ban stream"))

    def describe(self) -> dict[str, Any]:
        """The state for `/config`."""
        breaker, counted = self.redis.breaker, self.heartbeat
        described: dict[str, Any] = {
            "breaker": breaker.state.name.lower(),
            "breaker_cause": breaker.cause or None,
            "last_refusal": self._refusals.describe(),
            "replicas": self._replicas if counted is None else counted.replicas,
        }
        if self.per_second is not None:
            breaker = self.per_second.breaker
            described["breaker_per_second"] = breaker.state.name.lower()
            described["breaker_per_second_cause"] = breaker.cause or None
        return described

    async def close(self) -> None:
        """Return what is leased, and end the calls that are still under way."""
        await cancel_and_wait(*self._running)
        if self._returns is not None:
            await self._returns.close()
        if self.heartbeat is not None and self._running:
            await self.heartbeat.leave()
        await self.store.close()


def shared_stores(settings: RatelimitSettings, dependencies: Dependencies) -> SharedStores | None:
    """The stores of `settings`; None without a client."""
    if dependencies.redis is None:
        return None
    refusals = RefusalLog(dependencies.monotonic_clock, dependencies.wall_clock)
    redis = _redis_store(settings, dependencies, dependencies.redis, refusals, "redis")
    store: Store = redis
    per_second = None
    if dependencies.redis_per_second is not None:
        client = dependencies.redis_per_second
        per_second = _redis_store(settings, dependencies, client, refusals, "redis_per_second")
        store = SplitStore(redis, per_second, settings.redis_timeout_ms / 1000)
    heartbeat = _heartbeat(settings, dependencies, dependencies.redis)
    share = partial(_ban_stream, dependencies.redis, settings.redis_prefix)
    leases = _leases(settings, dependencies, heartbeat)
    return SharedStores(redis, per_second, store, refusals, heartbeat, settings.replicas, share, leases)


def _ban_stream(
    client: Redis | Cluster, prefix: str, bans: Bans, most: int, wanted: Callable[[], bool]
) -> BanStream:
    return BanStream(
        beat_script(client),
        prefix,
        bans,
        most,
        wanted=wanted,
        failed=lambda error: _log.warning("bans are not shared", error=error),
    )


def _leases(settings: RatelimitSettings, dependencies: Dependencies, heartbeat: Heartbeat | None) -> Leases:
    leases = settings.leases
    return Leases(
        dependencies.monotonic_clock,
        seconds=leases.seconds,
        share=leases.share,
        max_keys=leases.max_keys,
        replicas=lambda: (settings.replicas or 1) if heartbeat is None else heartbeat.replicas,
    )


def _heartbeat(
    settings: RatelimitSettings, dependencies: Dependencies, client: Redis | Cluster
) -> Heartbeat | None:
    if settings.replicas is not None:
        return None
    return Heartbeat(
        beat_script(client),
        settings.redis_prefix,
        str(uuid4()),
        unknown=dependencies.workers,
        failed=lambda error: _log.warning("sidecars cannot be counted", error=error),
    )


class RefusalLog:
    """The errors that Redis answered: keeps the last for `/config`, and logs one now and then."""

    def __init__(self, monotonic_clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._monotonic_clock = monotonic_clock
        self._wall_clock = wall_clock
        self._last: tuple[str, float] | None = None
        self._quiet_until = 0.0

    def note(self, text: str) -> None:
        """Keep `text`; log it unless another was logged within REFUSAL_LOG_SECONDS."""
        self._last = text, self._wall_clock()
        now = self._monotonic_clock()
        if now >= self._quiet_until:
            self._quiet_until = now + REFUSAL_LOG_SECONDS
            _log.warning("redis refuses a request, its rules follow their on_failure", error=text)

    def describe(self) -> dict[str, Any] | None:
        """The last error and its time; None if there was none."""
        if self._last is None:
            return None
        text, at = self._last
        return {"error": text, "at": datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")}


def _redis_store(
    settings: RatelimitSettings,
    dependencies: Dependencies,
    client: Redis | Cluster,
    refusals: RefusalLog,
    section: str,
) -> RedisStore | ClusterStore:

    def make_breaker(node: NodeAddress | None = None) -> CircuitBreaker:
        breaker = CircuitBreaker(
            dependencies.monotonic_clock,
            dependencies.random,
            settings.breaker.failures,
            settings.breaker.open_seconds,
            lambda state: _log_breaker(state, breaker.cause, section, node),
        )
        return breaker

    timeout_seconds = settings.redis_timeout_ms / 1000

    make_store = partial(
        RedisStore,
        prefix=settings.redis_prefix,
        timeout_seconds=timeout_seconds,
        max_waiting=settings.redis_max_waiting,
        refused=refusals.note,
    )
    if isinstance(client, Redis):
        return make_store(client, make_breaker())
    return ClusterStore(
        client, make_store, make_breaker, prefix=settings.redis_prefix, timeout_seconds=timeout_seconds
    )


def _log_breaker(state: CircuitState, cause: str, section: str, node: NodeAddress | None) -> None:
    log = _log if section == "redis" else _log.bind(section=section)
    if node is not None:
        log = log.bind(node=f"{node[0]}:{node[1]}")
    if state is CircuitState.CLOSED:
        log.info("redis answers again")
        return
    # A refusal may last: the operator has to change something there.
    what = "redis refuses" if cause.startswith(Failure.REFUSED) else "redis does not answer"
    event = f"{what}, rules follow their on_failure"
    log.warning(event, breaker=state.name.lower(), cause=cause)
