"""The ratelimit sidecar against a server that does nothing: in memory, with a real Redis, next to peers.

What is compared is measured alternately, and each figure is the median of several runs. The sidecar has one
core; the load has another, which it shares with Redis. Each answer is checked: an error, a wrong decision or
an answer without Redis ends the run. Rates need an idle machine; CPU times hold on a busy one, too.
"""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Final

import orjson

from bench.tools.callers import Callers
from bench.tools.goals import Figures, Goal
from bench.tools.load import Load, LoadError
from bench.tools.noop_server import PATH as NOOP_PATH
from bench.tools.peers import Peer, parse_peer
from bench.tools.processes import (
    free_port,
    load_core,
    python_server,
    resident_bytes,
    running,
    server_core,
    wait_for_port,
)
from bench.tools.processes import run as run_command
from bench.tools.ratelimit_limits import PATH, limits_file, request
from bench.tools.redis_server import RunningRedis, running_redis
from bench.tools.rounds import Measured, Target, in_rounds, measured
from bench.transport import Say

GOALS = {
    "ratio_memory": Goal(at_least=9),
    "ratio_memory_keys": Goal(at_least=6),
    "ratio_limits_10k": Goal(at_least=0.9),
    "ratio_redis": Goal(at_least=4),
    "redis_calls_per_decision": Goal(at_most=0.2),
    "ratio_one_p50": Goal(at_most=2),
    "ratio_denied": Goal(at_most=1.1),
    "denied_redis_calls": Goal(at_most=0),
    "ratio_leased": Goal(at_least=0.8),
    "redis_calls_per_decision_leased": Goal(at_most=0.05),
    "bucket_bytes": Goal(at_most=200),
    "idle_rss_mb": Goal(at_most=70),
}
"""Issues 14 and 20, "Speed"."""

OK: Final = b"\x08\x01"
OVER_LIMIT: Final = b"\x08\x02"
TIMEOUT: Final = "10S"
"""The time that a call has: more than a busy machine takes, for the runs compare costs."""
_PRIMINGS: Final = 30
_IDLE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class RatelimitPlan:
    """How long to measure."""

    turns: int
    seconds: float
    warm_up_seconds: float
    buckets: int
    lease_seconds: float
    """The warm-up of leases, which end between two turns: their rate is that of keys known to be hot."""


FULL = RatelimitPlan(turns=5, seconds=1.5, warm_up_seconds=0.5, buckets=1_000_000, lease_seconds=4)
QUICK = RatelimitPlan(turns=1, seconds=0.7, warm_up_seconds=0.3, buckets=200_000, lease_seconds=2)


def run(*, quick: bool, say: Say, peer: Sequence[str] = ()) -> Figures:
    """Measure the sidecar, and each `peer` next to it, and return all figures. Raises LoadError."""
    try:
        peers = list(map(parse_peer, peer))
    except ValueError as error:
        raise LoadError(f"--peer: {error}") from None
    plan = QUICK if quick else FULL
    if server_core() == load_core():
        say("only one core: server and load share it, so the ratios say little")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        redis = stack.enter_context(running_redis(folder, load_core()))
        if redis is None:
            say("no redis-server: only the memory store is measured")
        bench = _Bench(stack, folder, plan, say, redis)
        figures = bench.throughput(peers)
        if redis is not None:
            figures |= bench.one_in_flight(redis, peers)
        figures |= bench.totals()
        figures["idle_rss_mb"] = _idle_rss_mb(folder)
    return figures


@dataclass(slots=True)
class _Bench:
    """The servers, and what they are loaded with."""

    stack: ExitStack
    folder: Path
    plan: RatelimitPlan
    say: Say
    redis: RunningRedis | None
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def start(self, name: str, limits: int, *arguments: str) -> None:
        """Start a sidecar with that many limits."""
        self.say(f"start: {name}")
        file = str(limits_file(self.folder, limits))
        server = python_server("bench.tools.ratelimit_server", file, *arguments)
        self.servers[name], self.ports[name] = self.stack.enter_context(server)

    def target(self, server: str, callers: Callers, service: str = "target", answer: bytes = OK) -> Target:
        """Return the load of `callers` for a server."""
        order = replace(self.order(callers), message=request(service), answer=answer)
        redis = self.redis if server in {"redis", "leased"} else None
        return Target(self.ports[server], order, self.servers[server].pid, redis)

    def order(self, callers: Callers | None) -> Load:
        """Return a load with the times of the plan."""
        plan = self.plan
        return Load(
            PATH,
            request("target"),
            seconds=plan.seconds,
            warm_up_seconds=plan.warm_up_seconds,
            callers=callers,
            timeout=TIMEOUT,
            answer=OK,
        )

    def throughput(self, peers: Sequence[Peer]) -> Figures:
        """Return the rates and CPU times with 64 calls in flight."""
        noop, noop_port = self.stack.enter_context(python_server("bench.tools.noop_server", "grpcio"))
        self.start("memory", 10)
        self.start("memory_filled", 10, "--fill", str(self.plan.buckets))
        self.start("limits_10k", 10_000)
        targets = {
            "grpcio_noop": Target(noop_port, replace(self.order(None), path=NOOP_PATH, answer=b""), noop.pid)
        }
        targets |= {
            "memory_one_key": self.target("memory", ONE, "one"),
            "memory_10k_zipf": self.target("memory", ZIPF),
            "memory_10k_rotation": self.target("memory", ROTATION),
            "memory_1m_zipf": self.target("memory_filled", Callers(self.plan.buckets, "zipf")),
            "memory_1m_rotation": self.target("memory_filled", Callers(self.plan.buckets, "rotation")),
            "limits_10k": self.target("limits_10k", ROTATION),
        }
        if self.redis is not None:
            self.start("redis", 10, str(self.redis.socket))
            targets["redis_one_key"] = self.target("redis", ONE, "one")
            targets["redis_10k_rotation"] = self.target("redis", ROTATION)
            targets["redis_10k_zipf"] = self.target("redis", ZIPF)
            self.start("leased", 10, str(self.redis.socket), "--lease")
            leased = self.target("leased", ZIPF)
            load = replace(leased.load, warm_up_seconds=self.plan.lease_seconds)
            targets["leased_10k_zipf"] = replace(leased, load=load)
            targets["denied"] = self.target("redis", ROTATION, "closed", OVER_LIMIT)
            self.prime(targets["denied"])
        for peer in peers:
            targets |= self.peer_targets(peer)
        self.say(f"4 connections x 16 calls, {self.plan.turns} turns of {len(targets)} targets")
        return _throughput(in_rounds(targets, self.plan.turns))

    def peer_targets(self, peer: Peer) -> dict[str, Target]:
        """Return the same loads for a peer; its callers over the limit are primed."""
        redis = None if peer.redis_pid is None else RunningRedis(None, peer.redis_pid)
        targets = {
            f"{peer.name}_one_key": Target(
                peer.port, replace(self.order(ONE), message=request("one")), peer.pid, redis
            ),
            f"{peer.name}_10k_rotation": Target(peer.port, self.order(ROTATION), peer.pid, redis),
            f"{peer.name}_10k_zipf": Target(peer.port, self.order(ZIPF), peer.pid, redis),
        }
        denied = replace(self.order(ROTATION), message=request("closed"), answer=OVER_LIMIT)
        targets[f"{peer.name}_denied"] = Target(peer.port, denied, peer.pid, redis)
        self.prime(targets[f"{peer.name}_denied"])
        return targets

    def prime(self, target: Target) -> None:
        """Make every caller go over the limit. Raises LoadError if they do not."""
        self.say("callers over their limit")
        any_answer = replace(target, load=replace(target.load, answer=b"", seconds=1.0, warm_up_seconds=0.1))
        calls = 0.0
        for _ in range(_PRIMINGS):
            calls += measured(any_answer).result.calls
            if calls > 3 * ROTATION.number:
                return
            rotation = ROTATION._replace(first=int(calls))
            any_answer = replace(any_answer, load=replace(any_answer.load, callers=rotation))
        raise LoadError("the server is too slow to refuse each caller once")

    def one_in_flight(self, redis: RunningRedis, peers: Sequence[Peer]) -> Figures:
        """Return the latencies of one call at a time, next to those of a bare EVALSHA."""
        order = replace(self.order(ROTATION), connections=1, streams=1)
        targets = {"redis_one": replace(self.target("redis", ROTATION), load=order)}
        for peer in peers:
            peer_redis = None if peer.redis_pid is None else RunningRedis(None, peer.redis_pid)
            targets[f"{peer.name}_one"] = Target(peer.port, order, peer.pid, peer_redis)
        found: list[dict[str, Measured]] = []
        bare_us: list[float] = []
        for turn in range(self.plan.turns):
            self.say(f"one call in flight: turn {turn + 1} of {self.plan.turns}")
            found.append(in_rounds(targets, 1))
            command = [
                sys.executable,
                "-m",
                "bench.tools.bare_evalsha",
                str(redis.socket),
                str(self.plan.seconds),
            ]
            bare_us.append(float(run_command(command, server_core()).splitlines()[-1]))
        figures: Figures = {"bare_evalsha_p50_us": median(bare_us)}
        for name in targets:
            middle = Measured.middle([turn[name] for turn in found])
            figures |= {f"{name}_p50_us": middle.result.p50_us, **_cpu(name, middle)}
        p50_us = Measured.middle([turn["redis_one"] for turn in found]).result.p50_us
        figures["ratio_one_p50"] = p50_us / median(bare_us)
        return figures

    def totals(self) -> Figures:
        """Return the bytes of a bucket. Raises LoadError if a sidecar has answered without its store."""
        bucket_bytes = 0.0
        for name, server in self.servers.items():
            assert server.stdout is not None  # noqa: S101  # asked for with PIPE
            server.send_signal(signal.SIGHUP)
            report = orjson.loads(server.stdout.readline())
            if report["without_store"]:
                raise LoadError(f"{name} answered {report['without_store']:.0f} calls without Redis")
            bucket_bytes = max(bucket_bytes, report["bucket_bytes"])
        return {"bucket_bytes": bucket_bytes}


ONE: Final = Callers(1, "rotation")
ROTATION: Final = Callers(10_000, "rotation")
ZIPF: Final = Callers(10_000, "zipf")


def _throughput(found: dict[str, Measured]) -> Figures:
    rps = {name: one.result.rps for name, one in found.items()}
    noop = rps["grpcio_noop"]
    memory_keys = [name for name in rps if name.startswith(("memory_10k", "memory_1m"))]
    worst = min(memory_keys, key=rps.__getitem__)
    figures: Figures = {
        "ratio_memory": rps["memory_one_key"] / noop,
        "ratio_memory_keys": rps[worst] / noop,
        "ratio_limits_10k": rps["limits_10k"] / rps["memory_10k_rotation"],
    }
    if "denied" in rps:
        figures |= {
            "ratio_redis": min(rps["redis_10k_rotation"], rps["redis_10k_zipf"]) / noop,
            "redis_calls_per_decision": found["redis_10k_rotation"].redis_calls,
            "ratio_denied": rps["memory_10k_rotation"] / rps["denied"],
            "denied_redis_calls": found["denied"].redis_calls,
            "ratio_leased": rps["leased_10k_zipf"] / rps["memory_10k_zipf"],
            "redis_calls_per_decision_leased": found["leased_10k_zipf"].redis_calls,
        }
    figures |= _cpu_ratios(found, worst)
    for name, one in found.items():
        figures |= {f"{name}_rps": one.result.rps, f"{name}_p50_us": one.result.p50_us, **_cpu(name, one)}
    return figures


def _cpu_ratios(found: dict[str, Measured], worst: str) -> Figures:
    """Return what the ratios of the rates are on an idle machine, for one that is not."""
    cpu = {name: one.cpu_us for name, one in found.items() if one.cpu_us is not None}
    noop = cpu["grpcio_noop"]
    ratios: Figures = {
        "cpu_ratio_memory": noop / cpu["memory_one_key"],
        "cpu_ratio_memory_keys": noop / cpu[worst],
        "cpu_ratio_limits_10k": cpu["memory_10k_rotation"] / cpu["limits_10k"],
    }
    if "denied" in cpu:
        ratios["cpu_ratio_redis"] = noop / cpu["redis_10k_rotation"]
        ratios["cpu_ratio_denied"] = cpu["denied"] / cpu["memory_10k_rotation"]
        ratios["cpu_ratio_leased"] = cpu["memory_10k_zipf"] / cpu["leased_10k_zipf"]
    return ratios


def _cpu(name: str, one: Measured) -> Figures:
    figures: Figures = {f"{name}_cpu_us": one.cpu_us}
    if one.redis_cpu_us is not None:
        figures[f"{name}_redis_cpu_us"] = one.redis_cpu_us
    return {key: value for key, value in figures.items() if value is not None}


def _idle_rss_mb(folder: Path) -> float:
    """Return the memory of the real process with ten limits, before any call."""
    port = free_port()
    settings = folder / "sidecars.yaml"
    settings.write_text(
        f"ratelimit: {{listen: ['127.0.0.1:{port}'], limits: [{limits_file(folder, 10).name}]}}\n"
        f"admin: {{listen: '127.0.0.1:{free_port()}'}}\n"
    )
    command = [sys.executable, "-m", "sidecars", "run", "ratelimit", "--config", str(settings)]
    with running(command, server_core()) as process:
        wait_for_port(port)
        time.sleep(_IDLE_SECONDS)
        return resident_bytes(process.pid) / 1e6
