"""Growth: rules, limits, issuers, Redis keys, connections, streams and workers; a reload under load.

Each step runs as `sidecars run` starts it, all steps of a dimension are measured in turn, and a reload of
10,000 rules happens under load.
"""

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.authz import AUDIENCE, ISSUER, reloads
from bench.openloop.order import Order, write_requests
from bench.openloop.run import perform_on
from bench.tools.edge_requests import HOST, Issuer, policy
from bench.tools.goals import Goal, Measured, Rounds
from bench.tools.load import LoadError
from bench.tools.noop_server import PATH as CHECK_PATH
from bench.tools.processes import free_port, load_core, python_server, server_core
from bench.tools.redis_server import filled_redis_server
from bench.tools.suite import LIMIT_PATH, LIMITS, Setup, check_of, limit_message, serve_sidecar
from bench.transport import Say

GOALS = {"reload_stall_ms": Goal(at_most=5)}
"""Issue 16: a reload of 10,000 rules under load."""

RELOADED_RULES: Final = 10_000
RELOADS: Final = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One point of a curve: a server, and the load on it."""

    value: int
    setup: Setup
    order: Order
    """Its port is set once the server runs."""
    workers: int = 1


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """How far, and how long."""

    rounds: int
    seconds: float
    warm_up_seconds: float
    most: int = 1_000_000
    """Steps beyond this are left out."""
    ends_only: bool = False
    """Whether to measure only the first step and the last one."""


FULL = ScalePlan(3, 1.5, 0.3)
QUICK = ScalePlan(1, 0.4, 0.1, most=1_000, ends_only=True)

RULES: Final = (10, 100, 1_000, 10_000)
LIMIT_STEPS: Final = (10, 100, 1_000, 10_000)
ISSUERS: Final = (1, 10, 100)
REDIS_KEYS: Final = (1, 1_000, 100_000, 1_000_000)
CONNECTIONS: Final = (1, 10, 100, 1_000)
STREAMS: Final = (1, 10, 100)
WORKERS: Final = (1, 2)
DIMENSIONS: Final = ("rules", "issuers", "limits", "redis_keys", "connections", "streams", "workers")


def run(*, quick: bool, say: Say) -> Measured:
    """Measure every dimension."""
    return asyncio.run(_run(QUICK if quick else FULL, say))


async def _run(plan: ScalePlan, say: Say) -> Measured:
    rounds = Rounds()
    curves: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        token = Issuer(folder).token("alice")
        for dimension in DIMENSIONS:
            steps = steps_of(dimension, folder, token, plan)
            await _measure(dimension, steps, folder, plan, rounds, say)
            _conclude(dimension, steps, rounds, curves)
        say("a reload of 10,000 rules under load")
        stalls = await asyncio.to_thread(_reload, folder, token, plan)
    rounds.values["reload_stall_ms"] = stalls
    return Measured(rounds.medians(), rounds.values, {"curves": curves})


def steps_of(dimension: str, folder: Path, token: str, plan: ScalePlan) -> list[Step]:
    """Return the steps of a dimension; their files are written into the folder."""
    make: dict[str, Any] = {
        "rules": lambda: [_authz(folder, token, "rules", number, policy(number)) for number in RULES],
        "issuers": lambda: [
            _authz(folder, token, "issuers", number, policy_of_issuers(number)) for number in ISSUERS
        ],
        "limits": lambda: [_limits(folder, number) for number in LIMIT_STEPS],
        "redis_keys": lambda: [_redis(folder, number) for number in REDIS_KEYS],
        "connections": lambda: [_connections(folder, number) for number in CONNECTIONS],
        "streams": lambda: [_streams(folder, number) for number in STREAMS],
        "workers": lambda: [_workers(folder, number) for number in WORKERS],
    }
    found: list[Step] = make[dimension]()
    found = [step for step in found if step.value <= plan.most]
    if plan.ends_only:
        found = found[:: len(found) - 1 or 1]
    return [replace(step, order=_timed(step.order, plan)) for step in found]


def _timed(order: Order, plan: ScalePlan) -> Order:
    return replace(order, seconds=plan.seconds, warm_up_seconds=plan.warm_up_seconds)


def policy_of_issuers(number: int) -> str:
    """Return a policy that accepts tokens of that many issuers; the one that is used is in the middle."""
    names = [ISSUER if place == number // 2 else f"https://idp-{place}.example" for place in range(number)]
    issuers = "".join(
        f"    - {{issuer: {name!r}, audiences: [{AUDIENCE!r}], jwks: {{file: keys.json}}}}\n"
        for name in names
    )
    rule = f"{{name: all, hosts: [{HOST}], paths: ['/{{rest=**}}'], allow: {{scopes: ['orders:read']}}}}"
    return f"credentials:\n  issuers:\n{issuers}rules:\n  - {rule}\n"


def _authz(folder: Path, token: str, dimension: str, number: int, text: str) -> Step:
    file = folder / f"{dimension}-{number}.policy.yaml"
    file.write_text(text)
    service = number // 2 if dimension == "rules" else 0
    messages = (check_of(token, f"/service-{service}/orders/{place}") for place in range(200))
    requests = write_requests(folder / f"{dimension}-{number}.requests", messages)
    setup = Setup("authz", f"{dimension}-{number}", section={"policy": [file.name]})
    return Step(number, setup, Order("grpc", 0, requests, path=CHECK_PATH, connections=4, streams=16))


def _limit_step(
    folder: Path, dimension: str, number: int, keys: int = 1_000, *, connections: int = 4, streams: int = 16
) -> Step:
    (folder / "limits.yaml").write_text(LIMITS)
    messages = (limit_message(f"caller-{place % keys}") for place in range(min(keys, 50_000)))
    requests = write_requests(folder / f"{dimension}-{number}.requests", messages)
    order = Order("grpc", 0, requests, path=LIMIT_PATH, connections=connections, streams=streams)
    return Step(number, Setup("ratelimit", f"{dimension}-{number}"), order)


def _limits(folder: Path, number: int) -> Step:
    file = folder / f"limits-{number}.limits.yaml"
    values = [
        "127.0.0.1" if place == number // 2 else f"192.0.{place // 256}.{place % 256}"
        for place in range(number)
    ]
    lines = [f"  - {{key: remote_address, value: {value}, rate_limit: {_RATE}}}\n" for value in values]
    file.write_text("domain: edge\ndescriptors:\n" + "".join(lines))
    step = _limit_step(folder, "limits", number)
    return replace(step, setup=replace(step.setup, section={"limits": [file.name]}))


_RATE: Final = "{unit: second, requests_per_unit: 1000000}"


def _redis(folder: Path, number: int) -> Step:
    step = _limit_step(folder, "redis_keys", number, number)
    redis = {"redis": {"url": f"unix://{folder}/{number}/r.sock", "operation_timeout_ms": 1000}}
    return replace(step, setup=replace(step.setup, settings=redis, section={"store": "redis"}))


def _connections(folder: Path, number: int) -> Step:
    return _limit_step(folder, "connections", number, connections=number, streams=1)


def _streams(folder: Path, number: int) -> Step:
    return _limit_step(folder, "streams", number, connections=1, streams=number)


def _workers(folder: Path, number: int) -> Step:
    step = _limit_step(folder, "workers", number)
    return replace(step, setup=replace(step.setup, settings={"workers": number}), workers=number)


@asynccontextmanager
async def _serving(step: Step, folder: Path, core: int) -> AsyncIterator[tuple[int, ...]]:
    """Run the server of a step; yield its ports."""
    async with AsyncExitStack() as stack:
        if "redis" in step.setup.settings:
            place = folder / str(step.value)
            place.mkdir()
            if await stack.enter_async_context(filled_redis_server(place, step.value)) is None:
                yield ()
                return
        first = free_ports(step.workers)
        sidecar = await stack.enter_async_context(
            serve_sidecar(folder, replace(step.setup, port=first), core, os.environ)
        )
        if step.workers > 1:
            _unpin(sidecar.pid)
        yield tuple(range(first, first + step.workers))


def _unpin(pid: int) -> None:
    """Let the workers of a process use all cores; they were started on one."""
    cores = os.sched_getaffinity(0)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one in (pid, *map(int, children)):
        os.sched_setaffinity(one, cores)


def free_ports(number: int) -> int:
    """Return the first of that many free ports in a row."""
    for _ in range(100):
        first = free_port()
        with ExitStack() as probes:
            try:
                for port in range(first, first + number):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
        return first
    raise LoadError("no free ports in a row")


async def _measure(
    dimension: str, steps: list[Step], folder: Path, plan: ScalePlan, rounds: Rounds, say: Say
) -> None:
    async with AsyncExitStack() as stack:
        ports = {
            step.value: await stack.enter_async_context(_serving(step, folder, server_core()))
            for step in steps
        }
        for number in range(plan.rounds):
            for step in steps:
                if not ports[step.value]:
                    say(f"{dimension}: skipped, because there is no Redis")
                    continue
                say(f"{dimension}, round {number + 1} of {plan.rounds}: {step.value}")
                await asyncio.to_thread(
                    _load, f"{dimension}_{step.value}", step.order, ports[step.value], rounds
                )


def _load(key: str, order: Order, ports: tuple[int, ...], rounds: Rounds) -> None:
    """Load all ports at once, and add their figures. Raises LoadError if a call fails."""
    with ThreadPoolExecutor(len(ports)) as threads:
        outcomes = list(threads.map(lambda port: perform_on(replace(order, port=port), load_core()), ports))
    for outcome in outcomes:
        if outcome.failures:
            raise LoadError(f"{key}: calls failed: {outcome.failures}")
    first, *others = (outcome.latency for outcome in outcomes)
    latency = first.merged(*others)
    rounds.add(f"{key}_rps", sum(outcome.rps for outcome in outcomes))
    rounds.add(f"{key}_p50_us", latency.us(50))
    rounds.add(f"{key}_p99_us", latency.us(99))


def _conclude(dimension: str, steps: list[Step], rounds: Rounds, curves: dict[str, Any]) -> None:
    """Add the curves, and the ratio of the largest step to the smallest one."""
    measured = [step.value for step in steps if f"{dimension}_{step.value}_rps" in rounds.values]
    title = dimension.replace("_", " ").capitalize()
    for key in ("rps", "p99_us"):
        points = [(value, rounds.median(f"{dimension}_{value}_{key}")) for value in measured]
        curves[f"{title}: {key}"] = {"x": title.lower(), "y": key, "series": {"ours": points}}
    if len(measured) > 1:
        largest, smallest = (f"{dimension}_{value}_rps" for value in (measured[-1], measured[0]))
        rounds.ratio(f"ratio_{dimension}_rps", largest, smallest)


def _reload(folder: Path, token: str, plan: ScalePlan) -> list[float]:
    """Return the longest delay of the event loop in each reload, in ms, while checks arrive."""
    file = folder / "reload.yaml"
    file.write_text(policy(RELOADED_RULES))
    requests = write_requests(folder / "reload.requests", [check_of(token, "/service-5000/orders/1")])
    with python_server("bench.tools.authz_server", "native", str(file)) as (server, port):
        seconds = 4.0 * RELOADS + plan.seconds
        order = Order("grpc", port, requests, path=CHECK_PATH, per_second=500, seconds=seconds)
        with ThreadPoolExecutor(1) as threads:
            loading = threads.submit(perform_on, order, load_core())
            stalls = [reloads(server, 1)[1] for _ in range(RELOADS)]
            outcome = loading.result()
    if outcome.failures:
        raise LoadError(f"calls failed during a reload: {outcome.failures}")
    return stalls
