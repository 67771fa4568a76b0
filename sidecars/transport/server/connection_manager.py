"""Creates, counts, ticks and drains the connections of a server."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from sidecars.transport.api.limits import Lifetime, Limits
from sidecars.transport.api.service import Method
from sidecars.transport.http2.connection import Connection
from sidecars.transport.http2.control import DRAIN_PING_SECONDS
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.held_bytes import HeldBytes
from sidecars.transport.http2.observer import Observer
from sidecars.transport.server.admission import Admission
from sidecars.transport.server.dispatcher import Dispatcher
from sidecars.transport.server.protocol import SocketProtocol
from sidecars.transport.server.scheduler import FairScheduler
from sidecars.transport.server.ticker import Ticker

_log = structlog.get_logger("sidecars.transport")

TICKS_PER_LIMIT: Final = 4
"""A time limit is noticed at most a quarter of it late."""


SECONDS_BETWEEN_LINES: Final = 1.0
"""A flood of faults must not become a flood of log lines; the counter has them all."""


class FaultLog:
    """Logs a fault, unless one was logged within the last second; the next line tells how many were not."""

    __slots__ = ("_clock", "_next", "_suppressed")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = float("-inf")
        self._suppressed = 0

    def fault(self, reason: Reason, detail: str, peer: str) -> None:
        """Log why the connection of `peer` ended."""
        now = self._clock()
        if now < self._next:
            self._suppressed += 1
            return
        self._next = now + SECONDS_BETWEEN_LINES
        _log.warning(
            "connection ended", reason=str(reason), detail=detail, peer=peer, suppressed=self._suppressed
        )
        self._suppressed = 0


class ConnectionManager:
    """The open connections of a server, and what they share: limits, clock, scheduler and dispatcher."""

    def __init__(
        self,
        methods: Mapping[bytes, Method],
        limits: Limits,
        lifetime: Lifetime,
        observer: Observer,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = clock
        self.lifetime = lifetime
        self.preface_timeout_seconds = limits.preface_timeout_seconds
        self.write_stall_timeout_seconds = limits.write_stall_timeout_seconds
        self.lingering_timeout_seconds = limits.lingering_timeout_seconds
        self._methods = methods
        self._limits = limits
        self._observer = observer
        self._random = random
        self.scheduler = FairScheduler(self.loop, clock)
        self._dispatch = Dispatcher(self.loop, clock, self.scheduler, Admission(limits.max_handlers))
        self.held_by_all = HeldBytes(limits.max_total_held_bytes)
        self._log = FaultLog(clock)
        self._ticker = Ticker(self.loop, _shortest_seconds(limits, lifetime) / TICKS_PER_LIMIT)
        self._open: set[SocketProtocol] = set()
        """From accept on, so those in their TLS handshake too."""
        self._handshakes: set[asyncio.Task[None]] = set()
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._draining = False

    @property
    def open_streams(self) -> int:
        """Streams of all connections whose calls are not over."""
        return sum(protocol.open_streams for protocol in self._open)

    def slice_seconds(self) -> float:
        """The time that a read may take now."""
        return self.scheduler.slice_seconds(self._limits.turn_seconds)

    def admit(self, protocol: SocketProtocol) -> bool:
        """Count a new socket, once; False when there are too many."""
        if protocol in self._open:
            return True
        if len(self._open) >= self._limits.max_connections:
            return False
        self._open.add(protocol)
        self.held_by_all.connections = len(self._open)
        self._none_open.clear()
        self._observer.connection_opened()
        return True

    def handshake_began(self, task: asyncio.Task[None]) -> None:
        """Note the handshake of an admitted socket, so that a drain can cancel it."""
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    def connect(self, protocol: SocketProtocol, peer: str) -> Connection | None:
        """The connection for a new socket; None when there are too many."""
        if not self.admit(protocol):
            return None
        self._ticker.add(protocol)
        connection = Connection(
            self._methods,
            self._dispatch,
            self._limits,
            self._observer,
            peer=peer,
            clock=self.clock,
            output_ready=protocol.output_ready,
            held_by_all=self.held_by_all,
            trusted=protocol.trusted,
        )
        if self._draining:  # accepted in the same turn of the loop as the drain began
            self.loop.call_soon(protocol.drain)
        return connection

    def disconnected(self, protocol: SocketProtocol) -> None:
        """The socket is gone, or is not wanted."""
        if protocol not in self._open:
            return
        self._open.discard(protocol)
        self.held_by_all.connections = len(self._open)
        self._ticker.remove(protocol)
        self._observer.connection_closed()
        if not self._open:
            self._none_open.set()

    def ended(self, reason: Reason, detail: str, peer: str) -> None:
        """A connection ended by a mistake of its peer that was counted where it was found."""
        self._log.fault(reason, detail, peer)

    def refused(self, reason: Reason, detail: str, peer: str) -> None:
        """A socket was closed with no connection to count it."""
        self._observer.peer_error(reason)
        self._log.fault(reason, detail, peer)

    def age_seconds(self) -> float | None:
        """How old a new connection may become: the limit, more or less the jitter."""
        age, jitter = self.lifetime.max_age_seconds, self.lifetime.max_age_jitter
        return None if age is None else age * (1 + jitter * (2 * self._random() - 1))

    async def drain(self, grace_seconds: float) -> None:
        """Let every call in flight finish and every connection close; after `grace_seconds` close them."""
        self._draining = True
        for protocol in tuple(self._open):
            protocol.drain()
        # A handshake that ends soon brings a client, which then gets a GOAWAY; a silent one is cancelled.
        ending = self.loop.call_later(DRAIN_PING_SECONDS, self._end_handshakes)
        try:
            async with asyncio.timeout(grace_seconds):
                await self._none_open.wait()
        except TimeoutError:
            self._end_handshakes()
            for protocol in tuple(self._open):
                protocol.abort()
            await self._none_open.wait()
        ending.cancel()
        self._ticker.stop()
        await self.scheduler.wait_until_empty()  # the handlers of closed connections are cancelled in there

    def _end_handshakes(self) -> None:
        for handshake in self._handshakes:
            handshake.cancel()


def _shortest_seconds(limits: Limits, lifetime: Lifetime) -> float:
    return min(
        limits.preface_timeout_seconds,
        limits.settings_ack_seconds,
        limits.message_timeout_seconds,
        limits.write_stall_timeout_seconds,
        limits.lingering_timeout_seconds,
        lifetime.keepalive_timeout_seconds,
        *([lifetime.keepalive_seconds] if lifetime.keepalive_seconds is not None else []),
        *([lifetime.max_age_seconds] if lifetime.max_age_seconds is not None else []),
    )
