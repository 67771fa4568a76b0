"""An outside client that resets requests at Envoy (CVE-2023-44487): the effect on the checks of others.

A real Envoy calls the authz sidecar for each request; an attacker opens and resets requests, which makes
Envoy cancel its checks. Other clients send requests at a moderate rate on their own connections. Measured
with the peer trusted, as on a unix socket or with mTLS, and for comparison without: then the sidecar ends
Envoy's connection when more than 1,000 checks a second are cancelled that it has started and not answered
(`connections_cut`).
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson

from bench.authz import issue_token, policy_file
from bench.tools import load
from bench.tools.edge import edge
from bench.tools.goals import Figures, Goal
from bench.tools.processes import load_core, python_server, resident_bytes
from bench.transport import Say
from sidecars.demo.envoy import Envoy, find_envoy, scripts_folder, serve_envoy

GOALS = {
    **{f"{rate}_failed": Goal(at_most=0) for rate in ("1200", "2500")},
    **{f"{rate}_p99_ms": Goal(at_most=10) for rate in ("1200", "2500")},
    "growth_mb": Goal(at_most=32),
}
"""Issue 11, item 13."""

CLIENTS = 4
PAUSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class ResetPlan:
    """How long to measure."""

    seconds: float


FULL = ResetPlan(seconds=10.0)
QUICK = ResetPlan(seconds=3.0)


def run(*, quick: bool, say: Say) -> Figures:
    """Measure each rate of resets, after a period without resets."""
    return asyncio.run(_run(QUICK if quick else FULL, say))


async def _run(plan: ResetPlan, say: Say) -> Figures:
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        token = issue_token(folder)
        policy = str(policy_file(folder, 100))
        for kind, prefix, rates in (("trusting", "", (0, 1200, 2500)), ("wary", "untrusted_", (2500,))):
            with python_server("bench.tools.authz_server", "native", policy, kind) as (sidecar, port):
                async with serve_envoy(find_envoy(os.environ, scripts_folder()), edge(port), folder) as envoy:
                    address = f"http://127.0.0.1:{envoy.ports['edge']}"
                    await _others(address, token, 0.5)
                    before = resident_bytes(sidecar.pid)
                    for rate in rates:
                        say(f"{kind}: {rate} resets a second")
                        times, failed = await under_attack(envoy.ports["edge"], token, rate, plan.seconds)
                        key = f"{prefix}{rate or 'peace'}"
                        p50_us, p99_us = load.percentiles([seconds * 1e6 for seconds in times])
                        figures[f"{key}_requests"] = float(len(times))
                        figures[f"{key}_failed"] = float(failed)
                        figures[f"{key}_p50_ms"] = p50_us / 1e3
                        figures[f"{key}_p99_ms"] = p99_us / 1e3
                    figures[f"{prefix}growth_mb"] = (resident_bytes(sidecar.pid) - before) / 1e6
                    figures[f"{prefix}checks_cancelled"] = await _stat(envoy, "upstream_rq_tx_reset")
                    figures[f"{prefix}connections_cut"] = await _stat(
                        envoy, "upstream_cx_destroy_remote_with_active_rq"
                    )
    return figures


async def _stat(envoy: Envoy, name: str) -> float:
    return float(await envoy.counter(f"cluster.authz.{name}"))


async def under_attack(port: int, token: str, rate: int, seconds: float) -> tuple[list[float], int]:
    """Measure each request of others while that many a second are reset, and count failures.

    Raise LoadError if the attacker was too slow.
    """
    if not rate:
        return await _others(f"http://127.0.0.1:{port}", token, seconds)
    order = orjson.dumps({"port": port, "rate": rate, "seconds": seconds + 0.5}).decode()
    attacker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.tools.resetter", order, stdout=subprocess.PIPE
    )
    os.sched_setaffinity(attacker.pid, {load_core()})
    found = await _others(f"http://127.0.0.1:{port}", token, seconds)
    output, _ = await attacker.communicate()
    sent = orjson.loads(output)["requests"]
    if sent < rate * seconds / 2:
        raise load.LoadError(
            f"the attacker came to {sent} requests only: the machine is too busy to say anything"
        )
    return found


async def _others(address: str, token: str, seconds: float) -> tuple[list[float], int]:
    """Return the time of each request, and the number of failures."""
    times: list[float] = []
    failed = 0
    headers = {"authorization": f"Bearer {token}", "host": "api.example.com"}
    end = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal failed
        async with aiohttp.ClientSession(address, headers=headers) as session:
            while (begun := time.perf_counter()) < end:
                async with session.get("/target/orders/42") as response:
                    await response.read()
                    failed += response.status != 200
                times.append(time.perf_counter() - begun)
                await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(one() for _ in range(CLIENTS)))
    return times, failed
