"""The authz sidecar alone, as a server: `python -m bench.tools.authz_server native|grpcio POLICY [trusting]`.

After SIGHUP it reads the policy again and swaps it in, as the real process does. Then it prints a line with
the seconds for both, and in milliseconds the longest delay of the event loop during that time, and the time
of the swap alone.
"""

import asyncio
import gc
import random
import signal
import sys
import time
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry

from sidecars.observability.call_metrics import CallMetrics
from sidecars.process.garbage import collect_rarely
from sidecars.services.authz.sidecar import AuthzSidecar, build
from sidecars.services.sidecar import Dependencies
from sidecars.settings.authz import AuthzSettings
from sidecars.transport.api.address import TcpAddress
from sidecars.transport.api.service import Server
from sidecars.transport.grpcio import GrpcioServer
from sidecars.transport.server.server import GrpcServer

TICK_SECONDS = 0.001
"""The resolution of uvloop's timers. With a shorter interval the loop would spin, and take half of its core
from the thread that loads."""


async def serve(transport: str, policy: Path, *, trusted: bool) -> None:
    """Serve until SIGTERM; print the port once it accepts connections."""
    registry = CollectorRegistry()
    address = TcpAddress("127.0.0.1", 0, trusted=trusted)
    settings = AuthzSettings(listen=(address,), policy=(policy,))
    sidecar = build(settings, Dependencies(registry, time.time, time.monotonic, random.random, None))
    calls = CallMetrics(registry, time.monotonic)
    services = tuple(calls.measured(service) for service in sidecar.services)
    await sidecar.start()
    server: Server = {"native": GrpcServer, "grpcio": GrpcioServer}[transport](services, settings.listen)
    await server.start()
    gc.collect()  # as the process does after its start; otherwise a full collection takes 60 ms
    gc.freeze()
    collecting = asyncio.create_task(collect_rarely())
    loop = asyncio.get_running_loop()
    stop, reload = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    print(server.ports[0], flush=True)
    reloading = asyncio.create_task(_reload_when_asked(sidecar, reload))
    await stop.wait()
    reloading.cancel()
    collecting.cancel()
    await server.drain(0)
    await sidecar.stop()


async def _reload_when_asked(sidecar: AuthzSidecar, asked: asyncio.Event) -> None:
    while True:
        await asked.wait()
        asked.clear()
        lateness = asyncio.create_task(_lateness())
        await asyncio.sleep(0.1)
        begun = time.perf_counter()
        swap = await asyncio.to_thread(sidecar.prepare)
        loaded = time.perf_counter()
        swap()
        swapped = time.perf_counter()
        await asyncio.sleep(0.1)
        lateness.cancel()
        late = max(await lateness)
        print(f"{loaded - begun} {late * 1e3} {(swapped - loaded) * 1e3}", flush=True)


async def _lateness() -> list[float]:
    """Record how late each tick of the event loop was, in seconds, until cancelled."""
    late = [0.0]
    try:
        while True:
            due = time.perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            late.append(time.perf_counter() - due)
    except asyncio.CancelledError:
        return late


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], Path(sys.argv[2]), trusted="trusting" in sys.argv[3:]))
