"""Minutes at a steady rate behind Envoy, with reloads and restarts: memory slope, errors, availability.

Two processes of each sidecar run next to one Envoy, as docs/deployment.md recommends, with one Redis. New
callers and paths arrive all the time. In turn the policy is reloaded, Redis is killed and started again, and
the second process of a sidecar is restarted. The first one runs all the time, and shows the slope.
"""

import asyncio
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from math import log10
from pathlib import Path
from statistics import linear_regression
from typing import Any, Final

from bench.openloop.order import Order, Outcome, write_requests
from bench.openloop.run import perform_on
from bench.tools.cores import Cores, cores
from bench.tools.edge_requests import Issuer, Population, policy, realistic_requests
from bench.tools.goals import Figures, Goal, Measured
from bench.tools.load import LoadError
from bench.tools.processes import free_port, python_server
from bench.tools.redis_server import redis_server
from bench.tools.suite import RunningSidecar, Setup, serve_sidecar, write_files
from bench.tools.usage import usage
from bench.tools.variants import FILTERS, Variant, configuration, with_second_endpoints
from bench.transport import Say
from sidecars.demo.envoy import find_envoy, scripts_folder, serve_envoy

GOALS: dict[str, Goal] = {}

EVENTS: Final = ("reloads", "redis_restarts", "restarts")
SAMPLE_SECONDS: Final = 0.5
WARM_SHARE: Final = 0.2
"""The first part of the run, in which caches fill, is left out of the slope."""
DRAIN: Final = {"drain_delay_seconds": 1, "grace_seconds": 2, "flush_seconds": 2}
"""Envoy's health checks notice within half a second that a process drains."""


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """How long, and how much happens."""

    seconds: float
    per_second: float
    pause_seconds: float
    """Between two events."""
    population: Population


FULL = SoakPlan(600, 200, 10, Population(callers=10_000, requests=100_000))
QUICK = SoakPlan(20, 50, 1.5, Population(callers=100, requests=1_000))


@dataclass(slots=True)
class _Restartable:
    """Runs a server, and can end it and begin it again."""

    serve: Callable[[], AbstractAsyncContextManager[Any]]
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> Any:
        return await self._running.enter_async_context(self.serve())

    async def stop(self) -> None:
        await self._running.aclose()

    async def restart(self) -> Any:
        await self.stop()
        return await self.start()


def run(*, quick: bool, say: Say, minutes: float | None = None) -> Measured:
    """Keep up the load for so many minutes (default 10), and return what it did."""
    plan = QUICK if quick else FULL
    if minutes is not None:
        if minutes <= 0:
            raise LoadError(f"--minutes {minutes:g}: must be above 0")
        plan = SoakPlan(minutes * 60, plan.per_second, plan.pause_seconds, plan.population)
    return asyncio.run(_run(plan, say))


async def _run(plan: SoakPlan, say: Say) -> Measured:
    with tempfile.TemporaryDirectory() as name:
        async with AsyncExitStack() as stack:
            soak = await _start(Path(name), plan, say, stack)
            say(f"{plan.per_second:g} requests/s for {plan.seconds / 60:g} minutes")
            loading = asyncio.create_task(asyncio.to_thread(perform_on, soak.order, soak.cores.load))
            events = asyncio.create_task(soak.disturb(plan.pause_seconds, say))
            samples = asyncio.create_task(soak.sample())
            try:
                outcome = await loading
            finally:
                for task in (events, samples):
                    task.cancel()
                await asyncio.wait((events, samples))
            if not events.cancelled() and (error := events.exception()):
                raise error
            return Measured(soak.figures(outcome, plan), details={"curves": soak.curves()})


@dataclass(slots=True)
class _Soak:
    """The running processes, and what has happened."""

    folder: Path
    order: Order
    cores: Cores
    steady: Mapping[str, RunningSidecar]
    """The first process of each sidecar."""
    second: Mapping[str, _Restartable]
    redis: _Restartable | None
    """None where limits are counted in memory."""
    happened: dict[str, int] = field(
        default_factory=lambda: {"reloads": 0, "redis_restarts": 0, "restarts": 0}
    )
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Seconds since the start, and MB, by sidecar."""

    async def disturb(self, pause_seconds: float, say: Say) -> None:
        """Reload and restart in turn until cancelled."""
        while True:
            for what, event in self._events():
                await asyncio.sleep(pause_seconds)
                say(what)
                await event()

    def _events(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        found: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        for name in FILTERS:
            found += [
                ("the policy is reloaded", self._reload),
                (f"the second {name} is restarted", lambda name=name: self._restart(name)),  # type: ignore[misc]
            ]
            if self.redis is not None:
                found.append(("Redis is restarted", partial(self._restart_redis, self.redis)))
        return found

    async def _reload(self) -> None:
        self.happened["reloads"] += 1
        (self.folder / "policy.yaml").write_text(f"{policy()}# reload {self.happened['reloads']}\n")
        os.kill(self.steady["authz"].pid, signal.SIGHUP)

    async def _restart(self, name: str) -> None:
        await self.second[name].restart()
        self.happened["restarts"] += 1

    async def _restart_redis(self, redis: _Restartable) -> None:
        await redis.restart()
        self.happened["redis_restarts"] += 1

    async def sample(self) -> None:
        """Note the memory of the steady processes until cancelled."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            for name, sidecar in self.steady.items():
                point = (loop.time() - begin, usage(sidecar.pid).resident_bytes / 1e6)
                self.memory.setdefault(name, []).append(point)

    def figures(self, outcome: Outcome, plan: SoakPlan) -> Figures:
        """Return the figures of the run."""
        failed = outcome.failed + outcome.unfinished
        found: Figures = {
            "minutes": plan.seconds / 60,
            "requests": float(outcome.calls),
            "requests_failed": float(failed),
            "availability_nines": nines(outcome.calls, failed),
            "p50_us": outcome.latency.us(50),
            "p99_us": outcome.latency.us(99),
            "p999_us": outcome.latency.us(99.9),
        }
        found |= {
            reason.lower().replace(" ", "_"): float(number) for reason, number in outcome.failures.items()
        }
        found |= {what: float(number) for what, number in self.happened.items()}
        for name, points in self.memory.items():
            found[f"{name}_rss_mb"] = points[-1][1]
            found[f"{name}_mb_per_hour"] = slope_per_hour(points, plan.seconds * WARM_SHARE)
        return found

    def curves(self) -> dict[str, Any]:
        """Return the memory over time for the report."""
        return {"Memory": {"x": "seconds", "y": "rss_mb", "series": self.memory}}


def nines(requests: int, failed: int) -> float:
    """Return the availability as a number of nines: 3 means 99.9 %. Without a failure: at least this many."""
    return log10(max(requests, 1)) if not failed else -log10(failed / requests)


def slope_per_hour(points: list[tuple[float, float]], begin: float) -> float | None:
    """Return the growth from `begin` on, by least squares; None with fewer than three points."""
    later = [point for point in points if point[0] >= begin]
    if len(later) < 3:
        return None
    slope, _ = linear_regression(*zip(*later, strict=True))
    return slope * 3600


async def _start(folder: Path, plan: SoakPlan, say: Say, stack: AsyncExitStack) -> _Soak:
    placed = cores()
    say(f"tokens of {plan.population.callers} callers")
    issuer = Issuer(folder)
    write_files(folder)
    tokens = [issuer.token(f"caller-{number}") for number in range(plan.population.callers)]
    requests = write_requests(folder / "requests", realistic_requests(tokens, plan.population))
    redis = _Restartable(lambda: redis_server(folder))
    socket = await redis.start()
    stack.push_async_callback(redis.stop)
    settings: dict[str, Any] = {"drain": DRAIN}
    store: dict[str, Any] = {}
    if socket is None:
        say("there is no Redis: limits are counted in memory")
    else:
        settings["redis"] = {"url": f"unix://{socket}"}
        store = {"ratelimit": {"store": "redis"}}
    ports = {name: (free_port(), free_port()) for name in FILTERS}
    steady: dict[str, RunningSidecar] = {}
    second: dict[str, _Restartable] = {}
    for name in FILTERS:
        say(f"two processes of {name}")
        setups = [
            Setup(name, f"{name}-{place}", settings, store.get(name, {}), port)
            for place, port in enumerate(ports[name])
        ]
        steady[name] = await stack.enter_async_context(
            serve_sidecar(folder, setups[0], placed.sidecars, os.environ)
        )
        second[name] = _Restartable(
            lambda setup=setups[1]: serve_sidecar(folder, setup, placed.sidecars, os.environ)  # type: ignore[misc]
        )
        await second[name].start()
        stack.push_async_callback(second[name].stop)
    upstream, upstream_port = stack.enter_context(python_server("bench.tools.static_upstream"))
    os.sched_setaffinity(upstream.pid, {placed.upstream})
    edge = configuration(
        [Variant("edge", FILTERS, "native")],
        {("native", name): first for name, (first, _) in ports.items()},
        upstream_port,
    )
    with_second_endpoints(edge, {f"native_{name}": other for name, (_, other) in ports.items()})
    program = find_envoy(os.environ, scripts_folder())
    envoy = await stack.enter_async_context(serve_envoy(program, edge, folder))
    if not program.docker_image:
        with suppress(ProcessLookupError):
            os.sched_setaffinity(envoy.process.child.pid, {placed.envoy})
    order = Order(
        "http1",
        envoy.ports["edge"],
        requests,
        connections=16,
        per_second=plan.per_second,
        seconds=plan.seconds,
        patience_seconds=5,
    )
    return _Soak(folder, order, placed, steady, second, None if socket is None else redis)
