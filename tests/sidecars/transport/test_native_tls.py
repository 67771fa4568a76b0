"""TLS and mutual TLS of our own server: h2 by ALPN, clients that may come in, files that change."""

import asyncio
import datetime as dt
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from sidecars.transport.api.address import TlsSettings
from sidecars.transport.api.service import Call, Unary
from sidecars.transport.http2 import frames
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import DATA, GOAWAY
from sidecars.transport.server import tls
from sidecars.transport.server.server import GrpcServer
from tests.support.authority import Authority, Pair
from tests.support.transport.harness import (
    CLIENT_OPTIONS,
    LOOPBACK,
    WAIT_SECONDS,
    path,
    services,
    until,
    within,
)
from tests.support.transport.wire import OPENING, Tally, frame


class Files:
    """The files of a server, which a test changes under it."""

    def __init__(self, folder: Path, *, mutual: bool) -> None:
        self.authority = Authority("servers")
        self.clients = Authority("clients")
        ca = folder / "clients.pem" if mutual else None
        self.settings = TlsSettings(folder / "server.pem", folder / "server.key", ca, reload_seconds=0.05)
        self.write(self.authority.sign("first"))
        if ca is not None:
            ca.write_bytes(self.clients.certificate)

    def write(self, pair: Pair) -> None:
        """One file, then the other, as a pair is replaced in practice."""
        self.settings.cert_file.write_bytes(pair.certificate)
        self.settings.key_file.write_bytes(pair.key)


Start = Callable[..., Awaitable[GrpcServer]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    servers: list[GrpcServer] = []

    async def start_one(files: Files, tally: Tally | None = None) -> GrpcServer:
        def echo(request: bytes, call: Call) -> bytes:
            return request

        address = replace(LOOPBACK, tls=files.settings)
        server = GrpcServer(services({"Echo": Unary(echo)}), [address], observer=tally or Tally())
        await within(server.start())
        servers.append(server)
        return server

    yield start_one
    for server in servers:
        await within(server.drain(0))


async def call(server: GrpcServer, authority: Authority, client: Pair | None = None) -> bytes:
    """What a grpc client gets over a connection of its own."""
    credentials = grpc.ssl_channel_credentials(
        authority.certificate, *((client.key, client.certificate) if client is not None else ())
    )
    target = f"localhost:{server.ports[0]}"
    async with grpc.aio.secure_channel(target, credentials, CLIENT_OPTIONS) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path("Echo"))
        reply: bytes = await within(method(b"hello"))
        return reply


async def subject(server: GrpcServer, authority: Authority) -> str:
    """The name in the certificate that a new connection is shown."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.set_alpn_protocols(["h2"])
    _, writer = await within(asyncio.open_connection("localhost", server.ports[0], ssl=context))
    shown = writer.get_extra_info("peercert")
    writer.transport.abort()
    return str(dict(field[0] for field in shown["subject"])["commonName"])


class Visitor:
    """A client with a certificate that comes back with the session of its last visit, if it has one."""

    def __init__(self, files: Files, folder: Path, pair: Pair, version: ssl.TLSVersion) -> None:
        self._context = ssl.create_default_context(cadata=files.authority.certificate.decode())
        self._context.minimum_version = self._context.maximum_version = version
        self._context.set_alpn_protocols(["h2"])
        own = folder / "visitor.pem"
        own.write_bytes(pair.key + pair.certificate)
        self._context.load_cert_chain(own)
        self._session: ssl.SSLSession | None = None

    async def comes(self, server: GrpcServer, *, new_session: bool = False) -> bool:
        """Whether it is served: greeted in HTTP/2. `new_session` does not resume the last session."""
        return await within(
            asyncio.to_thread(self._come, server.ports[0], None if new_session else self._session)
        )

    def _come(self, port: int, session: ssl.SSLSession | None) -> bool:
        raw = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
        try:
            with self._context.wrap_socket(raw, server_hostname="localhost", session=session) as secure:
                secure.sendall(frames.PREFACE + frames.settings({}))
                if not secure.recv(1024):
                    return False
                self._session = secure.session  # in TLS 1.3 its ticket came before the greeting
                return True
        except (ssl.SSLError, ConnectionError):
            return False


TLS_VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: str(version.name)
)


@TLS_VERSIONS
async def test_a_session_does_not_outlive_the_authority_that_let_its_client_in(
    start: Start, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """A resumed handshake shows no certificate (RFC 5246 section 7.3, RFC 8446 section 2.2)."""
    files = Files(tmp_path, mutual=True)
    server = await start(files)
    visitor = Visitor(files, tmp_path, files.clients.sign("envoy"), version)
    assert await visitor.comes(server)
    assert await visitor.comes(server)
    assert files.settings.client_ca_file is not None
    files.settings.client_ca_file.write_bytes(Authority("clients, the next").certificate)
    assert await within(server.reload_tls())
    assert not await visitor.comes(server, new_session=True)
    assert not await visitor.comes(server)


@TLS_VERSIONS
async def test_a_session_does_not_outlive_the_certificate_of_its_client(
    start: Start, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    files, tally = Files(tmp_path, mutual=True), Tally()
    server = await start(files, tally)
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=3)
    visitor = Visitor(files, tmp_path, files.clients.sign("envoy", expires), version)
    assert await visitor.comes(server)
    await until(lambda: dt.datetime.now(dt.UTC) > expires + dt.timedelta(seconds=1))
    assert not await visitor.comes(server)
    assert tally.reasons == [Reason.TLS_HANDSHAKE]


async def test_files_that_change_while_they_are_read_are_read_again(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path, mutual=False)
    build = tls._build

    def build_and_change(settings: TlsSettings) -> tuple[ssl.SSLContext, Mapping[Path, float]]:
        monkeypatch.undo()
        built = build(settings)
        files.write(files.authority.sign("second"))
        return built

    monkeypatch.setattr(tls, "_build", build_and_change)
    server = await start(files)
    for _ in range(600):
        if await subject(server, files.authority) == "second":
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the old certificate is still shown")


async def test_a_call_over_tls(start: Start, tmp_path: Path) -> None:
    files = Files(tmp_path, mutual=False)
    server = await start(files)
    assert await call(server, files.authority) == b"hello"


async def test_a_large_call_over_tls(start: Start, tmp_path: Path) -> None:
    files = Files(tmp_path, mutual=False)
    server = await start(files)
    credentials = grpc.ssl_channel_credentials(files.authority.certificate)
    async with grpc.aio.secure_channel(
        f"localhost:{server.ports[0]}", credentials, CLIENT_OPTIONS
    ) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path("Echo"))
        request = bytes(range(256)) * 8000
        assert await within(method(request)) == request


async def test_a_drain_over_tls_lets_calls_finish(start: Start, tmp_path: Path) -> None:
    files = Files(tmp_path, mutual=False)
    server = await start(files)
    assert await call(server, files.authority) == b"hello"
    await within(server.drain(5))


async def test_a_client_with_a_certificate_comes_in(start: Start, tmp_path: Path) -> None:
    files = Files(tmp_path, mutual=True)
    server = await start(files)
    assert await call(server, files.authority, files.clients.sign("envoy")) == b"hello"


@pytest.mark.parametrize("stranger", [True, False], ids=["signed by another", "none"])
async def test_a_client_without_the_right_certificate_stays_out(
    start: Start, tmp_path: Path, stranger: bool
) -> None:
    files = Files(tmp_path, mutual=True)
    server = await start(files)
    pair = Authority("strangers").sign("envoy") if stranger else None
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call(server, files.authority, pair)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_does_not_agree_on_h2_is_turned_away(start: Start, tmp_path: Path) -> None:
    """RFC 9113 section 3.2: over TLS the protocol is chosen by ALPN."""
    files, tally = Files(tmp_path, mutual=False), Tally()
    server = await start(files, tally)
    context = ssl.create_default_context(cadata=files.authority.certificate.decode())
    _, writer = await within(asyncio.open_connection("localhost", server.ports[0], ssl=context))
    await until(lambda: bool(tally.reasons))
    assert tally.reasons == [Reason.TLS_WITHOUT_H2]
    writer.transport.abort()


async def test_ciphers_that_http2_forbids_are_refused(start: Start, tmp_path: Path) -> None:
    """RFC 9113 section 9.2.2 and appendix A."""
    files = Files(tmp_path, mutual=False)
    server = await start(files)
    context = ssl.create_default_context(cadata=files.authority.certificate.decode())
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("AES128-SHA")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await within(asyncio.open_connection("localhost", server.ports[0], ssl=context))


async def test_a_new_certificate_is_shown_to_new_connections(start: Start, tmp_path: Path) -> None:
    files = Files(tmp_path, mutual=False)
    server = await start(files)
    assert await subject(server, files.authority) == "first"
    files.write(files.authority.sign("second"))
    for _ in range(600):
        await asyncio.sleep(0.05)
        if await subject(server, files.authority) == "second":
            break
    else:
        pytest.fail("the old certificate is still shown")


async def test_a_new_client_authority_replaces_the_old_one(start: Start, tmp_path: Path) -> None:
    """Both ways: who was trusted is not any more, who was not is."""
    files = Files(tmp_path, mutual=True)
    server = await start(files)
    old, successor = files.clients.sign("envoy"), Authority("clients, the next")
    assert await call(server, files.authority, old) == b"hello"
    assert files.settings.client_ca_file is not None
    files.settings.client_ca_file.write_bytes(successor.certificate)
    assert await within(server.reload_tls())
    assert await call(server, files.authority, successor.sign("envoy")) == b"hello"
    with pytest.raises(grpc.aio.AioRpcError):
        await call(server, files.authority, old)


async def test_files_that_do_not_load_leave_the_old_ones_in_service(start: Start, tmp_path: Path) -> None:
    files = Files(tmp_path, mutual=False)
    server = await start(files)
    files.settings.cert_file.write_text("no certificate")
    with capture_logs() as logs:
        assert not await within(server.reload_tls())
    assert "cannot reload TLS files, keeping the old ones" in [log["event"] for log in logs]
    assert await subject(server, files.authority) == "first"


async def test_refused_files_are_a_state_that_ends_when_good_ones_are_there(
    start: Start, tmp_path: Path
) -> None:
    """Told once, not at every look; the old files put back end it, and so do new ones."""
    files = Files(tmp_path, mutual=False)
    server = await start(files)
    certificate, aside, bad = files.settings.cert_file, tmp_path / "aside.pem", tmp_path / "bad.pem"
    assert not server.tls_is_stale
    aside.hardlink_to(certificate)
    bad.write_text("no certificate")
    with capture_logs() as logs:
        bad.rename(certificate)
        await until(lambda: server.tls_is_stale)
        await asyncio.sleep(4 * files.settings.reload_seconds)
    assert [log["event"] for log in logs] == ["cannot reload TLS files, keeping the old ones"]
    aside.rename(certificate)
    await until(lambda: not server.tls_is_stale)
    certificate.write_text("no certificate")
    await until(lambda: server.tls_is_stale)
    files.write(files.authority.sign("second"))
    await until(lambda: not server.tls_is_stale)
    assert await subject(server, files.authority) == "second"


async def test_files_that_do_not_load_stop_a_start(tmp_path: Path) -> None:
    files = Files(tmp_path, mutual=False)
    files.settings.key_file.unlink()
    server = GrpcServer(services({}), [replace(LOOPBACK, tls=files.settings)])
    with pytest.raises(OSError, match=r"server\.key"):
        await within(server.start())


def encrypted(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


UNUSABLE_KEYS = {
    "encrypted": (encrypted(Authority("any").sign("any").key), r"server\.key is encrypted; write the key"),
    "of another": (Authority("any").sign("any").key, "key values mismatch"),
    "no PEM": (b"no key", "not each of them holds PEM"),
}


@pytest.mark.parametrize(("key", "says"), UNUSABLE_KEYS.values(), ids=UNUSABLE_KEYS.keys())
async def test_a_key_that_is_not_usable_stops_a_start_and_a_reload(
    start: Start, tmp_path: Path, key: bytes, says: str
) -> None:
    """OpenSSL asks for the password of an encrypted key at the terminal, where no one would answer."""
    files = Files(tmp_path, mutual=False)
    server = await start(files)
    files.settings.key_file.write_bytes(key)
    with capture_logs() as logs:
        assert not await within(server.reload_tls())
    (error,) = [log["error"] for log in logs if log["event"].startswith("cannot reload TLS files")]
    assert re.search(f"^cannot serve TLS with .*: .*{says}", error)
    assert await call(server, files.authority) == b"hello"
    with pytest.raises(OSError, match=says):
        await within(start(files))


VERSION_3 = bytes.fromhex("a003020102")


async def test_an_authority_that_openssl_alone_can_read_does_not_end_the_watch_of_the_files(
    start: Start, tmp_path: Path
) -> None:
    """OpenSSL takes any version of a certificate for what it is."""
    files = Files(tmp_path, mutual=True)
    server = await start(files)
    file = files.settings.client_ca_file
    assert file is not None
    odd = ssl.PEM_cert_to_DER_cert(files.clients.certificate.decode()).replace(VERSION_3, b"\xa0\3\2\1\4", 1)
    file.write_text(ssl.DER_cert_to_PEM_cert(odd))
    with capture_logs() as logs:
        assert not await within(server.reload_tls())
        assert "clients.pem holds a certificate that does not keep to RFC 5280" in logs[0]["error"]
        file.write_bytes(files.clients.certificate)
        await until(lambda: "TLS files reloaded" in [log["event"] for log in logs])  # the watch goes on
    assert await call(server, files.authority, files.clients.sign("envoy")) == b"hello"


@pytest.mark.parametrize("drained", [False, True], ids=["cut off", "drained"])
async def test_a_connection_ends_with_a_close_notify(start: Start, tmp_path: Path, drained: bool) -> None:
    """RFC 8446 section 6.1: without it the client cannot tell an end from an attack."""
    files = Files(tmp_path, mutual=False)
    server = await start(files)
    context = ssl.create_default_context(cadata=files.authority.certificate.decode())
    context.set_alpn_protocols(["h2"])
    raw = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", server.ports[0]), WAIT_SECONDS)
    client = await within(
        asyncio.to_thread(context.wrap_socket, raw, server_hostname="localhost", suppress_ragged_eofs=False)
    )

    def read_to_the_end() -> bytes:
        return b"".join(iter(lambda: client.recv(65_536), b""))  # raises SSLEOFError without close_notify

    client.sendall(OPENING if drained else OPENING + frame(DATA, 0, 0, b"x"))
    assert client.recv(9)
    drain = asyncio.create_task(server.drain(WAIT_SECONDS)) if drained else None
    assert b"draining" in (read := await within(asyncio.to_thread(read_to_the_end))) or not drained
    assert bytes([GOAWAY]) in read
    client.close()
    if drain is not None:
        await within(drain)
