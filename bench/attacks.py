"""Floods against authz and accesslog: their effect on the latency of a second connection, and on memory.

One attacker sends each flood as fast as the sidecar reads it, and reconnects after each disconnect. At the
same time another client makes one call after another, a check or a log stream of one message; its percentiles
are compared with those without a flood.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.authz import check_message, issue_token, policy_file
from bench.tools import load
from bench.tools.accesslog_server import PATH as LOG_PATH
from bench.tools.floods import FLOODS
from bench.tools.generator import OPENING, SETTINGS_ACK, prepared_calls
from bench.tools.goals import Figures, Goal
from bench.tools.log_floods import LOG_FLOODS
from bench.tools.noop_server import PATH
from bench.tools.processes import load_core, python_server, resident_bytes
from bench.transport import Say
from protos.accesslog_pb2 import StreamAccessLogsMessage

MOST_P99_MS = 10
MOST_GROWTH_MB = 64
"""The memory growth over all floods: the memory of one connection is bounded, and so is the heap."""
MOST_LOG_GROWTH_MB = 128
"""The memory growth of accesslog over all floods, with its queue and the log streams that may be open at
once."""

GOALS = {
    **{f"{name}_p99_ms": Goal(at_most=MOST_P99_MS) for name in [*FLOODS, *LOG_FLOODS]},
    "growth_mb": Goal(at_most=MOST_GROWTH_MB),
    "log_growth_mb": Goal(at_most=MOST_LOG_GROWTH_MB),
}
"""Issue 11, item 14."""

PAUSE_SECONDS = 0.001
READ_BYTES = 65_536
CALLS_A_CONNECTION = 20_000


@dataclass(frozen=True, slots=True)
class AttackPlan:
    """How long to measure each flood."""

    seconds: float


FULL = AttackPlan(seconds=5.0)
QUICK = AttackPlan(seconds=1.5)


@dataclass(frozen=True, slots=True)
class FloodCall:
    """What the second connection asks, and what a flood repeats."""

    path: str
    message: bytes


class LostCallError(Exception):
    """A call on the second connection failed, which no flood may cause."""


def run(*, quick: bool, say: Say) -> Figures:
    """Run each flood, against authz or accesslog, and return the figures."""
    seconds = (QUICK if quick else FULL).seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check = check_message(issue_token(folder))
        with python_server("bench.tools.authz_server", "native", str(policy_file(folder, 100))) as server:
            figures = _under("", FLOODS, server, FloodCall(PATH, check), seconds, say)
        with python_server("bench.tools.accesslog_server", str(folder / "access.log")) as server:
            return figures | _under(
                "log_", LOG_FLOODS, server, FloodCall(LOG_PATH, log_message()), seconds, say
            )


def log_message() -> bytes:
    """Return one log entry as Envoy sends it."""
    message = StreamAccessLogsMessage()
    message.identifier.log_name = "edge"
    entry = message.http_logs.log_entry.add()
    entry.request.path = "/products/42?page=3"
    entry.request.authority = "shop.example"
    entry.response.response_code.value = 200
    return message.SerializeToString()


def _under(
    prefix: str,
    floods: Iterable[str],
    server: tuple[subprocess.Popen[bytes], int],
    call: FloodCall,
    seconds: float,
    say: Say,
) -> Figures:
    process, port = server
    measure(port, call, 0.5)  # later growth excludes one-time allocations
    before = most = resident_bytes(process.pid)
    figures = _latencies(f"{prefix}peace", measure(port, call, seconds))
    for flood in floods:
        say(f"flood: {flood}")
        with flooding(port, flood, call, seconds) as attacker:
            figures |= _latencies(flood, measure(port, call, seconds))
        figures[f"{flood}_connections"] = attacker["connections"]
        most = max(most, resident_bytes(process.pid))
    figures[f"{prefix}growth_mb"] = (most - before) / 1e6
    return figures


@contextmanager
def flooding(port: int, flood: str, call: FloodCall, seconds: float) -> Iterator[dict[str, float]]:
    """Run a flood in its own process during the block; its result is complete after the block."""
    order = {
        "port": port,
        "flood": flood,
        "path": call.path,
        "message": call.message.hex(),
        "seconds": seconds,
    }
    command = [sys.executable, "-m", "bench.tools.flooder", orjson.dumps(order).decode()]
    came_to: dict[str, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        os.sched_setaffinity(process.pid, {load_core()})
        assert process.stdout is not None  # noqa: S101  # asked for with PIPE
        process.stdout.readline()
        yield came_to
        output, _ = process.communicate()
    came_to.update(orjson.loads(output))


def _latencies(name: str, times: list[float]) -> Figures:
    p50_us, p99_us = load.percentiles([seconds * 1e6 for seconds in times])
    return {
        f"{name}_p50_ms": p50_us / 1e3,
        f"{name}_p99_ms": p99_us / 1e3,
        f"{name}_most_ms": max(times) * 1e3,
    }


def measure(port: int, call: FloodCall, seconds: float) -> list[float]:
    """Measure each of consecutive calls on one connection."""
    body = b"\x00" + len(call.message).to_bytes(4, "big") + call.message
    heads = prepared_calls(port, call.path, len(body), CALLS_A_CONNECTION, tracing=False)
    times: list[float] = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(OPENING + SETTINGS_ACK)
        end = time.perf_counter() + seconds
        for head in heads:
            begun = time.perf_counter()
            if begun > end:
                break
            connection.sendall(head + body)
            answer = b""
            while b"grpc-status" not in answer:
                received = connection.recv(READ_BYTES)
                if not received:
                    raise LostCallError("the sidecar hung up on a client that did nothing wrong")
                answer += received
            times.append(time.perf_counter() - begun)
            time.sleep(PAUSE_SECONDS)
    return times
