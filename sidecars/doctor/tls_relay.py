"""Connects to an address with TLS without verifying its certificate, which another check of the doctor does.

gRPC's Python library always verifies certificates. So it connects to a socket of our own without TLS, which
is relayed.
"""

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from sidecars.transport.api.address import Address, TcpAddress, TlsSettings

_CHUNK_BYTES: Final = 65_536


class TlsRelay:
    """Relays each connection to `target`, a unix socket, to `address`."""

    def __init__(self, address: Address, target: Path) -> None:
        self._address = address
        self.target = target
        self.refusal: str | None = None
        """Why the server ended a connection after its handshake, as TLS 1.3 does without a certificate."""

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy bytes in both directions until one side ends."""
        try:
            from_server, to_server = await connect(self._address)
            copies = (self._copy(reader, to_server), self._copy(from_server, writer))
            _, rest = await asyncio.wait(
                map(asyncio.ensure_future, copies), return_when=asyncio.FIRST_COMPLETED
            )
            for task in rest:
                task.cancel()
            to_server.close()
        except OSError as error:
            self._note(error)
        finally:
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_CHUNK_BYTES):
                writer.write(data)
                await writer.drain()
        except OSError as error:
            self._note(error)

    def _note(self, error: OSError) -> None:
        if isinstance(error, ssl.SSLError):
            self.refusal = error.reason or "TLS failed"


@asynccontextmanager
async def relayed(address: Address) -> AsyncIterator[TlsRelay]:
    """Return a relay to `address`, which lasts as long as the block."""
    with tempfile.TemporaryDirectory(prefix="sidecars-doctor-") as folder:
        relay = TlsRelay(address, Path(folder, "plain"))
        server = await asyncio.start_unix_server(relay.relay, relay.target)
        try:
            yield relay
        finally:
            server.close()


async def connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection to `address`, with TLS where it has some. Raises OSError; SSLError is one."""
    tls = None if address.tls is None else _context(address.tls)
    name = None if tls is None else "localhost"
    if isinstance(address, TcpAddress):
        host = reachable(address.host)
        return await asyncio.open_connection(host, address.port, ssl=tls, server_hostname=name)
    path = "\0" + address.path[1:] if address.abstract else address.path
    return await asyncio.open_unix_connection(path, ssl=tls, server_hostname=name)


def reachable(host: str) -> str:
    """Return the loopback address for an address that means all addresses."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _context(tls: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if tls.client_ca_file is not None:
        # Often one authority signs for both sides; the only certificate known here is the server's.
        with suppress(OSError):
            context.load_cert_chain(tls.cert_file, tls.key_file)
    return context
