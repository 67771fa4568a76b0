"""The accesslog sidecar: instructions an entry, against a plain receiver, and next to a real Envoy.

What is compared is measured alternately, and each figure is the median of several runs. The entries are
those of an API with authz and ratelimit on, 16 of 870 bytes a message. The lines go to a file.
"""

import asyncio
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.tools.accesslog_server import PATH
from bench.tools.goals import Figures, Goal
from bench.tools.instructions import instructions_per_entry
from bench.tools.load import LoadError, h2load_installed
from bench.tools.log_edge import STATS, log_edge
from bench.tools.log_entries import ENTRIES_A_MESSAGE, messages
from bench.tools.log_sender import LogSender
from bench.tools.processes import cpu_seconds, load_core, python_server, resident_bytes
from bench.tools.processes import run as run_pinned
from bench.transport import Say, nghttpd
from sidecars.demo.envoy import find_envoy, scripts_folder, serve_envoy

GOALS = {
    "instructions_per_entry": Goal(at_most=132_000),
    "ratio_plain": Goal(at_least=10),
    "envoy_dropped": Goal(at_most=0),
    "cpu_ratio_envoy": Goal(at_most=0.4),
    "memory_growth": Goal(at_most=0.1),
}
"""Issue 15, "Speed"."""

REQUEST_PATH = "/orders"
WARM_UP_MESSAGES = 500
MEMORY_STEPS = 10
SETTLE_SECONDS = 2.0
"""Envoy flushes its buffer every second."""


@dataclass(frozen=True, slots=True)
class AccesslogPlan:
    """How much to measure."""

    turns: int
    messages: int
    plain_messages: int
    envoy_seconds: float
    memory_messages: int


FULL = AccesslogPlan(5, 5_000, 500, 10.0, 5_000_000 // ENTRIES_A_MESSAGE)
QUICK = AccesslogPlan(2, 1_000, 100, 2.0, 0)


def run(*, quick: bool, say: Say) -> Figures:
    """Measure the accesslog sidecar and return all figures."""
    plan = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures: Figures = {}
        figures |= instructions_per_entry(folder, say)
        figures |= _against_plain(folder, plan, say)
        figures |= asyncio.run(_with_envoy(folder, plan, say))
        figures |= _memory(plan, say)
    return figures


def _against_plain(folder: Path, plan: AccesslogPlan, say: Say) -> Figures:
    """Entries a second and CPU an entry of both, each with one stream that never waits."""
    servers = {"ours": "bench.tools.accesslog_server", "plain": "bench.tools.plain_log_server"}
    counts = {"ours": plan.messages, "plain": plan.plain_messages}
    sent = {name: messages(count) for name, count in counts.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(python_server(module, str(folder / f"{name}.jsonl")))
            for name, module in servers.items()
        }
        for process, port in running.values():
            _send(port, process.pid, messages(WARM_UP_MESSAGES))
        for turn in range(plan.turns):
            for name, (process, port) in running.items():
                say(f"one log stream: turn {turn + 1} of {plan.turns}, {name}")
                seconds, cpu = _send(port, process.pid, sent[name])
                entries = counts[name] * ENTRIES_A_MESSAGE
                found[name].append((entries / seconds, cpu / entries * 1e6))
    rates = {name: median(rate for rate, _ in runs) for name, runs in found.items()}
    cpu_us = {name: median(cost for _, cost in runs) for name, runs in found.items()}
    return {
        **{f"{name}_entries_per_second": rate for name, rate in rates.items()},
        **{f"{name}_cpu_us_per_entry": cost for name, cost in cpu_us.items()},
        "ratio_plain": rates["ours"] / rates["plain"],
        "ratio_plain_cpu": cpu_us["plain"] / cpu_us["ours"],
    }


def _send(port: int, pid: int, sent: list[bytes]) -> tuple[float, float]:
    """Send a whole stream; return the seconds until the server has read it, and its CPU seconds."""
    cpu, began = cpu_seconds(pid), time.perf_counter()
    with LogSender(port, PATH) as sender:
        sender.send(sent)
        sender.finish()
    return time.perf_counter() - began, cpu_seconds(pid) - cpu


async def _with_envoy(folder: Path, plan: AccesslogPlan, say: Say) -> Figures:
    """One worker of Envoy at its full rate, with the sidecar on the other core."""
    nothing: Figures = dict.fromkeys(("envoy_rps", "envoy_dropped", "envoy_lost", "cpu_ratio_envoy"))
    if not h2load_installed():
        say("h2load is not installed (Debian: apt-get install nghttp2-client): nothing to load Envoy with")
        return nothing
    program = find_envoy(os.environ, scripts_folder())
    if program.docker_image:
        say("Envoy runs in Docker, where its CPU time cannot be read: not measured with Envoy")
        return nothing
    file = folder / "envoy.jsonl"
    with ExitStack() as stack:
        upstream = stack.enter_context(nghttpd(say, load_core(), REQUEST_PATH))
        if upstream is None:
            return nothing
        sidecar, port = stack.enter_context(python_server("bench.tools.accesslog_server", str(file)))
        configuration = log_edge(port, upstream)
        async with serve_envoy(program, configuration, folder) as envoy:
            os.sched_setaffinity(envoy.process.child.pid, {load_core()})
            say(f"Envoy at its full rate for {plan.envoy_seconds:g} s")
            pids = (sidecar.pid, envoy.process.child.pid)
            before = [cpu_seconds(pid) for pid in pids]
            await asyncio.to_thread(run_pinned, _requests(envoy.ports["edge"], plan), load_core())
            await asyncio.sleep(SETTLE_SECONDS)
            ours, theirs = (cpu_seconds(pid) - cpu for pid, cpu in zip(pids, before, strict=True))
            written = await envoy.counter(f"{STATS}.logs_written")
            dropped = await envoy.counter(f"{STATS}.logs_dropped")
    if not written:
        raise LoadError("Envoy logged nothing")
    with file.open("rb") as lines:
        received = sum(1 for _ in lines)
    return {
        "envoy_rps": written / plan.envoy_seconds,
        "envoy_dropped": float(dropped),
        "envoy_lost": float(written - received),
        "envoy_cpu_us_per_request": theirs / written * 1e6,
        "ours_cpu_us_per_request": ours / written * 1e6,
        "cpu_ratio_envoy": ours / theirs,
    }


def _requests(port: int, plan: AccesslogPlan) -> list[str]:
    return [
        *("h2load", "-D", f"{plan.envoy_seconds:g}", "-c", "4", "-m", "16"),
        *("-H", "accept: application/json", "-H", "user-agent: bench/1.0"),
        f"http://127.0.0.1:{port}{REQUEST_PATH}?expand=lines",
    ]


def _memory(plan: AccesslogPlan, say: Say) -> Figures:
    """Growth of the resident memory from a tenth of the entries to the last, as a share."""
    if not plan.memory_messages:
        return {"memory_growth": None}
    say(f"memory over {plan.memory_messages * ENTRIES_A_MESSAGE:,} entries")
    with python_server("bench.tools.accesslog_server", os.devnull) as (process, port):
        sizes = []
        with LogSender(port, PATH) as sender:
            for tenth in range(MEMORY_STEPS):
                count = plan.memory_messages // MEMORY_STEPS
                for start in range(tenth * count, (tenth + 1) * count, WARM_UP_MESSAGES):
                    sender.send(messages(min(WARM_UP_MESSAGES, (tenth + 1) * count - start), start))
                sizes.append(resident_bytes(process.pid))
            sender.finish()
    first, *later = sizes
    return {
        "memory_first_bytes": float(first),
        "memory_growth": max(abs(size - first) for size in later) / first,
    }
