"""Loads for several servers in turns, with the CPU time of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Self

from redis import Redis

from bench.tools import load
from bench.tools.load import Load, Result, middle
from bench.tools.processes import cpu_seconds
from bench.tools.redis_server import RunningRedis


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and what to load it with."""

    port: int
    load: Load
    pid: int | None = None
    redis: RunningRedis | None = None
    """The Redis that it counts in."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run against a target, or the median of several."""

    result: Result
    cpu_us: float | None
    """The CPU time of the server for a call."""
    redis_cpu_us: float | None
    """The CPU time of Redis for a call."""
    redis_calls: float | None
    """The commands for a call, a script and all that it does counted once."""

    @classmethod
    def middle(cls, found: "list[Self]") -> "Measured":
        """The median of each figure."""
        columns = zip(*[(one.cpu_us, one.redis_cpu_us, one.redis_calls) for one in found], strict=True)
        return Measured(
            middle([one.result for one in found]),
            *[None if None in column else median(column) for column in columns],
        )


def measured(target: Target) -> Measured:
    """Load the target once."""
    redis = target.redis
    pids = (target.pid, None if redis is None else redis.pid)
    before = [None if pid is None else cpu_seconds(pid) for pid in pids]
    calls_before = scripts_run(redis)
    result = load.generator(target.port, target.load)
    cpu_us, redis_cpu_us = [
        None if pid is None or begun is None else (cpu_seconds(pid) - begun) / result.calls * 1e6
        for pid, begun in zip(pids, before, strict=True)
    ]
    calls = None if redis is None else (scripts_run(redis) - calls_before) / result.calls
    return Measured(result, cpu_us, redis_cpu_us, calls)


def in_rounds(targets: Mapping[str, Target], turns: int) -> dict[str, Measured]:
    """Load each target in turns, A B A B, so that other load on the machine affects all of them."""
    found: dict[str, list[Measured]] = {name: [] for name in targets}
    for _ in range(turns):
        for name, target in targets.items():
            found[name].append(measured(target))
    return {name: Measured.middle(runs) for name, runs in found.items()}


def scripts_run(redis: RunningRedis | None) -> int:
    """Return how many script calls decisions have made so far (INFO commandstats).

    Each begins with an EVALSHA, also where an EVAL follows because Redis does not know the script. The
    heartbeat of a sidecar is an EVAL of its own every two seconds, with decisions or without.
    """
    if redis is None or redis.socket is None:
        return 0
    with Redis(unix_socket_path=str(redis.socket)) as client:
        stats = client.info("commandstats")
    calls: int = stats.get("cmdstat_evalsha", {"calls": 0})["calls"]
    return calls
