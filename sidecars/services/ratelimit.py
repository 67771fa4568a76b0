"""The ratelimit sidecar: `envoy.service.ratelimit.v3.RateLimitService` over the library `ratelimit`."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog
from aiohttp.typedefs import Middleware
from google.protobuf.message import DecodeError

from common.background import shorten_switch_interval
from common.buckets import SECOND_US
from common.configfile import SETTINGS, ConfigError, Document, Problem
from common.tasks import cancel_and_wait
from ratelimit.bans import Bans
from ratelimit.config import check_reload, load_limits
from ratelimit.decision import LimitPlan
from ratelimit.deny_cache import DenyCache
from ratelimit.files import FolderFiles, hidden_files
from ratelimit.hot_keys import HotKeys
from ratelimit.in_flight import InFlight
from ratelimit.limiter import Limiter
from ratelimit.listing import described, limits_data
from ratelimit.plan import Modes
from ratelimit.request import BadInput, RequestError, UnconfiguredError
from ratelimit.reset import ResetKey, reset
from ratelimit.rules import CompiledLimits
from ratelimit.stats import Stats
from ratelimit.stores.detached import DetachedTakes
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.metrics import StoreCollector
from ratelimit.wire import ResponseHeaders, Responses
from sidecars.admin.routes import AdminAnswer, AdminRequest, AdminRoute
from sidecars.services.ratelimit_bans import BanCollector, BanLog, BanPages
from sidecars.services.ratelimit_explain import answer_explain, answer_reset
from sidecars.services.ratelimit_json import answer_json
from sidecars.services.ratelimit_reload import PreparedLimits, prepare_limits
from sidecars.services.ratelimit_unmatched import UnmatchedLog
from sidecars.services.sidecar import Dependencies
from sidecars.settings.ratelimit import RatelimitSettings
from sidecars.transport.api.address import Address
from sidecars.transport.api.service import Call, Code, Service, StatusError, Unary

if TYPE_CHECKING:  # else limits in memory would load redis-py, 10 MB, and limits in files gRPC
    from sidecars.services.ratelimit_quota import QuotaService
    from sidecars.services.ratelimit_redis import SharedStores
    from sidecars.services.xds.source import XdsSource

ANSWER_SECONDS: Final = 0.002
"""Reserved of the caller's deadline: to fall back and answer in time."""

HOT_KEYS_SHOWN: Final = 50
"""Keys in each list of `/limits/hot`."""

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
        shared: "SharedStores | None",
        xds: "XdsSource | None",
        quota: "QuotaService | None",
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._limiter = limiter
        self._memory = memory
        self._shared = shared
        self._xds = xds
        self._quota = quota
        self._clock = clock
        self._responses = _responses(settings)
        self._loading: asyncio.Task[None] | None = None
        self.services: Sequence[Service] = (
            Service(
                "envoy.service.ratelimit.v3.RateLimitService",
                {"ShouldRateLimit": Unary(self.should_rate_limit, urgent=self.is_urgent)},
            ),
            *(() if quota is None else (quota.service,)),
        )

    def should_rate_limit(self, message: bytes, call: Call) -> bytes | Awaitable[bytes]:
        """The RateLimitResponse to a RateLimitRequest; awaitable where Redis must be asked.

        Raises StatusError: INVALID_ARGUMENT for bytes that are not a request or lack what each needs
        (UNKNOWN in envoyproxy/ratelimit), UNAVAILABLE while no limits are loaded.
        """
        plan = self._plan(message)
        return self._limiter.answer(plan, self._responses.encode, self._budget_seconds(call))

    def is_urgent(self, message: bytes) -> bool:
        """Return whether a request is urgent: by the priority of a rule, or as a release. Raises nothing."""
        if not self._limiter.has_urgent:
            return False
        try:
            return self._limiter.plan_message(message).is_urgent
        except (DecodeError, RequestError, UnconfiguredError):
            return False

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
        if self._shared is None or call.deadline is None:
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
        """`/rlconfig`, `/limits/hot`, and what `sidecars limits` asks a running process."""
        return (
            AdminRoute("GET", "/rlconfig", self._rlconfig),
            AdminRoute("POST", "/limits/explain", self._explain),
            AdminRoute("POST", "/limits/reset", self._reset),
            AdminRoute("GET", "/limits/hot", self._hot),
            *BanPages(self._limiter).routes,
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

    @property
    def http_middlewares(self) -> Sequence[Middleware]:
        """None: envoyproxy/ratelimit asks for no token."""
        return ()

    async def _rlconfig(self, request: AdminRequest) -> AdminAnswer:
        if request.query.get("format") == "json":
            most = request.query.get("limit", "")
            rules = int(most[:9]) if most.isascii() and most.isdigit() else None
            return AdminAnswer(body=orjson.dumps(limits_data(self._limiter.limits, rules)))
        body = "".join([f"{line}\n" for line in described(self._limiter.limits)])
        return AdminAnswer(body=body.encode(), content_type="text/plain")

    async def _hot(self, _request: AdminRequest) -> AdminAnswer:
        hottest, limited = self._limiter.hot_keys.hottest(HOT_KEYS_SHOWN)
        found = {"hottest": list(map(asdict, hottest)), "limited": list(map(asdict, limited))}
        return AdminAnswer(body=orjson.dumps(found), headers={"cache-control": "no-store"})

    async def _explain(self, request: AdminRequest) -> AdminAnswer:
        settings, limiter = self._settings, self._limiter
        prefix = settings.redis_prefix if self._shared is not None else ""
        modes = Modes(bounds=settings.bounds)
        return await answer_explain(limiter.limits, modes, limiter.store, limiter.bans, prefix, request)

    async def _reset(self, request: AdminRequest) -> AdminAnswer:
        limiter = self._limiter

        def reset_keys(plan: LimitPlan) -> Awaitable[list[ResetKey]]:
            return reset(plan, limiter.store, self._memory, limiter.forget)

        return await answer_reset(limiter.limits, Modes(bounds=self._settings.bounds), reset_keys, request)

    @property
    def warnings(self) -> Sequence[Problem]:
        """What the limits in service leave out, and domains that limit nothing."""
        return self._limiter.limits.warnings

    async def start(self) -> None:
        """Log what the limits say about themselves. Redis is called by the first request, and may be away."""
        shorten_switch_interval()
        _log_warnings(self._limiter.limits)
        if self._shared is not None:
            self._shared.start()
        if self._xds is not None:
            self._xds.start()
        if self._quota is not None:
            self._quota.start()

    def prepare(self) -> Callable[[], None]:
        """Read and compile the limits again; may run in a thread. Raises ConfigError."""
        before = self._limiter.limits
        try:
            prepared = self._prepare()
            check_reload(before, prepared.limits)
        except ConfigError:
            self._limiter.stats.failed_loads += 1
            raise
        _log_warnings(prepared.limits)

        def swap() -> None:
            if self._limiter.limits is before:
                prepared.put_into_service(self._limiter)
            else:  # a management server has sent others since `before`
                self._loading = asyncio.create_task(self._load_again(), name="load limits again")

        return swap

    async def _load_again(self) -> None:
        """Load the files with what the management server has sent by now, and not on the event loop."""
        try:
            swap = await asyncio.to_thread(self.prepare)
        except ConfigError as error:
            _log.error("changed limit files do not fit the limits of the server", error=str(error))
        except Exception:  # a defect in a loader must be seen
            _log.exception("changed limit files cannot be loaded")
        else:
            swap()

    def _prepare(self) -> PreparedLimits:
        sent = () if self._xds is None else self._xds.documents
        return prepare_limits(self._settings, sent, self._limiter.stats)

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
        if self._shared is not None:
            described |= self._shared.describe()
        if self._xds is not None:
            described["xds"] = self._xds.describe()
        if self._quota is not None:
            described["quota"] = self._quota.describe()
        return described

    def totals(self) -> dict[str, dict[str, float]]:
        """Hits since the start by outcome, and what failed."""
        return self._limiter.stats.totals()

    async def finish_streams(self) -> None:
        """End the streams of Envoys that are assigned quotas."""
        if self._quota is not None:
            self._quota.finish_streams()

    async def stop(self) -> None:
        """End the stream to the management server, and the calls to Redis that are still under way."""
        if self._quota is not None:
            await self._quota.stop()
        if self._xds is not None:
            await self._xds.stop()
        if self._loading is not None:
            await cancel_and_wait(self._loading)
        if self._shared is not None:
            await self._shared.close()


def build(settings: RatelimitSettings, dependencies: Dependencies) -> RatelimitSidecar:
    """The sidecar, its limits read and compiled. Raises ConfigError with every problem."""
    problems: list[Problem] = []
    try:
        limits, sent = _first_limits(settings)
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
    shared = _shared_stores(settings, dependencies)
    stats = Stats(
        settings.max_metric_keys,
        max_unmatched=settings.max_unmatched,
        envoyproxy_names=settings.metrics == "envoyproxy",
    )
    deny_cache = None
    if shared is not None and settings.deny_cache_max_entries:
        deny_cache = DenyCache(dependencies.monotonic_clock, settings.deny_cache_max_entries)
    heartbeat = None if shared is None else shared.heartbeat
    store = memory if shared is None else shared.store
    bans = Bans(wall_clock, DetachedTakes(store, memory), settings.max_bans)
    limiter = Limiter(
        limits,
        store,
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
        hot_keys=HotKeys(settings.hot_keys, dependencies.monotonic_clock, dependencies.random),
        bans=bans,
        in_flight=InFlight(stats, dependencies.monotonic_clock, settings.max_in_flight),
        leases=None if shared is None else shared.leases,
    )
    dependencies.registry.register(stats)
    dependencies.registry.register(limiter.in_flight)
    dependencies.registry.register(BanCollector(bans, stats))
    if shared is not None:
        shared.share_bans(bans, settings.max_bans, lambda: any(rule.ban for rule in limiter.limits.rules))
    bans.listener = BanLog(bans.listener, dependencies.monotonic_clock)
    redis, per_second = (None, None) if shared is None else (shared.redis, shared.per_second)
    leases = None if shared is None else shared.leases
    dependencies.registry.register(StoreCollector(memory, redis, per_second, deny_cache, leases))
    xds = None
    if settings.xds is not None:
        from sidecars.services.xds.source import XdsCollector, XdsSource

        xds = XdsSource(settings, settings.xds, limiter, sent, dependencies.random)
        dependencies.registry.register(XdsCollector(xds.client))
    quota = None
    if settings.quota.enabled:
        from sidecars.services.ratelimit_quota import quota_service

        given = settings.replicas or dependencies.workers
        replicas = (lambda: given) if heartbeat is None else (lambda: heartbeat.replicas)
        quota = quota_service(settings, limiter, replicas, dependencies)
    return RatelimitSidecar(settings, limiter, memory, shared, xds, quota, dependencies.monotonic_clock)


def _first_limits(settings: RatelimitSettings) -> tuple[CompiledLimits, Sequence[Document]]:
    """The limits to begin with, and those of a management server among them. Raises ConfigError."""
    if settings.xds is None:
        return load_limits(settings.limits, settings.options), ()
    from sidecars.services.xds.limits import kept_documents

    sent = kept_documents(settings.xds.state_file)
    try:
        return load_limits(settings.limits, settings.options, sent), sent
    except ConfigError as error:
        limits = load_limits(settings.limits, settings.options)
        _log.warning("kept limits are not used", error=str(error))
        return limits, ()


def _shared_stores(settings: RatelimitSettings, dependencies: Dependencies) -> "SharedStores | None":
    if settings.store != "redis":
        return None
    from sidecars.services.ratelimit_redis import shared_stores

    return shared_stores(settings, dependencies)


def _log_warnings(limits: CompiledLimits) -> None:
    if limits.warnings:
        _log.warning("limits are loaded, with warnings", warnings=list(map(str, limits.warnings)))


def _responses(settings: RatelimitSettings) -> Responses:
    headers = settings.headers
    return Responses(
        headers=ResponseHeaders(headers.limit, headers.remaining, headers.reset) if headers.enabled else None,
        retry_after=headers.retry_after,
        dynamic_metadata=settings.dynamic_metadata,
    )
