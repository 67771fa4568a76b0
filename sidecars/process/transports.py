"""Chooses the gRPC server that the setting `transport` names."""

from collections.abc import Sequence

from sidecars.observability.connection_metrics import ConnectionTally
from sidecars.settings.root import Settings
from sidecars.transport.api.address import Address
from sidecars.transport.api.service import Server, Service
from sidecars.transport.server.server import GrpcServer


def make_server(
    settings: Settings, services: tuple[Service, ...], addresses: Sequence[Address], tally: ConnectionTally
) -> Server:
    """An inert server of `services` on `addresses`, whose connections are counted in `tally`."""
    limits = settings.connections.limits
    if settings.transport == "native":
        lifetime = settings.connections.lifetime
        server = GrpcServer(services, addresses, limits=limits, lifetime=lifetime, observer=tally)
        tally.count_open_streams(lambda: server.open_streams)
        tally.count_held_bytes(lambda: server.held_bytes)
        tally.ask_about_tls(lambda: server.tls_is_stale, lambda: server.tls_expiries)
        return server
    # Here, as it takes 10 MB that the other transport does not need.
    from sidecars.transport.grpcio import GrpcioServer

    return GrpcioServer(
        services,
        addresses,
        max_message_bytes=limits.max_message_bytes,
        max_concurrent_streams=limits.max_concurrent_streams,
    )
