"""TLS handshakes that fail, never end or are too many: bounded, counted, and told in the log."""

import asyncio
import datetime as dt
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sidecars.runtime.connection_metrics import ConnectionTally
from sidecars.transport import frames
from sidecars.transport.address import Address, TlsSettings, UnixAddress
from sidecars.transport.errors import Reason
from sidecars.transport.limits import Limits
from sidecars.transport.server import OwnServer
from tests.sidecars.transport.authority import Authority
from tests.sidecars.transport.harness import LOOPBACK, WAIT_SECONDS, services, until, within

SERVERS, CLIENTS = Authority("servers"), Authority("clients")
UNIDENTIFIED = Authority("private", identified=False)


class Guarded:
    """A server under mutual TLS with what it counts."""

    def __init__(self, tls: TlsSettings, address: Address = LOOPBACK, **limits: Any) -> None:
        self.tally = ConnectionTally()
        self.server = OwnServer(
            services({}), [replace(address, tls=tls)], limits=Limits(**limits), observer=self.tally
        )

    @property
    def reasons(self) -> Mapping[Reason, int]:
        return {reason: count for reason, count in self.tally.errors.items() if count}

    @property
    def open(self) -> int:
        return self.tally.opened - self.tally.closed

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A socket that has said nothing yet."""
        return await within(asyncio.open_connection("127.0.0.1", self.server.ports[0]))


@pytest.fixture
def tls(tmp_path: Path) -> TlsSettings:
    pair = SERVERS.sign("server")
    settings = TlsSettings(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "clients.pem")
    authorities = CLIENTS.certificate + UNIDENTIFIED.certificate
    for path, content in zip(settings.files, (pair.certificate, pair.key, authorities), strict=True):
        path.write_bytes(content)
    return settings


Guard = Callable[..., Awaitable[Guarded]]


@pytest.fixture
async def guard(tls: TlsSettings) -> AsyncIterator[Guard]:
    guarded: list[Guarded] = []

    async def start(address: Address = LOOPBACK, **limits: Any) -> Guarded:
        one = Guarded(tls, address, **limits)
        await within(one.server.start())
        guarded.append(one)
        return one

    yield start
    for one in guarded:
        await within(one.server.drain(0))


async def closed(reader: asyncio.StreamReader) -> bool:
    with suppress(ConnectionResetError):
        assert await within(reader.read()) == b""
    return True


def client_context(folder: Path, signed_by: Authority | None, expires: dt.datetime | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=SERVERS.certificate.decode())
    context.set_alpn_protocols(["h2"])
    if signed_by is not None:
        pair = signed_by.sign("envoy", expires)
        (folder / "client.pem").write_bytes(pair.key + pair.certificate)
        context.load_cert_chain(folder / "client.pem")
    return context


def knock(address: tuple[str, int] | str, context: ssl.SSLContext) -> bytes:
    """The first bytes that the server has for a client; none when it hangs up."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as raw:
        raw.settimeout(WAIT_SECONDS)
        raw.connect(address)
        try:
            with context.wrap_socket(raw, server_hostname="localhost") as secure:
                return secure.recv(1024)
        except (ssl.SSLError, ConnectionError):
            return b""


NO_KEY_IDENTIFIER = (
    "client certificate refused: Missing Authority Key Identifier"
    " (RFC 5280 section 4.2.1.1; sign it with authorityKeyIdentifier=keyid)"
)
YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("signed_by", "expires", "says"),
    [
        (None, None, "the client shows no certificate"),
        (Authority("strangers"), None, "client certificate refused: unable to get local issuer certificate"),
        (CLIENTS, YESTERDAY, "client certificate refused: certificate has expired"),
        (UNIDENTIFIED, None, NO_KEY_IDENTIFIER),
    ],
    ids=["none", "of strangers", "expired", "without authority key identifier"],
)
async def test_a_client_that_may_not_come_in_is_counted_and_logged_with_the_reason(
    guard: Guard,
    tmp_path: Path,
    signed_by: Authority | None,
    expires: dt.datetime | None,
    says: str,
) -> None:
    guarded = await guard()
    context = client_context(tmp_path, signed_by, expires)
    with capture_logs() as logs:
        port = guarded.server.ports[0]
        assert await within(asyncio.to_thread(knock, ("127.0.0.1", port), context)) == b""
        await until(lambda: guarded.open == 0)
    assert guarded.reasons == {Reason.TLS_HANDSHAKE: 1}
    [line] = [line for line in logs if line["event"] == "connection ended"]
    assert (line["reason"], line["detail"]) == ("tls_handshake", says)
    assert line["peer"].startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        frames.PREFACE + frames.settings({}),
        bytes(range(256)),
        bytes(64),
        b"\xff" * 64,
    ],
    ids=["http/1.1", "h2 without tls", "bytes", "zeros", "ones"],
)
async def test_what_is_not_tls_is_counted_and_logged_as_such(guard: Guard, sent: bytes) -> None:
    guarded = await guard()
    with capture_logs() as logs:
        reader, writer = await guarded.connect()
        writer.write(sent)
        assert await closed(reader)
        writer.transport.abort()
    assert guarded.reasons == {Reason.TLS_HANDSHAKE: 1}
    [line] = [line for line in logs if line["event"] == "connection ended"]
    assert line["detail"].startswith("what it sends is not TLS (")


async def test_a_client_that_does_not_trust_us_is_told_of(guard: Guard, tmp_path: Path) -> None:
    """What a client says of our certificate helps whoever put it there."""
    guarded = await guard()
    context = ssl.create_default_context(cadata=CLIENTS.certificate.decode())
    with capture_logs() as logs:
        port = guarded.server.ports[0]
        assert await within(asyncio.to_thread(knock, ("127.0.0.1", port), context)) == b""
        await until(lambda: guarded.open == 0)
    assert guarded.reasons == {Reason.TLS_HANDSHAKE: 1}
    [line] = [line for line in logs if line["event"] == "connection ended"]
    assert line["detail"] == "the client ends the handshake: unknown ca"


async def test_a_flood_of_failed_handshakes_is_one_log_line_a_second(guard: Guard) -> None:
    guarded = await guard()
    with capture_logs() as logs:
        for _ in range(5):
            reader, writer = await guarded.connect()
            writer.write(b"nonsense")
            assert await closed(reader)
            writer.transport.abort()
    assert guarded.reasons == {Reason.TLS_HANDSHAKE: 5}
    assert 1 <= len([line for line in logs if line["event"] == "connection ended"]) < 5


async def test_a_probe_that_connects_and_hangs_up_breaks_no_rule(guard: Guard) -> None:
    guarded = await guard()
    _, writer = await guarded.connect()
    await until(lambda: guarded.open == 1)
    writer.close()
    await until(lambda: guarded.open == 0)
    assert guarded.reasons == {}


async def test_sockets_in_their_handshake_count_towards_the_limit(guard: Guard) -> None:
    guarded = await guard(max_connections=2)
    silent = [await guarded.connect() for _ in range(2)]
    await until(lambda: guarded.open == 2)
    reader, writer = await guarded.connect()
    assert await closed(reader)
    writer.transport.abort()
    assert guarded.reasons == {Reason.TOO_MANY_CONNECTIONS: 1}
    for _, one in silent:
        one.transport.abort()
    await until(lambda: guarded.open == 0)


async def test_a_connection_counts_once_and_leaves_its_place(guard: Guard, tmp_path: Path) -> None:
    guarded = await guard(max_connections=1)
    context = client_context(tmp_path, CLIENTS, None)
    for _ in range(3):
        answer = await within(asyncio.to_thread(knock, ("127.0.0.1", guarded.server.ports[0]), context))
        assert answer
        await until(lambda: guarded.open == 0)
    assert guarded.tally.opened == 3


async def test_a_handshake_that_does_not_end_is_ended(guard: Guard) -> None:
    guarded = await guard(first_frames_seconds=0.1)
    with capture_logs() as logs:
        reader, writer = await guarded.connect()
        assert await closed(reader)
        writer.transport.abort()
        await until(lambda: guarded.open == 0)
    assert guarded.reasons == {Reason.SLOW_START: 1}
    assert [line["detail"] for line in logs] == ["no TLS handshake within 0.1 s"]


@pytest.mark.parametrize("grace_seconds", [0, 600])
async def test_a_drain_does_not_wait_for_silent_sockets(guard: Guard, grace_seconds: float) -> None:
    guarded = await guard(first_frames_seconds=600)
    reader, writer = await guarded.connect()
    await until(lambda: guarded.open == 1)
    await within(guarded.server.drain(grace_seconds))
    assert await closed(reader)
    writer.transport.abort()


async def test_tls_over_a_unix_socket(guard: Guard, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    guarded = await guard(UnixAddress(path))
    assert await within(asyncio.to_thread(knock, path, client_context(tmp_path, CLIENTS, None)))
    with capture_logs() as logs:
        assert not await within(asyncio.to_thread(knock, path, client_context(tmp_path, None, None)))
        await until(lambda: guarded.open == 0)
    assert [line["peer"] for line in logs] == ["unix:"]


async def test_a_server_out_of_descriptors_accepts_again_later(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecars.transport.handshake.ACCEPT_AGAIN_SECONDS", 0.05)
    failures = [OSError(errno.EMFILE, "Too many open files")] * 2
    accept = socket.socket.accept

    def accept_unless_full(self: socket.socket) -> tuple[socket.socket, Any]:
        if failures:
            raise failures.pop()
        return accept(self)

    guarded = await guard()
    monkeypatch.setattr(socket.socket, "accept", accept_unless_full)
    context = client_context(tmp_path, CLIENTS, None)
    with capture_logs() as logs:
        assert await within(asyncio.to_thread(knock, ("127.0.0.1", guarded.server.ports[0]), context))
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["cannot accept"] * 2
