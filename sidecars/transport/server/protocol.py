"""Joins a connection to a socket: reads go in, and one write for each read comes out."""

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from sidecars.transport.http2.connection import Connection
from sidecars.transport.http2.control import DRAIN_PING_SECONDS
from sidecars.transport.http2.errors import Reason

if TYPE_CHECKING:  # the manager only holds its protocols; it creates none
    from sidecars.transport.server.connection_manager import ConnectionManager

CLOSE_SECONDS: Final = 1.0
"""Time for the peer to read our last frames and hang up. Closing a socket with unread input would reset it,
and a reset discards the GOAWAY on its way."""

SMALL_READ_BYTES: Final = 2048
"""A read of one or two calls of Envoy, which never waits for its turn."""

WRITE_BUFFER_BYTES: Final = 256 * 1024
"""Output that a peer may leave unread in our process before we stop reading from it (CVE-2019-9517)."""


class SocketProtocol(asyncio.Protocol):
    """One accepted socket."""

    __slots__ = (
        "_close_timer",
        "_connection",
        "_flush_due",
        "_manager",
        "_retires",
        "_stuck_bytes",
        "_stuck_since",
        "_transport",
        "_turn_due",
        "trusted",
    )

    def __init__(self, manager: "ConnectionManager", *, trusted: bool) -> None:
        self._manager = manager
        self.trusted = trusted
        """Whether the address that accepted it trusts its peers."""
        self._connection: Connection | None = None
        self._transport: asyncio.Transport | None = None
        self._flush_due = False
        self._turn_due = False
        self._close_timer: asyncio.TimerHandle | None = None
        """Set once nothing is left to do but to hang up."""
        self._retires: float | None = None
        self._stuck_since: float | None = None
        self._stuck_bytes = 0

    @property
    def open_streams(self) -> int:
        """Streams whose calls are not over."""
        return 0 if self._connection is None else len(self._connection.streams.table)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, unless this socket is one too many."""
        self._transport = cast("asyncio.Transport", transport)
        peer = peer_name(self._transport.get_extra_info("peername"))
        connection = self._manager.connect(self, peer)
        if connection is None:
            self._manager.refused(Reason.TOO_MANY_CONNECTIONS, "too many connections", peer)
            self._transport.abort()
            return
        self._connection = connection
        age = self._manager.age_seconds()
        if age is not None:
            self._retires = self._manager.clock() + age
        self._transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self._transport.write(connection.take())

    def data_received(self, data: bytes) -> None:
        """One read: every reply that is ready leaves in one write."""
        connection = self._connection
        if connection is None or self._close_timer is not None:
            return
        now = self._manager.clock()
        self._flush_due = True  # what is ready within this read leaves below
        if len(data) <= SMALL_READ_BYTES and not connection.has_pending_input:
            connection.receive(data, now)
        elif connection.has_pending_input or not self._starts_read():
            connection.postpone(data, now)
        else:
            connection.receive(data, now, self._manager.slice_seconds())
        self._flush()
        if connection.has_pending_input:
            self._read_on(connection)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Cancel the calls of this peer."""
        if self._close_timer is not None:
            self._close_timer.cancel()
        # Each holds the other, so that without this both would wait for a collection of garbage.
        connection, self._connection, self._transport = self._connection, None, None
        if connection is not None:
            connection.lost()
            self._manager.disconnected(self)

    def pause_writing(self) -> None:
        """The peer does not read its replies, so its requests are not read."""
        if self._connection is not None and self._transport is not None:
            self._connection.streams.paused = True
            self._stuck_since = self._manager.clock()
            self._stuck_bytes = self._transport.get_write_buffer_size()
            if not self._transport.is_closing():
                self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._stuck_since = None
        if self._connection is not None and self._transport is not None:
            self._connection.streams.resume()
            self._read_on(self._connection)

    def output_ready(self) -> None:
        """Handlers that finish in the same turn of the loop share one write."""
        if not self._flush_due:
            self._flush_due = True
            self._manager.loop.call_soon(self._flush_if_open)

    def drain(self) -> None:
        """Let the calls in flight finish, then hang up."""
        if self._connection is not None:
            self._connection.drain(self._manager.clock())
            self._flush_if_open()
            self._manager.loop.call_later(DRAIN_PING_SECONDS * 1.01, self.tick)

    def abort(self) -> None:
        """Hang up now."""
        if self._transport is not None:
            self._transport.abort()

    def tick(self) -> None:
        """Check the time limits of the connection and of its streams."""
        connection = self._connection
        if connection is None or self._close_timer is not None:
            return
        now = self._manager.clock()
        lifetime = self._manager.lifetime
        if self._retires is not None and now >= self._retires:
            connection.drain(now)
            if now >= self._retires + lifetime.max_age_grace_seconds:
                self.abort()
                return
        if self._is_stuck(now):
            self._manager.refused(
                Reason.STALLED, "the peer does not read its replies", connection.streams.peer
            )
            self.abort()
            return
        connection.tick(now, lifetime)
        self._flush_if_open()

    def _starts_read(self) -> bool:
        """Whether this turn of the loop has time for a read. Many sockets may have one in the same turn."""
        scheduler = self._manager.scheduler
        if not scheduler.has_room:
            return False
        scheduler.spend(0)
        return True

    def _read_on(self, connection: Connection) -> None:
        """Read from the socket, but not before the last read is done with; that waits for its turn."""
        transport = self._transport
        if transport is None or transport.is_closing() or connection.streams.paused:
            return
        if not connection.has_pending_input:
            transport.resume_reading()
        elif not self._turn_due:
            self._turn_due = True
            transport.pause_reading()
            self._manager.scheduler.enqueue(connection.streams, self._catch_up)

    def _catch_up(self) -> None:
        """Go on with a read that was left in the middle, unless the socket takes no more."""
        self._turn_due = False
        connection = self._connection
        if connection is None:
            return
        if connection.has_pending_input and not connection.streams.paused:
            connection.receive(b"", self._manager.clock(), self._manager.slice_seconds())
            self._flush()
        self._read_on(connection)

    def _is_stuck(self, now: float) -> bool:
        if self._stuck_since is None or self._transport is None:
            return False
        waiting = self._transport.get_write_buffer_size()
        if waiting < self._stuck_bytes:
            self._stuck_since, self._stuck_bytes = now, waiting
        return now - self._stuck_since > self._manager.write_stall_timeout_seconds

    def _flush_if_open(self) -> None:
        """Outside of a read: a socket that failed stays here for a moment, and refuses to be written to."""
        if self._transport is not None and not self._transport.is_closing():
            self._flush()

    def _flush(self) -> None:
        self._flush_due = False
        connection, transport = self._connection, self._transport
        if connection is None or transport is None or self._close_timer is not None:
            return
        output = connection.take()
        if output:
            transport.write(output)
        if connection.over or connection.drained:
            self._close(connection, transport)

    def _close(self, connection: Connection, transport: asyncio.Transport) -> None:
        fault = connection.fault
        if fault is not None:
            self._manager.ended(fault.reason, fault.detail, connection.streams.peer)
        if transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
        longest = CLOSE_SECONDS if fault is not None else self._manager.lingering_timeout_seconds
        self._close_timer = self._manager.loop.call_later(
            CLOSE_SECONDS, self._close_when_flushed, longest - CLOSE_SECONDS
        )

    def _close_when_flushed(self, seconds_left: float) -> None:
        """Close, unless replies are still leaving."""
        transport = self._transport
        if transport is None:
            return
        if not transport.get_write_buffer_size() and not transport.can_write_eof():
            transport.close()  # TLS: with a close_notify, which `_close` has no way to send
        elif transport.get_write_buffer_size() and seconds_left > 0:
            self._close_timer = self._manager.loop.call_later(
                CLOSE_SECONDS, self._close_when_flushed, seconds_left - CLOSE_SECONDS
            )
        else:
            transport.abort()


def peer_name(name: Any) -> str:
    """The address of a peer, as the kernel gives it, the way gRPC writes it."""
    if isinstance(name, tuple):
        return f"ipv6:[{name[0]}]:{name[1]}" if len(name) == 4 else f"ipv4:{name[0]}:{name[1]}"
    return "unix:"
