"""A server whose only method, Check, does nothing: `python -m bench.tools.noop_server native|grpcio`."""

import asyncio
import signal
import sys

import uvloop

from bench.tools.processes import allow_open_files
from sidecars.transport.api.address import TcpAddress
from sidecars.transport.api.service import Call, Server, Service, Unary
from sidecars.transport.grpcio import GrpcioServer
from sidecars.transport.server.server import GrpcServer

SERVICE = "envoy.service.auth.v3.Authorization"
PATH = f"/{SERVICE}/Check"
REPLY = b"\x0a\x00"
"""A CheckResponse whose status is OK."""
OPEN_FILES = 12_000


def check(_request: bytes, _call: Call) -> bytes:
    """Answer OK."""
    return REPLY


async def serve(transport: str) -> None:
    """Serve until SIGTERM; print the port once it accepts connections."""
    services = (Service(SERVICE, {"Check": Unary(check)}),)
    address = TcpAddress("127.0.0.1", 0)
    server: Server = {"native": GrpcServer, "grpcio": GrpcioServer}[transport](services, (address,))
    await server.start()
    print(server.ports[0], flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.drain(0)


if __name__ == "__main__":
    allow_open_files(OPEN_FILES)
    uvloop.run(serve(sys.argv[1]))
