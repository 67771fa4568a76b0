"""The one place that knows which gRPC server stands behind `transport:`."""

from collections.abc import Iterator, Sequence

from configfile import KeyPart
from sidecars.runtime.connection_metrics import ConnectionTally
from sidecars.runtime.settings.root import Settings
from sidecars.runtime.settings.transport import LifetimeSettings, LimitSettings
from sidecars.transport.address import Address
from sidecars.transport.server import OwnServer
from sidecars.transport.service import Server, Service

_GRPCIO_LIMITS = frozenset({"max_message_bytes", "max_concurrent_streams"})
"""Those of `connections.limits` that grpc.aio has an option for."""


def make_server(
    settings: Settings, services: tuple[Service, ...], addresses: Sequence[Address], tally: ConnectionTally
) -> Server:
    """An inert server of `services` on `addresses`, whose connections are counted in `tally`."""
    limits = settings.connections.limits
    if settings.transport == "own":
        lifetime = settings.connections.lifetime.lifetime
        server = OwnServer(services, addresses, limits=limits.limits, lifetime=lifetime, observer=tally)
        tally.count_open_streams(lambda: server.open_streams)
        tally.ask_about_tls(lambda: server.tls_is_stale)
        return server
    # Here, as it takes 10 MB that the other transport does not need.
    from sidecars.transport.grpcio_server import GrpcioServer

    return GrpcioServer(
        services,
        addresses,
        max_message_bytes=limits.max_message_bytes,
        max_concurrent_streams=limits.max_concurrent_streams,
    )


def unfit_for_transport(settings: Settings) -> Iterator[tuple[tuple[KeyPart, ...], str]]:
    """What in `settings` the transport cannot keep: key paths and messages. A limit is never just ignored."""
    if settings.transport == "own":
        return
    for name in ("authz", "ratelimit", "accesslog"):
        section = getattr(settings, name)
        for index, address in enumerate(section.listen if section is not None else ()):
            if address.tls is not None:
                yield (name, "listen", index, "tls"), "needs `transport: own`: grpcio is served without TLS"
            if address.trusted is not None:
                yield (name, "listen", index, "trusted"), "needs `transport: own`: grpcio trusts no peer"
    for part, defaults in (("limits", LimitSettings()), ("lifetime", LifetimeSettings())):
        given = getattr(settings.connections, part)
        for key in type(defaults).model_fields:
            if getattr(given, key) != getattr(defaults, key) and key not in _GRPCIO_LIMITS:
                yield ("connections", part, key), "needs `transport: own`: grpcio does not know it"
