"""The ratelimit sidecar: `envoy.service.ratelimit.v3.RateLimitService` over the library `ratelimit`."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import orjson
import structlog
from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from common.buckets import SECOND_US
from common.circuit_breaker import CircuitBreaker, CircuitState
from common.configfile import SETTINGS, ConfigError, Problem
from common.redis_cluster import NodeAddress
from common.tasks import cancel_and_wait
from ratelimit.config import check_reload, load_limits
from ratelimit.decision import LimitPlan
from ratelimit.deny_cache import DenyCache
from ratelimit.files import FolderFiles, hidden_files
from ratelimit.limiter import Limiter
from ratelimit.listing import described, limits_data
from ratelimit.plan import Modes
from ratelimit.request import BadInput, RequestError, UnconfiguredError
from ratelimit.rules import CompiledLimits
from ratelimit.stats import Stats
from ratelimit.stores.cluster import ClusterStore
from ratelimit.stores.heartbeat import Heartbeat, beat_script
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.metrics import StoreCollector
from ratelimit.stores.redis import RedisStore, ScriptClient
from ratelimit.stores.split import SplitStore
from ratelimit.stores.store import Failure, Take
from ratelimit.wire import ResponseHeaders, Responses
from sidecars.admin.routes import AdminAnswer, AdminRequest, AdminRoute
from sidecars.services.ratelimit_explain import answer_explain
from sidecars.services.ratelimit_json import answer_json
from sidecars.services.ratelimit_unmatched import UnmatchedLog
from sidecars.services.sidecar import Dependencies
from sidecars.settings.ratelimit import RatelimitSettings
from sidecars.transport.api.address import Address
from sidecars.transport.api.service import Call, Code, Service, StatusError, Unary

ANSWER_SECONDS: Final = 0.002
"""Reserved of the caller's deadline: to fall back and answer in time."""

REFUSAL_LOG_SECONDS: Final = 60.0
"""Time between two log lines about requests that Redis refuses: clients choose how often they come."""

UNMATCHED_SHOWN: Final = 10
"""The most frequent shapes without a limit that `/config` lists."""

_log = structlog.get_logger("sidecars.ratelimit")


class RatelimitSidecar:
    """Answers Envoy's rate limit requests. Made by `build`."""

    name = "ratelimit"

    def __init__(
        self,
        settings: RatelimitSettings,
        limiter: Limiter,
        memory: MemoryStore,
        redis: RedisStore | ClusterStore | None,
        per_second: RedisStore | ClusterStore | None,
        refusals: "RefusalLog",
        clock: Callable[[], float],
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._heartbeat = heartbeat
        self._beating: asyncio.Task[None] | None = None
        self._settings = settings
        self._limiter = limiter
        self._memory = memory
        self._redis = redis
        self._per_second = per_second
        self._refusals = refusals
        self._clock = clock
        self._responses = _responses(settings)
        self.services: Sequence[Service] = (
            Service(
                "envoy.service.ratelimit.v3.RateLimitService",
                {"ShouldRateLimit": Unary(self.should_rate_limit)},
            ),
        )

    def should_rate_limit(self, message: bytes, call: Call) -> bytes | Awaitable[bytes]:
        """The RateLimitResponse to a RateLimitRequest; awaitable where Redis must be asked.

        Raises StatusError: INVALID_ARGUMENT for bytes that are not a request or lack what each needs
        (UNKNOWN in envoyproxy/ratelimit), UNAVAILABLE while no limits are loaded.
        """
        plan = self._plan(message)
        return self._limiter.answer(plan, self._responses.encode, self._budget_seconds(call))

    def _plan(self, message: bytes) -> LimitPlan:
        try:
            return self._limiter.plan_message(message)
        except DecodeError:
            self._limiter.stats.bad_input[BadInput.NOT_A_REQUEST] += 1
            raise self._refused(Code.INVALID_ARGUMENT, "the message is not a RateLimitRequest") from None
        except RequestError as error:
            self._limiter.stats.bad_input[error.reason] += 1
            raise self._refused(Code.INVALID_ARGUMENT, str(error)) from None
        except UnconfiguredError as error:
            raise self._refused(Code.UNAVAILABLE, str(error)) from None

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
        """The limit files and folders, and hidden files that are read, too."""
        limits = self._settings.limits
        if self._settings.folder_files is not FolderFiles.ALL:
            return limits
        return (*limits, *(file for path in limits if path.is_dir() for file in hidden_files(path)))

    @property
    def admin_routes(self) -> Sequence[AdminRoute]:
        """`/rlconfig`, and what `sidecars limits` asks a running process."""
        return (
            AdminRoute("GET", "/rlconfig", self._rlconfig),
            AdminRoute("POST", "/limits/explain", self._explain),
        )

    @property
    def http_address(self) -> Address | None:
        """Where `http_routes` are served, if the settings say so."""
        return self._settings.http

    @property
    def http_routes(self) -> Sequence[AdminRoute]:
        """`/json`, with any method, as envoyproxy/ratelimit has it."""
        answer = partial(answer_json, self.should_rate_limit)
        return (AdminRoute("*", "/json", answer, self._settings.max_json_bytes),)

    async def _rlconfig(self, request: AdminRequest) -> AdminAnswer:
        if request.query.get("format") == "json":
            return AdminAnswer(body=orjson.dumps(limits_data(self._limiter.limits)))
        body = "".join([f"{line}\n" for line in described(self._limiter.limits)])
        return AdminAnswer(body=body.encode(), content_type="text/plain")

    async def _explain(self, request: AdminRequest) -> AdminAnswer:
        settings, limiter = self._settings, self._limiter
        prefix = settings.redis_prefix if self._redis is not None else ""
        modes = Modes(bounds=settings.bounds)
        return await answer_explain(limiter.limits, modes, limiter.store, prefix, request)

    @property
    def warnings(self) -> Sequence[Problem]:
        """What the limits in service leave out, and domains that limit nothing."""
        return self._limiter.limits.warnings

    async def start(self) -> None:
        """Log what the limits say about themselves. Redis is called by the first request, and may be away."""
        _log_warnings(self._limiter.limits)
        if self._heartbeat is not None:
            self._beating = asyncio.create_task(self._heartbeat.run(), name="heartbeat")

    def prepare(self) -> Callable[[], None]:
        """Read and compile the limits again; may run in a thread. Raises ConfigError."""
        try:
            limits = load_limits(self._settings.limits, self._settings.options)
            check_reload(self._limiter.limits, limits)
        except ConfigError:
            self._limiter.stats.failed_loads += 1
            raise
        _log_warnings(limits)

        def swap() -> None:
            self._limiter.use(limits)

        return swap

    def describe(self) -> dict[str, Any]:
        """The revision, the rules, and the state of the store."""
        limits = self._limiter.limits
        described: dict[str, Any] = {
            "revision": limits.revision,
            "domains": sorted(limits.domains),
            "rules": len(limits.rules),
            "warnings": list(map(str, limits.warnings)),
            "store": self._settings.store,
            "buckets_in_memory": len(self._memory),
            "unmatched": [
                {"domain": shape.domain, "keys": shape.keys, "count": shape.count}
                for shape in self._limiter.stats.unmatched.shapes()[:UNMATCHED_SHOWN]
            ],
        }
        if self._redis is not None:
            breaker = self._redis.breaker
            described["breaker"] = breaker.state.name.lower()
            described["breaker_cause"] = breaker.cause or None
            described["last_refusal"] = self._refusals.describe()
            counted = self._heartbeat
            described["replicas"] = self._settings.replicas if counted is None else counted.replicas
        if self._per_second is not None:
            described["breaker_per_second"] = self._per_second.breaker.state.name.lower()
            described["breaker_per_second_cause"] = self._per_second.breaker.cause or None
        return described

    async def finish_streams(self) -> None:
        """Do nothing: every call is unary."""

    async def stop(self) -> None:
        """End the calls to Redis that are still under way."""
        if self._heartbeat is not None and self._beating is not None:
            await cancel_and_wait(self._beating)
            await self._heartbeat.leave()
        for store in (self._redis, self._per_second):
            if store is not None:
                await store.close()


def build(settings: RatelimitSettings, dependencies: Dependencies) -> RatelimitSidecar:
    """The sidecar, its limits read and compiled. Raises ConfigError with every problem."""
    problems: list[Problem] = []
    try:
        limits = load_limits(settings.limits, settings.options)
    except ConfigError as error:
        problems += error.problems
    if settings.store == "redis" and dependencies.redis is None:
        text = "store: redis needs the section redis with the url of a Redis"
        problems.append(Problem(SETTINGS, 0, "ratelimit.store", text))
    if settings.store != "redis" and dependencies.redis_per_second is not None:
        text = "redis_per_second needs store: redis"
        problems.append(Problem(SETTINGS, 0, "ratelimit.store", text))
    if problems:
        raise ConfigError(problems)
    wall_clock = dependencies.wall_clock
    memory = MemoryStore(lambda: int(wall_clock() * SECOND_US), settings.max_buckets)
    refusals = RefusalLog(dependencies.monotonic_clock, dependencies.wall_clock)
    redis = _redis_store(settings, dependencies, refusals, "redis")
    per_second = _redis_store(settings, dependencies, refusals, "redis_per_second")
    shared = redis if redis is None or per_second is None else _split(settings, redis, per_second)
    stats = Stats(
        settings.max_metric_keys,
        max_unmatched=settings.max_unmatched,
        envoyproxy_names=settings.metrics == "envoyproxy",
    )
    deny_cache = None
    if redis is not None and settings.deny_cache_max_entries:
        deny_cache = DenyCache(dependencies.monotonic_clock, settings.deny_cache_max_entries)
    heartbeat = _heartbeat(settings, dependencies)
    limiter = Limiter(
        limits,
        shared or memory,
        memory,
        stats,
        near_limit_ratio=settings.near_limit_ratio,
        shadow_mode=settings.shadow_mode,
        quota_mode=settings.quota_mode,
        spare_others=settings.spare_other_limits,
        deny_cache=deny_cache,
        note_unmatched=UnmatchedLog(dependencies.monotonic_clock).note,
        bounds=settings.bounds,
        replicas=None if heartbeat is None else lambda: heartbeat.replicas,
    )
    dependencies.registry.register(stats)
    dependencies.registry.register(StoreCollector(memory, redis, per_second, deny_cache))
    clock = dependencies.monotonic_clock
    return RatelimitSidecar(settings, limiter, memory, redis, per_second, refusals, clock, heartbeat)


def _heartbeat(settings: RatelimitSettings, dependencies: Dependencies) -> Heartbeat | None:
    client = dependencies.redis
    if settings.store != "redis" or client is None or settings.replicas is not None:
        return None
    return Heartbeat(
        beat_script(client),
        settings.redis_prefix,
        str(uuid4()),
        dependencies.monotonic_clock,
        unknown=dependencies.workers,
        failed=lambda error: _log.warning("sidecars cannot be counted", error=error),
    )


def _log_warnings(limits: CompiledLimits) -> None:
    if limits.warnings:
        _log.warning("limits are loaded, with warnings", warnings=list(map(str, limits.warnings)))


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


def _responses(settings: RatelimitSettings) -> Responses:
    headers = settings.headers
    return Responses(
        headers=ResponseHeaders(headers.limit, headers.remaining, headers.reset) if headers.enabled else None,
        retry_after=headers.retry_after,
        dynamic_metadata=settings.dynamic_metadata,
    )


def _split(
    settings: RatelimitSettings, redis: RedisStore | ClusterStore, short: RedisStore | ClusterStore
) -> SplitStore:
    return SplitStore(redis, short, settings.redis_timeout_ms / 1000)


def _redis_store(
    settings: RatelimitSettings, dependencies: Dependencies, refusals: RefusalLog, section: str
) -> RedisStore | ClusterStore | None:
    client = dependencies.redis if section == "redis" else dependencies.redis_per_second
    if settings.store != "redis" or client is None:
        return None

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

    def make_store(
        client: ScriptClient,
        breaker: CircuitBreaker,
        group_of: Callable[[Sequence[Take]], Hashable] | None = None,
    ) -> RedisStore:
        return RedisStore(
            client,
            breaker,
            prefix=settings.redis_prefix,
            timeout_seconds=timeout_seconds,
            max_waiting=settings.redis_max_waiting,
            refused=refusals.note,
            group_of=group_of,
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
