"""The accesslog sidecar alone, as a server: `python -m bench.tools.accesslog_server FILE`, its one sink."""

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
from sidecars.services.accesslog import SERVICE, build
from sidecars.services.sidecar import Dependencies
from sidecars.settings.accesslog import AccesslogSettings
from sidecars.settings.sinks import FileSinkSettings
from sidecars.transport.api.address import TcpAddress
from sidecars.transport.server.server import GrpcServer

PATH = f"/{SERVICE}/StreamAccessLogs"


async def serve(file: Path) -> None:
    """Serve until SIGTERM; the port is printed once it accepts."""
    registry = CollectorRegistry()
    settings = AccesslogSettings(listen=(TcpAddress("127.0.0.1", 0),), sinks=(FileSinkSettings(path=file),))
    sidecar = build(settings, Dependencies(registry, time.time, time.monotonic, random.random, None))
    calls = CallMetrics(registry, time.monotonic)
    await sidecar.start()
    server = GrpcServer(tuple(calls.measured(service) for service in sidecar.services), settings.listen)
    await server.start()
    gc.collect()  # as the process does once it has started
    gc.freeze()
    collecting = asyncio.create_task(collect_rarely())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(server.ports[0], flush=True)
    await stop.wait()
    collecting.cancel()
    await server.drain(0)
    await sidecar.stop()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
