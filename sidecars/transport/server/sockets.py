"""Listening sockets: TCP, unix with a file, unix with a name only."""

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecars.transport.api.address import Address, TcpAddress, UnixAddress
from sidecars.transport.api.listening import bind_error, remove_stale_socket, socket_mode

BACKLOG: Final = 1024
"""Connections that wait to be accepted: a fleet of Envoys that starts at once. The kernel may hold less."""


@dataclass(frozen=True, slots=True)
class Listener:
    """The sockets of one address; a host name may have an IPv4 and an IPv6 one."""

    address: Address
    sockets: tuple[socket.socket, ...]
    inode: int | None = None
    """The inode of the socket file, so that only our own is removed."""

    @property
    def port(self) -> int | None:
        """The TCP port; None for a unix socket."""
        port: int | None = None
        if isinstance(self.address, TcpAddress):
            port = self.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Stop listening, and remove the socket file unless another server has replaced it."""
        for sock in self.sockets:
            sock.close()
        if isinstance(self.address, UnixAddress) and self.inode is not None:
            with suppress(OSError):
                if Path(self.address.path).stat().st_ino == self.inode:
                    Path(self.address.path).unlink()


async def listen(address: Address) -> Listener:
    """Bind `address` and listen. Raises OSError with the address in its text."""
    try:
        if isinstance(address, TcpAddress):
            return Listener(address, await _bind_tcp(address))
        return _bind_unix(address)
    except OSError as error:
        raise bind_error(address, error) from None


async def _bind_tcp(address: TcpAddress) -> tuple[socket.socket, ...]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    bound: list[socket.socket] = []
    try:
        for family, name in dict.fromkeys((family, name) for family, _, _, _, name in found):
            sock = socket.socket(family, socket.SOCK_STREAM)
            bound.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and len(found) > 1:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Port 0: what the first family was given, the second one asks for.
            port = address.port or (bound[0].getsockname()[1] if len(bound) > 1 else 0)
            sock.bind((name[0], port, *name[2:]))
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except OSError:
        for sock in bound:
            sock.close()
        raise
    return tuple(bound)


def _bind_unix(address: UnixAddress) -> Listener:
    remove_stale_socket(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_mode(address):
            sock.bind(f"\0{address.path[1:]}" if address.abstract else address.path)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    inode = None if address.abstract else Path(address.path).stat().st_ino
    return Listener(address, (sock,), inode)
