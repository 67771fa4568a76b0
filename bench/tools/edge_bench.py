"""A real Envoy with a listener for each variant, and loads on one of them."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import orjson

from bench.openloop.order import Order, Outcome, write_requests
from bench.openloop.run import perform_on
from bench.tools.cores import Cores, cores
from bench.tools.edge_requests import Issuer, Population, best_case_request, realistic_requests
from bench.tools.load import LoadError
from bench.tools.processes import python_server
from bench.tools.saturation import Saturation, saturate, wrk_installed
from bench.tools.suite import RunningSidecar, answers, floor, running_suite, write_files
from bench.tools.usage import Usage, usage
from bench.tools.variants import FILTERS, Variant, configuration, variants
from bench.transport import Say
from sidecars.demo.envoy import Envoy, find_envoy, scripts_folder, serve_envoy

SETTLE_SECONDS: Final = 1.3
"""Envoy sends access-log entries within a second of their request."""
_ERRORS: Final = (
    r"(ext_authz\.(error|denied|failure_mode_allowed)|ratelimit\.(error|over_limit|failure_mode_allowed))$"
)


@dataclass(frozen=True, slots=True)
class Full:
    """A listener at saturation: the rate, and the CPU time of each process for a request."""

    result: Saturation
    cpu_us: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class EdgeBench:
    """The running processes."""

    envoy: Envoy
    listeners: tuple[Variant, ...]
    sidecars: Mapping[tuple[str, str], RunningSidecar]
    """By transport and name."""
    realistic: Path
    best_case: Path
    cores: Cores
    tool: str
    has_envoy_pid: bool
    """False with Docker, whose client is not Envoy."""

    async def saturate(self, variant: Variant, order: Order, *, measure_cpu: bool = False) -> Full:
        """Load the listener of the variant as much as it can take, after a warm-up."""
        order = replace(order, port=self.envoy.ports[variant.name])
        if order.warm_up_seconds:
            await self._saturate(replace(order, seconds=order.warm_up_seconds))
        if measure_cpu:
            await asyncio.sleep(SETTLE_SECONDS)
        before = self._usage(variant)
        result = await self._saturate(order)
        if measure_cpu:
            await asyncio.sleep(SETTLE_SECONDS)
        requests = result.requests
        spent = {
            name: (now.cpu_seconds - before[name].cpu_seconds) / requests * 1e6
            for name, now in self._usage(variant).items()
        }
        return Full(result, spent)

    async def open_loop(self, variant: Variant, order: Order) -> Outcome:
        """Load the listener of the variant at the rate of the order. Raises LoadError if a request fails."""
        order = replace(order, port=self.envoy.ports[variant.name])
        outcome = await asyncio.to_thread(perform_on, order, self.cores.load)
        if outcome.failures or outcome.unfinished == outcome.calls:
            unanswered = {"no response": outcome.unfinished} if outcome.unfinished else {}
            raise LoadError(f"{variant.name}: requests failed: {outcome.failures | unanswered}")
        return outcome

    async def check_errors(self) -> None:
        """Raise LoadError if Envoy counted a request that a sidecar did not answer or that it refused."""
        page = orjson.loads(await self.envoy.admin(f"/stats?format=json&filter={_ERRORS}"))
        counted = {stat["name"]: stat["value"] for stat in page["stats"] if stat.get("value")}
        if counted:
            raise LoadError(f"Envoy counted errors, so the figures would be those of errors: {counted}")

    def resident_mb(self) -> dict[str, float]:
        """Return the memory of Envoy and of our sidecars."""
        pids = {name: sidecar.pid for (kind, name), sidecar in self.sidecars.items() if kind == "native"}
        if self.has_envoy_pid:
            pids["envoy"] = self.envoy.process.child.pid
        return {name: usage(pid).resident_bytes / 1e6 for name, pid in pids.items()}

    async def _saturate(self, order: Order) -> Saturation:
        quick = replace(order, warm_up_seconds=0.0)
        return await asyncio.to_thread(saturate, quick, self.cores.load, tool=self.tool)

    def _usage(self, variant: Variant) -> dict[str, Usage]:
        found = {
            name: usage(self.sidecars[variant.answered_by, name].pid)
            for name in variant.filters
            if (variant.answered_by, name) in self.sidecars
        }
        if self.has_envoy_pid:
            found["envoy"] = usage(self.envoy.process.child.pid)
        return found


@asynccontextmanager
async def edge_bench(folder: Path, population: Population, say: Say) -> AsyncIterator[EdgeBench]:
    """Run Envoy, the upstream, the sidecars on both transports and the floor during the block."""
    program = find_envoy(os.environ, scripts_folder())
    placed = cores()
    say(f"tokens of {population.callers} callers")
    issuer = Issuer(folder)
    write_files(folder)
    tokens = [issuer.token(f"caller-{number}") for number in range(population.callers)]
    realistic = write_requests(folder / "realistic", realistic_requests(tokens, population))
    best_case = write_requests(folder / "best_case", [best_case_request(tokens[0])])
    async with AsyncExitStack() as stack:
        upstream, upstream_port = stack.enter_context(python_server("bench.tools.static_upstream"))
        os.sched_setaffinity(upstream.pid, {placed.upstream})
        sidecars: dict[tuple[str, str], RunningSidecar] = {}
        for transport in ("native", "grpcio"):
            say(f"the sidecars on {transport}")
            suite = await stack.enter_async_context(
                running_suite(folder, transport, placed.sidecars, os.environ)
            )
            sidecars |= {(transport, name): sidecar for name, sidecar in suite.items()}
        ports = {key: sidecar.port for key, sidecar in sidecars.items()}
        ours = {name: sidecars["native", name] for name in FILTERS}
        below = stack.enter_context(floor(folder / "floor", answers(ours, tokens[0]), placed.sidecars))
        if below is None:
            say("nghttpd is not installed (Debian: apt-get install nghttp2-server): no floor to compare with")
        else:
            ports |= {("floor", name): below[1] for name in FILTERS}
        answerers = ("native", "grpcio") if below is None else ("native", "floor", "grpcio")
        listeners = tuple(variants(answerers))
        say(f"Envoy from {program.found}")
        envoy = await stack.enter_async_context(
            serve_envoy(program, configuration(listeners, ports, upstream_port), folder)
        )
        if not program.docker_image:
            os.sched_setaffinity(envoy.process.child.pid, {placed.envoy})
        if not wrk_installed():
            say("wrk is not installed (Debian: apt-get install wrk): bench.openloop loads")
        yield EdgeBench(
            envoy=envoy,
            listeners=listeners,
            sidecars=sidecars,
            realistic=realistic,
            best_case=best_case,
            cores=placed,
            tool="wrk" if wrk_installed() else "bench.openloop",
            has_envoy_pid=not program.docker_image,
        )
