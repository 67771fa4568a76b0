"""The ratelimit sidecar alone: `python -m bench.tools.ratelimit_server LIMITS [SOCKET] [--lease] [--fill N]`.

Counts in memory, or in the Redis on the unix socket SOCKET, with `--lease` by leases. `--fill` makes a bucket
for each of N callers before it serves. After SIGHUP it prints a line of JSON: the calls so far, those without
an answer of the store, and the bytes that each bucket of `--fill` takes.
"""

import argparse
import asyncio
import gc
import os
import random
import signal
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import orjson
import uvloop
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from bench.tools.callers import Callers, messages
from bench.tools.processes import resident_bytes
from bench.tools.ratelimit_limits import request
from sidecars.observability.call_metrics import CallMetrics
from sidecars.process.garbage import collect_rarely
from sidecars.process.redis import connect
from sidecars.services.ratelimit import RatelimitSidecar, build
from sidecars.services.sidecar import Dependencies
from sidecars.settings.ratelimit import LeaseSettings, RatelimitSettings
from sidecars.settings.redis import RedisSettings
from sidecars.transport.api.address import TcpAddress
from sidecars.transport.server.server import GrpcServer

MAX_BUCKETS: Final = 1_100_000
REDIS_TIMEOUT_MS: Final = 5_000
"""So long that a busy machine does not make the sidecar answer without Redis; its answer would be cheaper."""


async def serve(limits: Path, redis: Redis | None, fill: int, *, lease: bool) -> None:
    """Serve until SIGTERM; print the port once it accepts connections."""
    registry = CollectorRegistry()
    settings = RatelimitSettings(
        listen=(TcpAddress("127.0.0.1", 0),),
        limits=(limits,),
        store="memory" if redis is None else "redis",
        max_buckets=MAX_BUCKETS,
        redis_timeout_ms=REDIS_TIMEOUT_MS,
        leases=LeaseSettings(by_default=lease),
    )
    sidecar = build(settings, Dependencies(registry, time.time, time.monotonic, random.random, redis))
    calls = CallMetrics(registry, time.monotonic)
    services = tuple(calls.measured(service) for service in sidecar.services)
    await sidecar.start()
    bucket_bytes = filled(sidecar, fill) if fill else 0.0
    server = GrpcServer(services, settings.listen)
    await server.start()
    gc.collect()  # as the process does after its start
    gc.freeze()
    collecting = asyncio.create_task(collect_rarely())
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: _report(registry, bucket_bytes))
    print(server.ports[0], flush=True)
    await stop.wait()
    collecting.cancel()
    await server.drain(0)
    await sidecar.stop()


def filled(sidecar: RatelimitSidecar, callers: int) -> float:
    """Make a bucket for each of `callers`, and return the bytes that each takes."""
    gc.collect()
    call: Any = SimpleNamespace(deadline=None)
    before = resident_bytes(os.getpid())
    for message in islice(messages(request("target"), Callers(callers, "rotation")), callers):
        sidecar.should_rate_limit(message, call)
    gc.collect()
    buckets: int = sidecar.describe()["buckets_in_memory"]
    return (resident_bytes(os.getpid()) - before) / buckets


def _report(registry: CollectorRegistry, bucket_bytes: float) -> None:
    def total(name: str) -> float:
        return sum(s.value for family in registry.collect() for s in family.samples if s.name == name)

    figures = {
        "calls": total("ratelimit_service_total_requests"),
        "without_store": total("ratelimit_service_failure_answers"),
        "bucket_bytes": bucket_bytes,
    }
    print(orjson.dumps(figures).decode(), flush=True)


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("limits", type=Path)
    parser.add_argument("redis", nargs="?")
    parser.add_argument("--lease", action="store_true")
    parser.add_argument("--fill", type=int, default=0)
    order = parser.parse_args()

    async def run() -> None:
        url = None if order.redis is None else f"unix://{order.redis}"
        # The pool waits as long as the store, or a busy machine would make it give up a connection.
        settings = None if url is None else RedisSettings(url=url, operation_timeout_ms=REDIS_TIMEOUT_MS)
        await serve(
            order.limits, None if settings is None else connect(settings), order.fill, lease=order.lease
        )

    uvloop.run(run())


if __name__ == "__main__":
    main()
