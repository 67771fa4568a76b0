"""Our own gRPC server: the sockets it listens on, and its start and end."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from sidecars.transport.address import Address
from sidecars.transport.connections import Connections
from sidecars.transport.limits import Lifetime, Limits
from sidecars.transport.observer import NO_OBSERVER, Observer
from sidecars.transport.protocol import SocketProtocol
from sidecars.transport.service import Service, routes
from sidecars.transport.sockets import Listener, listen
from sidecars.transport.tls import ServerContext, TlsSettings

_DEFAULT_LIMITS = Limits()
_DEFAULT_LIFETIME = Lifetime()


class OwnServer:
    """A `transport.service.Server` on our own HTTP/2. Inert until `start`; serves once."""

    def __init__(
        self,
        services: tuple[Service, ...],
        addresses: Sequence[Address],
        *,
        limits: Limits = _DEFAULT_LIMITS,
        lifetime: Lifetime = _DEFAULT_LIFETIME,
        tls: TlsSettings | None = None,
        observer: Observer = NO_OBSERVER,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._methods = {path.encode(): method for path, method in routes(services).items()}
        self._addresses = tuple(addresses)
        self._limits = limits
        self._lifetime = lifetime
        self._tls = tls
        self._observer = observer
        self._clock = clock
        self._random = random
        self._listeners: list[Listener] = []
        self._servers: list[asyncio.Server] = []
        self._connections: Connections | None = None
        self._context: ServerContext | None = None
        self._ports: tuple[int, ...] = ()

    async def start(self) -> None:
        """Bind every address and accept.

        Raises OSError, with the address in it, when one cannot be bound, or when a TLS file is not usable.
        """
        if self._tls is not None:
            self._context = await ServerContext.load(self._tls)
        try:
            for address in self._addresses:
                self._listeners.append(await listen(address))  # one by one: the bound ones are closed below
        except OSError:
            self._close_listeners()
            raise
        self._ports = tuple(listener.port for listener in self._listeners if listener.port is not None)
        self._connections = Connections(
            self._methods, self._limits, self._lifetime, self._observer, self._clock, self._random
        )
        await self._accept(self._connections)

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports bound, in the order of the addresses."""
        return self._ports

    async def drain(self, grace_seconds: float) -> None:
        """Take no new work, let calls in flight finish, then close; after `grace_seconds` close anyway."""
        connections, self._connections = self._connections, None
        if connections is None:
            return
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._close_listeners()
        await connections.drain(grace_seconds)
        if self._context is not None:
            await self._context.stop()

    async def reload_tls(self) -> bool:
        """Read the TLS files now rather than at the next look; whether they are usable, True without TLS."""
        return True if self._context is None else await self._context.reload()

    async def _accept(self, connections: Connections) -> None:
        loop = asyncio.get_running_loop()
        context = None
        if self._context is not None:
            context = self._context.ssl_context
            self._context.keep_fresh()
        for listener in self._listeners:
            for sock in listener.sockets:
                create = loop.create_server if listener.port is not None else loop.create_unix_server
                self._servers.append(
                    await create(
                        lambda: SocketProtocol(connections),
                        sock=sock,
                        ssl=context,
                        ssl_handshake_timeout=self._limits.first_frames_seconds if context else None,
                    )
                )

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()


__all__ = ["Lifetime", "Limits", "OwnServer"]
