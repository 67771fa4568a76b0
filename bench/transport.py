"""Our own transport against grpc.aio and a C server: rate, latency, tracing headers, idle connections.

The calls are no-op unary calls with a request of 1.2 KB. The server has one core, the load another; what is
compared is measured alternately, and each figure is the median of several runs.
"""

import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from shutil import which

from bench.tools import load
from bench.tools.generator import LoadConnection, prepared_calls
from bench.tools.goals import Figures, Goal
from bench.tools.load import Load, Result, middle
from bench.tools.noop_server import PATH, REPLY
from bench.tools.processes import (
    allow_open_files,
    free_port,
    load_core,
    python_server,
    resident_bytes,
    running,
    server_core,
    wait_for_port,
)

GOALS = {
    "ratio_grpcio": Goal(at_least=18),
    "ratio_floor": Goal(at_least=0.55),
    "ratio_trace_grpcio": Goal(at_least=8),
    "ratio_one_p50": Goal(at_most=0.4),
    "idle_connection_bytes": Goal(at_most=10 * 1024),
    "ratio_idle_rps": Goal(at_least=0.9),
}
"""Issue 3, "Speed"."""

Say = Callable[[str], None]

MESSAGE = bytes(i % 251 for i in range(1200))
CHECK = Load(PATH, MESSAGE)


@dataclass(frozen=True, slots=True)
class TransportPlan:
    """How long to measure."""

    turns: int
    seconds: float
    warm_up_seconds: float
    idle_connections: int
    idle_turns: int


FULL = TransportPlan(turns=9, seconds=1.5, warm_up_seconds=0.5, idle_connections=10_000, idle_turns=5)
QUICK = TransportPlan(turns=2, seconds=0.7, warm_up_seconds=0.2, idle_connections=1_000, idle_turns=1)


def run(*, quick: bool, say: Say) -> Figures:
    """Measure the transport and return all figures."""
    plan = QUICK if quick else FULL
    if not load.h2load_installed():
        say("h2load is not installed (Debian: apt-get install nghttp2-client): bench.tools.generator loads")
    if server_core() == load_core():
        say("only one core: server and load share it, so the ratios say little")
    figures: Figures = {"load_tool": "h2load" if load.h2load_installed() else "bench.tools.generator"}
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(python_server("bench.tools.noop_server", name))[1]
            for name in ("native", "grpcio")
        }
        floor = stack.enter_context(nghttpd(say, server_core()))
        for port in (*ports.values(), *([floor] if floor else [])):
            load.check_answer(port, CHECK)
        figures |= _full_load(ports, floor, plan, say)
        figures |= _tracing(ports, plan, say)
        figures |= _one_in_flight(ports, plan, say)
    figures |= _idle_memory(say)
    figures |= _idle_effect(plan, say)
    return figures


@contextmanager
def nghttpd(say: Say, core: int, path: str = PATH) -> Iterator[int | None]:
    """The port of a C server that answers `path` with the same bytes; None if it is not installed."""
    if which("nghttpd") is None:
        say("nghttpd is not installed (Debian: apt-get install nghttp2-server): no floor to compare with")
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder + path)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"\x00" + len(REPLY).to_bytes(4, "big") + REPLY)
        command = [
            "nghttpd",
            "--no-tls",
            "-a",
            "127.0.0.1",
            "-d",
            folder,
            "--trailer=grpc-status: 0",
            str(port),
        ]
        with running(command, core):
            wait_for_port(port)
            yield port


def in_turns(
    measures: Mapping[str, Callable[[], Result]], turns: int, what: str, say: Say
) -> dict[str, Result]:
    """Return the median result of each, measured A B A B, so that other load affects all of them."""
    results: dict[str, list[Result]] = {name: [] for name in measures}
    for turn in range(turns):
        for name, measure in measures.items():
            say(f"{what}: turn {turn + 1} of {turns}, {name}")
            results[name].append(measure())
    return {name: middle(found) for name, found in results.items()}


def _timed(plan: TransportPlan) -> Load:
    return replace(CHECK, seconds=plan.seconds, warm_up_seconds=plan.warm_up_seconds)


def _full_load(ports: dict[str, int], floor: int | None, plan: TransportPlan, say: Say) -> Figures:
    order = _timed(plan)
    servers = {**ports, **({"floor": floor} if floor else {})}
    results = in_turns(
        {name: lambda port=port: load.any_load(port, order) for name, port in servers.items()},  # type: ignore[misc]
        plan.turns,
        "4 connections x 16 calls",
        say,
    )
    ours, grpcio, best = results["native"], results["grpcio"], results.get("floor")
    return {
        "ours_rps": ours.rps,
        "grpcio_rps": grpcio.rps,
        "floor_rps": best.rps if best else None,
        "ratio_grpcio": ours.rps / grpcio.rps,
        "ratio_floor": ours.rps / best.rps if best else None,
        "ours_p50_us": ours.p50_us,
        "ours_p99_us": ours.p99_us,
        "grpcio_p50_us": grpcio.p50_us,
        "grpcio_p99_us": grpcio.p99_us,
        "floor_p50_us": best.p50_us if best else None,
        "floor_p99_us": best.p99_us if best else None,
    }


def _tracing(ports: dict[str, int], plan: TransportPlan, say: Say) -> Figures:
    order = _timed(plan)
    measures = {}
    for name, port in ports.items():
        measures[name] = lambda port=port: load.generator(port, order, tracing=True)
        measures[f"{name}_same"] = lambda port=port: load.generator(port, order)
    results = in_turns(measures, plan.turns, "a traceparent that changes", say)
    return {
        "trace_ours_rps": results["native"].rps,
        "trace_grpcio_rps": results["grpcio"].rps,
        "ratio_trace_grpcio": results["native"].rps / results["grpcio"].rps,
        "trace_ours_p50_us": results["native"].p50_us,
        "trace_ours_p99_us": results["native"].p99_us,
        "same_generator_ours_rps": results["native_same"].rps,
        "same_generator_grpcio_rps": results["grpcio_same"].rps,
    }


def _one_in_flight(ports: dict[str, int], plan: TransportPlan, say: Say) -> Figures:
    order = replace(_timed(plan), connections=1, streams=1)
    results = in_turns(
        {name: lambda port=port: load.any_load(port, order) for name, port in ports.items()},  # type: ignore[misc]
        plan.turns,
        "one call in flight",
        say,
    )
    ours, grpcio = results["native"], results["grpcio"]
    return {
        "one_ours_p50_us": ours.p50_us,
        "one_ours_p99_us": ours.p99_us,
        "one_grpcio_p50_us": grpcio.p50_us,
        "one_grpcio_p99_us": grpcio.p99_us,
        "ratio_one_p50": ours.p50_us / grpcio.p50_us,
    }


@contextmanager
def idle_connections(port: int, wanted: int, say: Say) -> Iterator[int]:
    """Keep open that many connections that have made one call each and are then idle; yield their number."""
    spare = 500
    count = min(wanted, allow_open_files(wanted + spare) - spare)
    if count < wanted:
        say(f"only {count} idle connections instead of {wanted}: the limit on open files (ulimit -n)")
    body = b"\x00" + len(MESSAGE).to_bytes(4, "big") + MESSAGE
    heads = prepared_calls(port, PATH, len(body), 1, tracing=False)
    opened: list[LoadConnection] = []
    try:
        for _ in range(count):
            connection = LoadConnection(port, heads, repeat(body), streams=1)
            opened.append(connection)
            while not connection.used_up:
                connection.read(array("d"))
        yield count
    finally:
        for connection in opened:
            connection.socket.close()


def _idle_memory(say: Say) -> Figures:
    figures: Figures = {}
    for name, key in (("native", "idle_connection_bytes"), ("grpcio", "grpcio_idle_connection_bytes")):
        say(f"memory of an idle connection: {name}")
        with python_server("bench.tools.noop_server", name) as (process, port):
            load.any_load(port, replace(CHECK, seconds=0.5))  # later growth excludes one-time allocations
            before = resident_bytes(process.pid)
            with idle_connections(port, 1_000, say) as count:
                figures[key] = (resident_bytes(process.pid) - before) / count
    return figures


def _idle_effect(plan: TransportPlan, say: Say) -> Figures:
    order = _timed(plan)
    with python_server("bench.tools.noop_server", "native") as (_, port):

        def alone() -> Result:
            return load.any_load(port, order)

        def crowded() -> Result:
            with idle_connections(port, plan.idle_connections, say):
                return load.any_load(port, order)

        results = in_turns(
            {"alone": alone, "next to idle ones": crowded},
            plan.idle_turns,
            f"{plan.idle_connections} idle connections",
            say,
        )
    return {
        "idle_connections": float(plan.idle_connections),
        "busy_alone_rps": results["alone"].rps,
        "busy_with_idle_rps": results["next to idle ones"].rps,
        "ratio_idle_rps": results["next to idle ones"].rps / results["alone"].rps,
    }
