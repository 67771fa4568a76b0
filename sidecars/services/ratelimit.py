"""The ratelimit sidecar: `envoy.service.ratelimit.v3.RateLimitService` over the library `ratelimit`."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import structlog
from google.protobuf.message import DecodeError

from configfile import ConfigError, Problem
from ratelimit.buckets import SECOND_US
from ratelimit.config import load_limits
from ratelimit.decision import Decision, Plan
from ratelimit.limiter import Limiter
from ratelimit.recent import Recent
from ratelimit.request import RequestError, UnconfiguredError
from ratelimit.stats import Stats
from ratelimit.stores.breaker import Breaker, BreakerState
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.metrics import StoreCollector
from ratelimit.stores.redis import RedisStore
from sidecars.runtime.settings.ratelimit import RatelimitSettings
from sidecars.runtime.sidecar import Surroundings
from sidecars.services.ratelimit_wire import Responses, read_request
from sidecars.transport.service import Call, Code, Service, StatusError, Unary

ANSWER_SECONDS: Final = 0.002
"""Kept back of the caller's deadline: to fall back and answer while it still listens."""

PLANS_REMEMBERED: Final = 4_096
"""Clients come again within moments, with the same bytes. About 20 MB; 40 MB of the longest."""

MAX_REMEMBERED_BYTES: Final = 1_024
"""Of one request. Longer ones are rare, and not worth their room."""

_log = structlog.get_logger("sidecars.ratelimit")


class RatelimitSidecar:
    """Answers Envoy's rate limit requests. Made by `build`."""

    name = "ratelimit"

    def __init__(
        self,
        settings: RatelimitSettings,
        limiter: Limiter,
        memory: MemoryStore,
        redis: RedisStore | None,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._limiter = limiter
        self._memory = memory
        self._redis = redis
        self._clock = clock
        self._responses = Responses(settings)
        self._plans: Recent[bytes, Plan] = Recent(PLANS_REMEMBERED)
        self.services: Sequence[Service] = (
            Service(
                "envoy.service.ratelimit.v3.RateLimitService",
                {"ShouldRateLimit": Unary(self.should_rate_limit)},
            ),
        )

    def should_rate_limit(self, message: bytes, call: Call) -> bytes | Awaitable[bytes]:
        """The RateLimitResponse to a RateLimitRequest; awaitable where Redis must be asked.

        Raises StatusError: INVALID_ARGUMENT for what is no such request or lacks what every request needs
        (UNKNOWN in envoyproxy/ratelimit), UNAVAILABLE while no limits are loaded.
        """
        plan = self._plans.get(message) or self._plan(message)
        decision = self._limiter.decide(plan, self._budget_seconds(call))
        if isinstance(decision, Decision):
            return self._responses.encode(decision)
        return self._respond_later(decision)

    async def _respond_later(self, pending: Awaitable[Decision]) -> bytes:
        return self._responses.encode(await pending)

    def _plan(self, message: bytes) -> Plan:
        try:
            plan = self._limiter.plan(read_request(message))
        except DecodeError:
            raise self._refused(Code.INVALID_ARGUMENT, "the message is no RateLimitRequest") from None
        except RequestError as error:
            raise self._refused(Code.INVALID_ARGUMENT, str(error)) from None
        except UnconfiguredError as error:
            raise self._refused(Code.UNAVAILABLE, str(error)) from None
        if len(message) <= MAX_REMEMBERED_BYTES:
            self._plans.put(message, plan)
        return plan

    def _refused(self, code: Code, text: str) -> StatusError:
        stats = self._limiter.stats
        stats.requests += 1
        stats.errors["service_error"] += 1
        return StatusError(code, text)

    def _budget_seconds(self, call: Call) -> float | None:
        if self._redis is None or call.deadline is None:
            return None
        return call.deadline - self._clock() - ANSWER_SECONDS

    @property
    def watched_files(self) -> Sequence[Path]:
        """The limit files and folders."""
        return self._settings.limits

    async def start(self) -> None:
        """Nothing waits outside: Redis is asked when the first request comes, and may be away."""

    def prepare(self) -> Callable[[], None]:
        """Read and compile the limits again; may run in a thread. Raises ConfigError."""
        try:
            limits = load_limits(self._settings.limits, self._settings.options)
        except ConfigError:
            self._limiter.stats.failed_loads += 1
            raise

        def swap() -> None:
            self._limiter.use(limits)
            self._plans.clear()

        return swap

    def describe(self) -> dict[str, Any]:
        """The revision, the rules, and the state of the store."""
        limits = self._limiter.limits
        described: dict[str, Any] = {
            "revision": limits.revision,
            "domains": sorted(limits.domains),
            "rules": len(limits.rules),
            "store": self._settings.store,
            "buckets_in_memory": len(self._memory),
        }
        if self._redis is not None:
            described["breaker"] = self._redis.breaker.state.name.lower()
        return described

    async def finish_streams(self) -> None:
        """Nothing: every call is unary."""

    async def stop(self) -> None:
        """End the calls to Redis that are still under way."""
        if self._redis is not None:
            await self._redis.close()


def build(settings: RatelimitSettings, surroundings: Surroundings) -> RatelimitSidecar:
    """The sidecar, its limits read and compiled. Raises ConfigError with every problem."""
    problems: list[Problem] = []
    try:
        limits = load_limits(settings.limits, settings.options)
    except ConfigError as error:
        problems += error.problems
    if settings.store == "redis" and surroundings.redis is None:
        text = "store: redis needs the section redis with the url of a Redis"
        problems.append(Problem("settings", 0, "ratelimit.store", text))
    if problems:
        raise ConfigError(problems)
    wall_clock = surroundings.wall_clock
    memory = MemoryStore(lambda: int(wall_clock() * SECOND_US), settings.max_buckets)
    redis = _redis_store(settings, surroundings)
    stats = Stats(settings.max_metric_keys)
    limiter = Limiter(
        limits,
        redis or memory,
        memory,
        stats,
        near_limit_ratio=settings.near_limit_ratio,
        shadow_mode=settings.shadow_mode,
    )
    surroundings.registry.register(stats)
    surroundings.registry.register(StoreCollector(memory, redis))
    return RatelimitSidecar(settings, limiter, memory, redis, surroundings.monotonic_clock)


def _redis_store(settings: RatelimitSettings, surroundings: Surroundings) -> RedisStore | None:
    if settings.store != "redis" or surroundings.redis is None:
        return None
    breaker = Breaker(
        surroundings.monotonic_clock,
        surroundings.random,
        settings.breaker.failures,
        settings.breaker.open_seconds,
        _log_breaker,
    )
    return RedisStore(
        surroundings.redis,
        breaker,
        prefix=settings.redis_prefix,
        timeout_seconds=settings.redis_timeout_ms / 1000,
        max_waiting=settings.redis_max_waiting,
    )


def _log_breaker(state: BreakerState) -> None:
    if state is BreakerState.CLOSED:
        _log.info("redis answers again")
    else:
        _log.warning("redis does not answer, rules follow their on_failure", breaker=state.name.lower())
