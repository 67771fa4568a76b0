"""A real Envoy with and without the filters: throughput, the latency that each filter adds, CPU and memory.

Envoy is configured as in envoy-test/envoy-tcp.yaml, with one worker and an upstream that answers at once. Its
listeners differ in their filters and in what answers these: our sidecars, the same on grpc.aio, or a C server
that gives the same answers from a file (the floor). They are loaded in turn: first as much as each can take,
then at 25, 50 and 75 % of that, with latency from the intended start of each request. Each request has a
token of one of 10,000 callers, its own path and its own traceparent.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from bench.openloop.latency import Latency
from bench.openloop.order import Order
from bench.tools.budget import goals_of
from bench.tools.edge_bench import EdgeBench, edge_bench
from bench.tools.edge_requests import Population
from bench.tools.goals import Figures, Measured, Rounds
from bench.tools.variants import FILTERS, Variant
from bench.transport import Say

GOALS = goals_of("envoy")

SETS: Final = (*FILTERS, "all")
HEADLINES: Final = (
    "load_tool",
    *GOALS,
    "ratio_floor_rps_best_case",
    *(f"{name}_rps" for name in ("none", "native_all", "floor_all", "grpcio_all")),
    *(f"{chosen}_50_native_added_{name}_us" for chosen in SETS for name in ("p50", "p99")),
    *(f"{name}_cpu_us" for name in (*FILTERS, "envoy")),
    *(f"{name}_rss_mb" for name in (*FILTERS, "envoy")),
)
PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}


@dataclass(frozen=True, slots=True)
class EnvoyPlan:
    """How long to measure."""

    rounds: int
    full_seconds: float
    open_seconds: float
    warm_up_seconds: float
    population: Population
    loads: tuple[int, ...] = (25, 50, 75)
    """In percent of the saturation."""
    connections: int = 32


FULL = EnvoyPlan(3, 2.0, 1.5, 0.3, Population(callers=10_000, requests=50_000))
QUICK = EnvoyPlan(1, 1.0, 0.7, 0.0, Population(callers=500, requests=5_000), loads=(50,))


def run(*, quick: bool, say: Say) -> Measured:
    """Measure all listeners and return the figures."""
    return asyncio.run(measure(QUICK if quick else FULL, say))


async def measure(plan: EnvoyPlan, say: Say) -> Measured:
    """Carry out the plan."""
    with tempfile.TemporaryDirectory() as name:
        async with edge_bench(Path(name), plan.population, say) as bench:
            return await _EnvoyRun(bench, plan, say).measure()


class _EnvoyRun:
    """One run of the plan, and what it has measured so far."""

    def __init__(self, bench: EdgeBench, plan: EnvoyPlan, say: Say) -> None:
        self._bench = bench
        self._plan = plan
        self._say = say
        self._rounds = Rounds()
        self._latency: dict[str, dict[str, Latency]] = {}
        self._notes: dict[str, str] = {}
        self._listeners = {variant.name: variant for variant in bench.listeners}

    async def measure(self) -> Measured:
        """Return the figures after all rounds."""
        for number in range(self._plan.rounds):
            for variant in self._bench.listeners:
                self._say(f"saturation, round {number + 1} of {self._plan.rounds}: {variant.name}")
                await self._saturate(variant)
        for number in range(self._plan.rounds):
            for load, chosen in self._open_loops():
                self._say(f"{load} % load, round {number + 1} of {self._plan.rounds}: {chosen}")
                for variant in self._compared(chosen):
                    await self._open_loop(chosen, load, variant)
        await self._bench.check_errors()
        return self._measured()

    def _order(self, seconds: float, per_second: float | None, *, best_case: bool = False) -> Order:
        return Order(
            protocol="http1",
            port=0,
            requests=self._bench.best_case if best_case else self._bench.realistic,
            connections=self._plan.connections,
            per_second=per_second,
            seconds=seconds,
            warm_up_seconds=self._plan.warm_up_seconds,
        )

    async def _saturate(self, variant: Variant) -> None:
        order = self._order(self._plan.full_seconds, None, best_case=not variant.tracing)
        all_native = variant.name == "native_all"
        full = await self._bench.saturate(variant, order, measure_cpu=all_native)
        self._note(variant.name, full.result.bottleneck)
        name = variant.name.replace("_all_untraced", "_all_best_case")
        self._rounds.add(f"{name}_rps", full.result.rps)
        self._rounds.add(f"{name}_full_p50_us", full.result.p50_us)
        self._rounds.add(f"{name}_full_p99_us", full.result.p99_us)
        if all_native:
            for process, cpu_us in full.cpu_us.items():
                self._rounds.add(f"{process}_cpu_us", cpu_us)

    def _open_loops(self) -> Iterator[tuple[int, str]]:
        return ((load, chosen) for chosen in SETS for load in self._plan.loads)

    def _compared(self, chosen: str) -> list[Variant]:
        names = ("none", f"native_{chosen}", f"floor_{chosen}")
        return [self._listeners[name] for name in names if name in self._listeners]

    async def _open_loop(self, chosen: str, load: int, variant: Variant) -> None:
        per_second = self._rounds.median(f"native_{chosen}_rps") * load / 100
        outcome = await self._bench.open_loop(variant, self._order(self._plan.open_seconds, per_second))
        self._note(f"{variant.name} at {load} %", outcome.bottleneck)
        if outcome.unfinished:
            unanswered = f"{outcome.unfinished} of {outcome.calls} requests had no response at the end"
            self._note(f"{variant.name} at {load} %", unanswered)
        kind = variant.answered_by or "none"
        for name, percentile in PERCENTILES.items():
            self._rounds.add(f"{chosen}_{load}_{kind}_{name}_us", outcome.latency.us(percentile))
        found = self._latency.setdefault(f"{chosen}_{load}", {})
        found[kind] = outcome.latency.merged(*([found[kind]] if kind in found else []))

    def _note(self, where: str, trouble: str) -> None:
        if trouble:
            self._notes[where] = trouble

    def _measured(self) -> Measured:
        rounds = self._rounds
        derive(rounds, has_floor="floor_all" in self._listeners, loads=self._plan.loads)
        noise = rounds.noise("none_rps") or rounds.noise("native_all_rps")
        notes = [noise] if noise else []
        notes += (f"{where}: {trouble}" for where, trouble in self._notes.items())
        return Measured(self._figures(), rounds.values, self._details(), tuple(notes), HEADLINES)

    def _figures(self) -> Figures:
        missing: Figures = dict.fromkeys(GOALS)
        memory: Figures = {f"{name}_rss_mb": value for name, value in self._bench.resident_mb().items()}
        return {"load_tool": self._bench.tool, **missing, **self._rounds.medians(), **memory}

    def _details(self) -> dict[str, Any]:
        latency = {
            name: {kind: found.encode() for kind, found in kinds.items()}
            for name, kinds in self._latency.items()
        }
        population = self._plan.population
        return {
            "latency": latency,
            "callers": population.callers,
            "requests": population.requests,
            "zipf_exponent": population.zipf_exponent,
            "connections": self._plan.connections,
        }


def derive(rounds: Rounds, *, has_floor: bool, loads: tuple[int, ...]) -> None:
    """Add, for each round, what the filters add and the ratios that have goals."""
    kinds = ("native", "floor") if has_floor else ("native",)
    for key, kind, name in product(
        (f"{chosen}_{load}" for chosen in SETS for load in loads), kinds, PERCENTILES
    ):
        with_it, without = (rounds.values[f"{key}_{one}_{name}_us"] for one in (kind, "none"))
        added = [one - other for one, other in zip(with_it, without, strict=True)]
        rounds.values[f"{key}_{kind}_added_{name}_us"] = added
    rounds.ratio("ratio_grpcio_rps", "native_all_rps", "grpcio_all_rps")
    if has_floor:
        rounds.ratio("ratio_floor_rps", "native_all_rps", "floor_all_rps")
        rounds.ratio("ratio_floor_p99", "native_all_full_p99_us", "floor_all_full_p99_us")
        rounds.ratio("ratio_floor_rps_best_case", "native_all_best_case_rps", "floor_all_best_case_rps")
        for name in ("p50", "p99"):
            ours, least = (f"authz_50_{kind}_added_{name}_us" for kind in kinds)
            rounds.ratio(f"ratio_added_{name}", ours, least)
    if "envoy_cpu_us" in rounds.values:
        own = (rounds.values[f"{name}_cpu_us"] for name in FILTERS)
        rounds.values["sidecars_cpu_us"] = [sum(parts) for parts in zip(*own, strict=True)]
        rounds.ratio("cpu_ratio", "sidecars_cpu_us", "envoy_cpu_us")
