"""TLS handshakes that fail, never end or are too many: bounded, counted, and told in the log."""

import asyncio
import datetime as dt
import errno
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sidecars.observability.connection_metrics import ConnectionTally
from sidecars.transport.api.address import Address, TlsSettings, UnixAddress
from sidecars.transport.api.limits import Limits
from sidecars.transport.http2 import frames
from sidecars.transport.http2.errors import Reason
from sidecars.transport.server.server import GrpcServer
from tests.support.authority import Authority
from tests.support.transport.harness import LOOPBACK, WAIT_SECONDS, services, until, within

SERVERS, CLIENTS = Authority("servers"), Authority("clients")
UNIDENTIFIED = Authority("private", identified=False)


class Guarded:
    """A server under mutual TLS with what it counts."""

    def __init__(self, tls: TlsSettings, address: Address = LOOPBACK, **limits: Any) -> None:
        self.tally = ConnectionTally()
        self.server = GrpcServer(
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


def told(port: int, context: ssl.SSLContext) -> str:
    """The error that a client of OpenSSL ends with when it connects, says something and reads."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as raw:
        try:
            with context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as secure:
                secure.sendall(frames.PREFACE + frames.settings({}))
                return "end" if secure.recv(1) == b"" else ""
        except OSError as error:
            return getattr(error, "reason", None) or str(error)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("signed_by", "expires", "alerts"),
    [
        (None, None, ("HANDSHAKE_FAILURE", "CERTIFICATE_REQUIRED")),
        (Authority("strangers"), None, ("UNKNOWN_CA", "UNKNOWN_CA")),
        (CLIENTS, YESTERDAY, ("CERTIFICATE_EXPIRED", "CERTIFICATE_EXPIRED")),
    ],
    ids=["none", "of strangers", "expired"],
)
async def test_a_client_that_may_not_come_in_is_told_why_by_an_alert(
    guard: Guard,
    tmp_path: Path,
    signed_by: Authority | None,
    expires: dt.datetime | None,
    alerts: tuple[str, str],
    version: ssl.TLSVersion,
) -> None:
    """RFC 8446 section 6.2. In TLS 1.3 the client takes itself for connected, and has begun to speak."""
    guarded = await guard()
    context = client_context(tmp_path, signed_by, expires)
    context.minimum_version = context.maximum_version = version
    error = await within(asyncio.to_thread(told, guarded.server.ports[0], context))
    assert error.endswith(f"_ALERT_{alerts[version is ssl.TLSVersion.TLSv1_3]}")
    await until(lambda: guarded.open == 0)


async def test_a_client_of_a_version_that_is_not_spoken_is_told_so(guard: Guard, tmp_path: Path) -> None:
    guarded = await guard()
    context = client_context(tmp_path, CLIENTS, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    error = await within(asyncio.to_thread(told, guarded.server.ports[0], context))
    if error == "NO_PROTOCOLS_AVAILABLE":
        pytest.skip("this OpenSSL cannot speak TLS 1.1")
    assert error.endswith("_ALERT_PROTOCOL_VERSION")


async def test_a_client_without_h2_sees_an_orderly_end(guard: Guard, tmp_path: Path) -> None:
    """The end of TLS is a close_notify (RFC 8446 section 6.1); without one the client suspects an attack."""
    guarded = await guard()
    context = client_context(tmp_path, CLIENTS, None)
    context.set_alpn_protocols(["http/1.1"])
    assert await within(asyncio.to_thread(told, guarded.server.ports[0], context)) == "end"
    await until(lambda: guarded.open == 0)
    assert guarded.reasons == {Reason.TLS_WITHOUT_H2: 1}


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"], ids=["refused", "turned away"])
async def test_a_client_that_may_not_come_in_counts_until_its_socket_is_closed(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """It is waited for, so that its alert arrives; not for long, and not beyond `max_connections`."""
    monkeypatch.setattr("sidecars.transport.server.handshake.CLOSE_SECONDS", 0.3)
    guarded = await guard()
    context = client_context(tmp_path, None if protocol == "h2" else CLIENTS, None)
    context.set_alpn_protocols([protocol])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    reader, writer = await guarded.connect()
    while True:
        try:
            session.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await within(reader.read(65_536)))
    writer.write(outgoing.read())
    await until(lambda: bool(guarded.reasons))
    assert guarded.open == 1
    await until(lambda: guarded.open == 0)
    assert not writer.transport.is_closing()
    writer.transport.abort()


async def test_without_a_descriptor_for_alerts_clients_come_in_all_the_same(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_: socket.socket) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    guarded = await guard()
    monkeypatch.setattr(socket.socket, "dup", no_more)
    port = guarded.server.ports[0]
    context = client_context(tmp_path, CLIENTS, None)
    assert await within(asyncio.to_thread(knock, ("127.0.0.1", port), context))
    assert not await within(
        asyncio.to_thread(knock, ("127.0.0.1", port), client_context(tmp_path, None, None))
    )
    await until(lambda: guarded.open == 0)


async def test_a_client_that_does_not_trust_us_is_told_of(guard: Guard, tmp_path: Path) -> None:
    """A client's alert about our certificate helps the operator who installed it."""
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
    guarded = await guard(preface_timeout_seconds=0.1)
    with capture_logs() as logs:
        reader, writer = await guarded.connect()
        assert await closed(reader)
        writer.transport.abort()
        await until(lambda: guarded.open == 0)
    assert guarded.reasons == {Reason.SLOW_START: 1}
    assert [line["detail"] for line in logs] == ["no TLS handshake within 0.1 s"]


@pytest.mark.parametrize("grace_seconds", [0, 600])
async def test_a_drain_does_not_wait_for_silent_sockets(guard: Guard, grace_seconds: float) -> None:
    guarded = await guard(preface_timeout_seconds=600)
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
    monkeypatch.setattr("sidecars.transport.server.handshake.ACCEPT_AGAIN_SECONDS", 0.05)
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


async def test_an_authority_without_subject_key_identifier_stops_a_start_and_is_named(
    tls: TlsSettings,
) -> None:
    assert tls.client_ca_file is not None
    private = Authority("private", identifies=False)
    tls.client_ca_file.write_bytes(CLIENTS.certificate + private.certificate)
    server = Guarded(tls).server
    says = r"authority CN=private in .*clients\.pem lacks the extension Subject Key Identifier \(RFC 5280"
    with pytest.raises(OSError, match=says):
        await within(server.start())
