"""The one place that knows which gRPC server stands behind `transport:`."""

from collections.abc import Sequence
from typing import Literal

from sidecars.transport.address import Address
from sidecars.transport.grpcio_server import GrpcioServer
from sidecars.transport.server import OwnServer
from sidecars.transport.service import Server, Service


def make_server(
    transport: Literal["grpcio", "own"], services: tuple[Service, ...], addresses: Sequence[Address]
) -> Server:
    """An inert server of `services` on `addresses`."""
    if transport == "own":
        return OwnServer(services, addresses)
    return GrpcioServer(services, addresses)
