"""Floods against the authz sidecar: what a second connection notices of each, and what memory it costs.

One attacker sends each flood as fast as the sidecar reads it, on a new connection whenever it is cut off.
At the same time another client sends one check after another; its percentiles are compared with a quiet time.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.authz import check_message, issue_token, policy_file
from bench.tools import load
from bench.tools.floods import FLOODS
from bench.tools.generator import OPENING, SETTINGS_ACK, prepared_calls
from bench.tools.goals import Figures, Goal
from bench.tools.load import Load
from bench.tools.noop_server import PATH
from bench.tools.processes import load_core, python_server, resident_bytes
from bench.transport import Say

MOST_P99_MS = 10
MOST_GROWTH_MB = 64
"""Growth of the process over all floods: what one connection may hold is bounded, and so is the heap."""

GOALS = {
    **{f"{name}_p99_ms": Goal(at_most=MOST_P99_MS) for name in FLOODS},
    "growth_mb": Goal(at_most=MOST_GROWTH_MB),
}
"""Issue 11, item 14."""

PAUSE_SECONDS = 0.001
READ_BYTES = 65_536
CALLS_A_CONNECTION = 20_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure each flood."""

    seconds: float


FULL = Plan(seconds=5.0)
QUICK = Plan(seconds=1.5)


class LostCallError(Exception):
    """A call of the second connection failed, which no flood may cause."""


def run(*, quick: bool, say: Say) -> Figures:
    """Every flood in turn."""
    plan = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        message = check_message(issue_token(folder))
        policy = policy_file(folder, 100)
        with python_server("bench.tools.authz_server", "native", str(policy)) as (process, port):
            load.any_load(
                port, Load(PATH, message, seconds=0.5)
            )  # what is allocated once is there after this
            before = resident_bytes(process.pid)
            figures = _latencies("peace", measure(port, message, plan.seconds))
            most = before
            for flood in FLOODS:
                say(f"flood: {flood}")
                with flooding(port, flood, message, plan.seconds) as attacker:
                    figures |= _latencies(flood, measure(port, message, plan.seconds))
                figures[f"{flood}_connections"] = attacker["connections"]
                most = max(most, resident_bytes(process.pid))
            figures["growth_mb"] = (most - before) / 1e6
    return figures


@contextmanager
def flooding(port: int, flood: str, message: bytes, seconds: float) -> Iterator[dict[str, float]]:
    """A flood in a process of its own; what it came to is there after the block."""
    order = {"port": port, "flood": flood, "path": PATH, "message": message.hex(), "seconds": seconds}
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


def measure(port: int, message: bytes, seconds: float) -> list[float]:
    """The time of each call, one after another on one connection."""
    body = b"\x00" + len(message).to_bytes(4, "big") + message
    heads = prepared_calls(port, PATH, body, CALLS_A_CONNECTION, tracing=False)
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
