"""The lifecycle of a process: start, serve, reload, drain."""

import asyncio
import gc
import os
import resource
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

from common.configfile import Problem
from sidecars.admin.guard import CONSOLE
from sidecars.admin.health import Health, ProcessPhase
from sidecars.admin.http import OffersHttp, http_app
from sidecars.admin.routes import routes_of
from sidecars.admin.server import Admin, Site
from sidecars.admin.totals import totals_of
from sidecars.console.front import ConsoleFront, runtime_folder
from sidecars.observability.call_metrics import CallMetrics
from sidecars.observability.connection_metrics import ConnectionMetrics
from sidecars.observability.process_metrics import ReloadMetrics, package_version, process_metrics
from sidecars.process.assembly import BoundSidecar
from sidecars.process.bundle.start import bundle_puller
from sidecars.process.garbage import collect_rarely
from sidecars.process.notify import Notifier
from sidecars.process.reload import Reloader
from sidecars.process.transports import make_server
from sidecars.services.reflection import Reflection
from sidecars.services.sidecar import Dependencies, Sidecar
from sidecars.settings.process import DrainSettings
from sidecars.settings.root import Settings
from sidecars.transport.api.address import Address, TcpAddress
from sidecars.transport.api.service import Server

if TYPE_CHECKING:  # else a sidecar without a Redis would load redis-py, 10 MB
    from sidecars.process.redis_in_use import RedisInUse

REDIS_CLOSE_SECONDS: Final = 1.0
"""Time to close a few sockets; one that hangs is left to the kernel."""

SCHEDULING_SECONDS: Final = 0.5
"""Added to the limit that the work keeps itself, as the transport keeps its grace."""

RESPONSE_TIMES: Final = {
    "envoy.service.ratelimit.v3.RateLimitService": "ratelimit_service_response_time_seconds"
}
"""The name that envoyproxy/ratelimit gives the durations of its calls."""

_log = structlog.get_logger("sidecars.process")


def force_exit_after(seconds: float) -> None:
    """Make this process exit with 1 in `seconds`, even if a system call or the loop hangs then."""
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def drain_at_most_seconds(drain: DrainSettings) -> float:
    """The longest time that draining takes, until the process has ended or is forced to exit."""
    stages = drain.drain_delay_seconds + drain.grace_seconds + drain.flush_seconds + REDIS_CLOSE_SECONDS
    return stages + 4 * SCHEDULING_SECONDS


class Process:
    """One process and the sidecars it runs. It does nothing until `run`, which is called once.

    `environ` is read for systemd's variables. `force_exit` bounds the drain from outside: it is called with
    the seconds after which the process must have ended. `located`: as for the Reloader.
    """

    def __init__(
        self,
        settings: Settings,
        bound: tuple[BoundSidecar, ...],
        dependencies: Dependencies,
        environ: Mapping[str, str],
        force_exit: Callable[[float], None] = lambda _: None,
        located: Callable[[Problem], Problem] = lambda problem: problem,
    ) -> None:
        self._settings = settings
        self._dependencies = dependencies
        self._end_anyway = force_exit
        self._sidecars = tuple(one.sidecar for one in bound)
        self._started: list[Sidecar] = []
        self._stop_requested = asyncio.Event()
        self._signalled = False
        self._notifier = Notifier(environ)
        names = [service.name for sidecar in self._sidecars for service in sidecar.services]
        self._health = Health((*names, *(sidecar.name for sidecar in self._sidecars)))
        registry = dependencies.registry
        process_metrics(registry, settings.transport, dependencies.wall_clock)
        self._reloader = Reloader(
            self._sidecars,
            {one.sidecar.name: one.before for one in bound},
            settings.reload,
            ReloadMetrics(registry),
            dependencies.wall_clock,
            self._announce_reload,
            located,
        )
        self._redis = _in_use(dependencies)
        of_envoyproxy = settings.ratelimit is not None and settings.ratelimit.metrics == "envoyproxy"
        self._admin = Admin(
            settings.admin,
            self._health,
            registry,
            self.describe,
            routes_of(self._sidecars),
            # The page of a worker is read by its supervisor, which would lose a counter without `_total`.
            plain_counters=of_envoyproxy and settings.workers == 1,
            totals=self.totals,
            links=(f"{CONSOLE}/",) if settings.admin.console and settings.workers == 1 else (),
        )
        self._console: ConsoleFront | None = None
        if settings.admin.console and settings.workers == 1:  # else the supervisor has it
            self._console = ConsoleFront(self._admin.site.serve_privately, runtime_folder(environ))
            self._console.add_to(self._admin.router)
        self._http = {
            sidecar.name: _http_site(sidecar, sidecar.http_address, self._health)
            for sidecar in self._sidecars
            if isinstance(sidecar, OffersHttp) and sidecar.http_address is not None
        }
        connections = ConnectionMetrics(registry)
        calls = self._calls = CallMetrics(
            registry,
            dependencies.monotonic_clock,
            RESPONSE_TIMES if of_envoyproxy else {},
            wall_clock=dependencies.wall_clock,
        )
        self._bundles = bundle_puller(settings.bundle, self._reloader, dependencies, self._reported)
        self._listen = {one.sidecar.name: one.listen for one in bound}
        self._servers: dict[str, Server] = {}
        self._reflections: list[Reflection] = []
        health_service = calls.measured(self._health.service)
        for one in bound:
            services = [*map(calls.measured, one.sidecar.services), health_service]
            if settings.reflection:
                reflection = Reflection(service.name for service in services)
                self._reflections.append(reflection)
                services += reflection.services
            tally = connections.of(one.sidecar.name)
            self._servers[one.sidecar.name] = make_server(settings, tuple(services), one.listen, tally)

    async def run(self) -> None:
        """Start, serve until SIGTERM or SIGINT, drain. Raises OSError when an address cannot be bound."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.request_reload)
        background: list[asyncio.Task[None]] = []
        try:
            await self._start()
            background = [
                asyncio.create_task(self._reloader.run()),
                asyncio.create_task(self._notifier.feed_watchdog()),
                asyncio.create_task(collect_rarely()),
            ]
            background += [asyncio.create_task(work) for one in self._bundles for work in one.background()]
            background += [
                asyncio.create_task(work) for client in self._redis.values() for work in client.background()
            ]
            await self._stop_requested.wait()
        finally:
            await self._drain(background)

    def stop(self) -> None:
        """Make `run` drain and return, as SIGTERM does. Further calls do nothing."""
        self._stop_requested.set()

    def describe(self) -> dict[str, Any]:
        """What `/config` shows, before secrets are masked."""
        outcomes = self._reloader.outcomes
        return {
            "version": package_version(),
            "phase": self._health.phase,
            "settings": self._settings.model_dump(mode="json"),
            "bundle": next((one.describe() for one in self._bundles), None),
            "redis": None,
            **{name: client.describe() for name, client in self._redis.items()},
            "sidecars": {
                sidecar.name: {
                    "listening": self._listening(sidecar.name),
                    "state": sidecar.describe(),
                    "last_reload": outcomes[sidecar.name].describe() if sidecar.name in outcomes else None,
                    "reloads": [outcome.describe() for outcome in self._reloader.history(sidecar.name)],
                }
                for sidecar in self._sidecars
            },
        }

    def totals(self) -> dict[str, Any]:
        """What `/totals` shows."""
        outcomes = self._reloader.outcomes
        return {
            "version": package_version(),
            "phase": self._health.phase,
            "sums": self._sums(),
            "sidecars": {
                sidecar.name: {
                    "revision": sidecar.describe().get("revision"),
                    "last_reload": outcomes[sidecar.name].describe() if sidecar.name in outcomes else None,
                }
                for sidecar in self._sidecars
            },
        }

    def _reported(self) -> dict[str, Any]:
        """The sums that status reports need: those of thousands of limits would hold up the loop."""
        authz = [sidecar for sidecar in self._sidecars if sidecar.name == "authz"]
        return {"calls": self._calls.totals(), "sidecars": totals_of(authz)}

    def _sums(self) -> dict[str, Any]:
        """What is summed over several processes."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "processes": 1,
            "calls": self._calls.totals(),
            "sidecars": totals_of(self._sidecars),
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }

    async def _start(self) -> None:
        _log.info("admin listening", address=await self._admin.start())
        for sidecar in self._sidecars:
            self._started.append(
                sidecar
            )  # before it has: a start that fails halfway leaves something to close
            await sidecar.start()
        await self._reloader.remember()
        for name, server in self._servers.items():
            await server.start()
            _log.info("listening", sidecar=name, addresses=self._listening(name))
        for name, site in self._http.items():
            _log.info("http listening", sidecar=name, address=await site.start())
        # Modules and compiled policy live as long as the process: full collections need not walk them.
        gc.collect()
        gc.freeze()
        self._health.enter(ProcessPhase.READY)
        self._notifier.send("READY=1", "STATUS=serving")
        _log.info("ready", sidecars=list(self._servers), version=package_version())

    async def _drain(self, background: list[asyncio.Task[None]]) -> None:
        drain = self._settings.drain
        if self._health.phase is not ProcessPhase.READY:
            drain = drain.model_copy(update={"drain_delay_seconds": 0})
        at_most_seconds = drain_at_most_seconds(drain)
        self._end_anyway(at_most_seconds)
        self._health.enter(ProcessPhase.DRAINING)
        self._notifier.send("STOPPING=1", "STATUS=draining")
        _log.info("draining", at_most_seconds=at_most_seconds)
        await asyncio.sleep(drain.drain_delay_seconds)
        for task in background:
            task.cancel()
        self._health.finish_streams()
        for reflection in self._reflections:
            reflection.finish_streams()
        # Concurrently: the transport accepts no new work, so no stream begins after those that end here.
        work = {
            f"{name} transport": server.drain(drain.grace_seconds) for name, server in self._servers.items()
        }
        work |= {f"{sidecar.name} streams": sidecar.finish_streams() for sidecar in self._started}
        await _all_within(drain.grace_seconds, work)
        await _all_within(drain.flush_seconds, {sidecar.name: sidecar.stop() for sidecar in self._started})
        closing = {name: client.aclose() for name, client in self._redis.items()}
        await _all_within(REDIS_CLOSE_SECONDS, closing)
        for site in self._http.values():
            await site.stop()
        if self._console is not None:
            await self._console.stop()
        await self._admin.stop()
        self._notifier.close()
        _log.info("stopped")

    def _on_stop_signal(self, name: str) -> None:
        if self._signalled:
            os._exit(1)  # asked twice: the caller no longer wants to wait
        self._signalled = True
        _log.info("stop asked", signal=name)
        self._stop_requested.set()

    def _announce_reload(self, begins: bool) -> None:  # noqa: FBT001  # the one fact it tells
        if begins:
            microseconds = int(self._dependencies.monotonic_clock() * 1e6)
            self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "STATUS=reloading")
        else:
            self._notifier.send("READY=1", "STATUS=serving")

    def _listening(self, name: str) -> list[str]:
        ports = iter(self._servers[name].ports)
        return [
            str(
                TcpAddress(address.host, next(ports, address.port))
                if isinstance(address, TcpAddress)
                else address
            )
            for address in self._listen[name]
        ]


async def _all_within(seconds: float, work: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Run `work` concurrently for at most `seconds`; log and abandon what fails or is late."""
    tasks = {asyncio.create_task(one): what for what, one in work.items()}
    if not tasks:
        return
    done, late = await asyncio.wait(tasks, timeout=seconds + SCHEDULING_SECONDS)
    for task in late:
        task.cancel()
        _log.warning("not done in time", what=tasks[task], seconds=seconds)
    for task in done:
        if error := task.exception():
            _log.error("failed while stopping", what=tasks[task], exc_info=error)


def _http_site(sidecar: OffersHttp, address: Address, health: Health) -> Site:
    return Site([address], http_app(health, sidecar.http_routes, sidecar.http_middlewares))


def _in_use(dependencies: Dependencies) -> "dict[str, RedisInUse]":
    """Return each Redis by its section of the settings."""
    clients = {"redis": dependencies.redis, "redis_per_second": dependencies.redis_per_second}
    named = {name: client for name, client in clients.items() if client is not None}
    if not named:
        return {}
    from sidecars.process.redis_in_use import RedisInUse

    return {name: RedisInUse(client, name) for name, client in named.items()}
