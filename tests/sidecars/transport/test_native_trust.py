"""Which addresses trust their peers, and what a trusted peer may do on a real socket."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sidecars.transport.api.address import Address, TcpAddress, TlsSettings, UnixAddress
from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Call, Unary
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import RST_STREAM
from sidecars.transport.server.server import GrpcServer
from tests.support.authority import Authority
from tests.support.transport.harness import LOOPBACK, path, services, until, within
from tests.support.transport.wire import CANCEL, OPENING, Tally, call, frame

TLS = TlsSettings(Path("s.pem"), Path("s.key"))
MUTUAL = replace(TLS, client_ca_file=Path("c.pem"))
CANCELLED = 20_000
STREAMS = 100


@pytest.mark.parametrize(
    ("address", "trusts"),
    [
        (UnixAddress("/run/a.sock"), True),
        (UnixAddress("/run/a.sock", trusted=False), False),
        (UnixAddress("@a"), False),  # any local user of the network namespace may connect
        (UnixAddress("@a", tls=MUTUAL), True),
        (UnixAddress("@a", trusted=True), True),
        (TcpAddress("127.0.0.1", 1), False),
        (TcpAddress("127.0.0.1", 1, trusted=True), True),
        (TcpAddress("0.0.0.0", 1, tls=TLS), False),
        (TcpAddress("0.0.0.0", 1, tls=MUTUAL), True),
        (TcpAddress("0.0.0.0", 1, tls=MUTUAL, trusted=False), False),
    ],
)
def test_peers_are_trusted_who_cannot_be_just_anyone(address: Address, trusts: bool) -> None:
    assert address.trusts_peers is trusts


Start = Callable[..., Awaitable[GrpcServer]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    servers: list[GrpcServer] = []

    async def start_one(address: Address, handler: object, **options: object) -> GrpcServer:
        methods = {"Wait": Unary(handler)}  # type: ignore[arg-type]
        server = GrpcServer(services(methods), [address], **options)  # type: ignore[arg-type]
        await within(server.start())
        servers.append(server)
        return server

    yield start_one
    for server in servers:
        await within(server.drain(0))


class Waiting:
    """A handler that never ends, and counts how many of its calls wait."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.begun = 0

    async def __call__(self, request: bytes, call: Call) -> bytes:
        self.now += 1
        self.begun += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.Event().wait()
        finally:
            self.now -= 1
        return request


def cancelled_calls(count: int, at_once: int) -> bytes:
    """Calls that are begun `at_once`, and cancelled before the next ones."""
    data = bytearray()
    for first in range(1, 2 * count, 2 * at_once):
        numbers = range(first, first + 2 * at_once, 2)
        data += b"".join(call(number, method=path("Wait")) for number in numbers)
        data += b"".join(frame(RST_STREAM, 0, number, CANCEL) for number in numbers)
    return bytes(data)


@pytest.mark.parametrize(("kind", "stays"), [("unix", True), ("tcp", False), ("tcp, trusted", True)])
async def test_a_flood_of_cancelled_calls_ends_the_connection_of_a_stranger(
    start: Start,
    tmp_path: Path,
    kind: str,
    stays: bool,
) -> None:
    """A trusted one keeps it, and no more handlers run than it may have calls open, and those of one turn."""
    address: Address = UnixAddress(str(tmp_path / "trust.sock"))
    if kind != "unix":
        address = replace(LOOPBACK, trusted=True if "trusted" in kind else None)
    waiting, tally = Waiting(), Tally()
    server = await start(address, waiting, observer=tally, limits=Limits(max_concurrent_streams=STREAMS))
    if isinstance(address, UnixAddress):
        _, writer = await asyncio.open_unix_connection(address.path)
    else:
        _, writer = await asyncio.open_connection("127.0.0.1", server.ports[0])
    writer.write(OPENING + cancelled_calls(CANCELLED, STREAMS))
    if stays:
        await until(lambda: tally.resets_received == CANCELLED)
        assert tally.reasons == []
    else:
        await until(lambda: bool(tally.reasons))
        assert tally.reasons == [Reason.RAPID_RESET]
    await until(lambda: not waiting.now)
    assert waiting.begun <= CANCELLED
    assert waiting.most <= 10 * STREAMS
    writer.transport.abort()


@pytest.mark.parametrize("mutual", [False, True])
async def test_a_client_certificate_makes_a_peer_trusted(start: Start, tmp_path: Path, mutual: bool) -> None:
    servers, clients = Authority("servers"), Authority("clients")
    for name, pair in (("server", servers.sign("server")), ("client", clients.sign("envoy"))):
        (tmp_path / f"{name}.pem").write_bytes(pair.certificate)
        (tmp_path / f"{name}.key").write_bytes(pair.key)
    (tmp_path / "ca.pem").write_bytes(clients.certificate)
    tls = TlsSettings(
        tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem" if mutual else None
    )
    server = await start(replace(LOOPBACK, tls=tls), Waiting())
    context = ssl.create_default_context(cadata=servers.certificate.decode())
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
    reader, writer = await within(asyncio.open_connection("localhost", server.ports[0], ssl=context))
    writer.write(OPENING)
    await within(reader.readexactly(9))
    assert server._connections is not None
    (protocol,) = server._connections._open
    assert protocol.trusted is mutual
    writer.transport.abort()
