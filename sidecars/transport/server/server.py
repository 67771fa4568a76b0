"""Our own gRPC server: the sockets it listens on, and its start and end."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from sidecars.transport.api.address import Address, TlsSettings
from sidecars.transport.api.limits import Lifetime, Limits
from sidecars.transport.api.service import Service, routes
from sidecars.transport.http2.observer import NO_OBSERVER, Observer
from sidecars.transport.server.connection_manager import ConnectionManager
from sidecars.transport.server.handshake import TlsServer
from sidecars.transport.server.protocol import SocketProtocol
from sidecars.transport.server.sockets import Listener, listen
from sidecars.transport.server.tls import ServerContext

_DEFAULT_LIMITS: Final = Limits()
_DEFAULT_LIFETIME: Final = Lifetime()


class GrpcServer:
    """A `transport.service.Server` on our own HTTP/2. Inert until `start`; serves once."""

    def __init__(
        self,
        services: tuple[Service, ...],
        addresses: Sequence[Address],
        *,
        limits: Limits = _DEFAULT_LIMITS,
        lifetime: Lifetime = _DEFAULT_LIFETIME,
        observer: Observer = NO_OBSERVER,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._methods = {path.encode(): method for path, method in routes(services).items()}
        self._addresses = tuple(addresses)
        self._limits = limits
        self._lifetime = lifetime
        self._observer = observer
        self._clock = clock
        self._random = random
        self._listeners: list[Listener] = []
        self._servers: list[asyncio.Server | TlsServer] = []
        self._connections: ConnectionManager | None = None
        self._contexts: dict[TlsSettings, ServerContext] = {}
        self._ports: tuple[int, ...] = ()
        self._draining = False

    async def start(self) -> None:
        """Bind every address and accept.

        Raises OSError, with the address in it, when one cannot be bound, or when a TLS file is not usable.
        """
        for tls in {address.tls for address in self._addresses if address.tls is not None}:
            self._contexts[tls] = await ServerContext.load(tls)
        try:
            for address in self._addresses:
                self._listeners.append(await listen(address))  # one by one: the bound ones are closed below
        except OSError:
            self._close_listeners()
            raise
        self._ports = tuple(listener.port for listener in self._listeners if listener.port is not None)
        self._connections = ConnectionManager(
            self._methods, self._limits, self._lifetime, self._observer, self._clock, self._random
        )
        await self._accept(self._connections)

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports bound, in the order of the addresses."""
        return self._ports

    @property
    def open_streams(self) -> int:
        """Calls that wait for their end; one that is answered in the read that brought it is none."""
        return 0 if self._connections is None else self._connections.open_streams

    @property
    def held_bytes(self) -> int:
        """Bytes of the unfinished request messages of all connections."""
        return 0 if self._connections is None else self._connections.held_by_all.total

    @property
    def tls_is_stale(self) -> bool:
        """Whether TLS files were refused when they were last read, so that the last good ones serve."""
        return any(context.is_stale for context in self._contexts.values())

    @property
    def tls_expiries(self) -> Mapping[Path, float]:
        """When the first certificate of each TLS file in service expires, in Unix seconds."""
        return {file: at for context in self._contexts.values() for file, at in context.expiries.items()}

    async def drain(self, grace_seconds: float) -> None:
        """Take no new work, let calls in flight finish, then close; after `grace_seconds` close anyway."""
        connections = self._connections
        if connections is None or self._draining:
            return
        self._draining = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._close_listeners()
        await connections.drain(grace_seconds)
        for context in self._contexts.values():
            await context.stop()

    async def reload_tls(self) -> bool:
        """Read the TLS files now rather than at the next look; whether all are usable, True without TLS."""
        return all([await context.reload() for context in self._contexts.values()])

    async def _accept(self, connections: ConnectionManager) -> None:
        loop = asyncio.get_running_loop()
        for context in self._contexts.values():
            context.keep_fresh()
        for listener in self._listeners:
            tls, trusted = listener.address.tls, listener.address.trusts_peers
            create = loop.create_server if listener.port is not None else loop.create_unix_server
            for sock in listener.sockets:
                if tls is not None:
                    current = self._contexts[tls].current
                    self._servers.append(TlsServer(connections, sock, current, trusted=trusted))
                else:
                    protocol = partial(SocketProtocol, connections, trusted=trusted)
                    self._servers.append(await create(protocol, sock=sock))

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()


__all__ = ["GrpcServer", "Lifetime", "Limits"]
