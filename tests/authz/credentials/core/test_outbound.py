"""Authorities and proxies on the way to other servers, against a real TLS server and a real proxy."""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from authz.credentials.core.http import FetchError
from authz.credentials.core.outbound import OutboundError, proxy_for
from authz.credentials.introspection.client import IntrospectionClient
from authz.credentials.introspection.config import IntrospectionConfig
from authz.credentials.jwt.config import KeySetConfig
from authz.credentials.jwt.fetch import fetch
from common.configfile import ConfigError
from tests.support.authority import Authority
from tests.support.credentials import CredentialsHarness
from tests.support.signing import jwk, key_set, private_key

DOCUMENT = b'{"keys": []}'
PROXIED = "http://keys.idp.example/keys"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A private one; its file is `ca.pem`."""
    made = Authority("private authority")
    (tmp_path / "ca.pem").write_bytes(made.certificate)
    return made


async def _answer(_request: web.Request) -> web.Response:
    return web.Response(body=DOCUMENT)


@pytest.fixture
async def https(authority: Authority, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a TLS server whose certificate the authority has signed."""
    async with tls_server(authority, tmp_path) as url:
        yield url


@asynccontextmanager
async def tls_server(authority: Authority, tmp_path: Path) -> AsyncIterator[str]:
    pair = authority.sign("localhost")
    (tmp_path / "server.pem").write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    app = web.Application()
    app.router.add_route("*", "/keys", _answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}/keys"
    await runner.cleanup()


@dataclass
class ForwardProxy:
    """Answers requests in absolute form, and tunnels CONNECT requests to `target`."""

    target: tuple[str, int] | None = None
    status: int = 200
    asked: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        self.asked.append(head.partition("\r\n")[0])
        if self.status != 200:
            writer.write(f"HTTP/1.1 {self.status} No\r\ncontent-length: 0\r\n\r\n".encode())
        elif head.startswith("CONNECT"):
            if self.target is None:
                writer.close()
                return
            far_reader, far_writer = await asyncio.open_connection(*self.target)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(DOCUMENT), DOCUMENT))
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[ForwardProxy]:
    found = ForwardProxy()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield found
    server.close()


def key_config(url: str, **changes: Any) -> KeySetConfig:
    block = {"url": url, "allow_http": True, "allow_addresses": ["127.0.0.0/8"], "timeout_seconds": 5}
    return KeySetConfig.model_validate(block | changes)


def introspection(url: str, **changes: Any) -> IntrospectionConfig:
    block = {
        "url": url, "client_id": "edge", "client_secret_file": "secret", "audiences": "any",
        "allow_http": True, "allow_addresses": ["127.0.0.0/8"],
    }  # fmt: skip
    return IntrospectionConfig.model_validate(block | changes)


async def posted(config: IntrospectionConfig) -> bytes:
    poster = IntrospectionClient(config)
    try:
        return await poster.post({"token": "t"}, {})
    finally:
        await poster.close()


class TestAuthorities:
    async def test_those_of_the_system_do_not_vouch_for_a_private_server(self, https: str) -> None:
        with pytest.raises(FetchError, match=r"certificate of 127\.0\.0\.1 is not accepted: .*ca_file"):
            await fetch(key_config(https))

    async def test_a_ca_file_does(self, https: str, tmp_path: Path) -> None:
        assert await fetch(key_config(https, ca_file=tmp_path / "ca.pem")) == DOCUMENT

    async def test_a_certificate_without_authority_key_identifier_is_refused_by_name(
        self, tmp_path: Path
    ) -> None:
        """By every Python: before 3.13 the default is to take it."""
        private = Authority("private", identified=False)
        (tmp_path / "private.pem").write_bytes(private.certificate)
        async with tls_server(private, tmp_path) as url:
            for asked in (
                fetch(key_config(url, ca_file=tmp_path / "private.pem")),
                posted(introspection(url, ca_file=tmp_path / "private.pem")),
            ):
                with pytest.raises(FetchError, match=r"Missing Authority Key Identifier \(RFC 5280 .*=keyid"):
                    await asked

    async def test_an_authority_without_subject_key_identifier_is_refused_by_name(
        self, tmp_path: Path
    ) -> None:
        private = Authority("private", identifies=False)
        (tmp_path / "private.pem").write_bytes(private.certificate)
        async with tls_server(private, tmp_path) as url:
            with pytest.raises(FetchError, match=r"Missing Subject Key Identifier \(RFC 5280 .*=hash"):
                await fetch(key_config(url, ca_file=tmp_path / "private.pem"))

    async def test_an_intermediate_authority_vouches_alone(self, tmp_path: Path) -> None:
        """On every Python: before 3.13 the default is to ask for its root, too."""
        issuing = Authority("issuing", below=Authority("root"))
        (tmp_path / "issuing.pem").write_bytes(issuing.certificate)
        async with tls_server(issuing, tmp_path) as url:
            assert await fetch(key_config(url, ca_file=tmp_path / "issuing.pem")) == DOCUMENT

    async def test_it_does_for_introspection_too(self, https: str, tmp_path: Path) -> None:
        with pytest.raises(FetchError, match="is not accepted"):
            await posted(introspection(https))
        assert await posted(introspection(https, ca_file=tmp_path / "ca.pem")) == DOCUMENT

    async def test_a_ca_file_takes_the_place_of_all_others(self, https: str, tmp_path: Path) -> None:
        (tmp_path / "other.pem").write_bytes(Authority("another").certificate)
        with pytest.raises(FetchError, match="is not accepted"):
            await fetch(key_config(https, ca_file=tmp_path / "other.pem"))

    async def test_so_does_ssl_cert_file(self, https: str, tmp_path: Path) -> None:
        """In a process of its own, as OpenSSL reads the variable when it first needs an authority."""
        program = (
            "import asyncio, sys\n"
            "from authz.credentials.jwt.fetch import fetch\n"
            "from authz.credentials.jwt.config import KeySetConfig\n"
            "config = KeySetConfig(url=sys.argv[1], allow_addresses=['127.0.0.0/8'])\n"
            "print(asyncio.run(fetch(config)).decode())\n"
        )
        environment = os.environ | {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, https, env=environment, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await started.communicate()
        assert out.strip() == DOCUMENT

    @pytest.mark.parametrize(("content", "problem"), [(None, "cannot be read"), (b"text", "no certificate")])
    def test_a_file_of_no_use_is_a_configuration_error(
        self, harness: CredentialsHarness, content: bytes | None, problem: str
    ) -> None:
        if content is not None:
            harness.write("ca.pem", content)
        harness.write("secret", b"s")
        jwks = {"url": "https://idp.example/keys", "ca_file": "ca.pem"}
        asked = {"url": "https://idp.example/introspect", "client_id": "edge", "audiences": "any"}
        asked |= {"client_secret_file": "secret", "ca_file": "ca.pem"}
        for block in ({"issuers": [harness.issuer(jwks=jwks)]}, {"introspection": asked}):
            with pytest.raises(ConfigError, match=rf"ca\.pem: .*{problem}"):
                harness.credentials(block)

    def test_it_is_watched(self, harness: CredentialsHarness, authority: Authority) -> None:
        harness.write("ca.pem", authority.certificate)
        jwks = {"url": "https://idp.example/keys", "ca_file": "ca.pem"}
        credentials = harness.credentials({"issuers": [harness.issuer(jwks=jwks)]})
        assert list(credentials.watched_files) == [harness.folder / "ca.pem"]


class TestProxy:
    async def test_of_the_configuration(self, proxy: ForwardProxy) -> None:
        assert await fetch(key_config(PROXIED, proxy=proxy.url)) == DOCUMENT
        assert proxy.asked == [f"GET {PROXIED} HTTP/1.1"]

    @pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
    async def test_of_the_environment(
        self, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv(name, proxy.url)
        assert await fetch(key_config(PROXIED)) == DOCUMENT
        assert await posted(introspection(PROXIED)) == DOCUMENT
        assert [line.split()[0] for line in proxy.asked] == ["GET", "POST"]

    async def test_tls_goes_through_it_to_the_server_itself(
        self, proxy: ForwardProxy, https: str, tmp_path: Path
    ) -> None:
        port = int(https.split(":")[2].partition("/")[0])
        proxy.target = ("127.0.0.1", port)
        url = f"https://localhost:{port}/keys"
        assert await fetch(key_config(url, proxy=proxy.url, ca_file=tmp_path / "ca.pem")) == DOCUMENT
        assert proxy.asked == [f"CONNECT localhost:{port} HTTP/1.1"]
        with pytest.raises(FetchError, match="is not accepted"):
            await fetch(key_config(url, proxy=proxy.url))

    async def test_its_password_comes_from_the_environment(
        self, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("http://", "http://edge:p%40ss@"))
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://", "http://edge:p%40ss@"))
        await fetch(key_config(PROXIED))
        with pytest.raises(FetchError):
            await fetch(key_config(PROXIED.replace("http:", "https:")))
        assert {head.split()[0] for head in proxy.heads} == {"GET", "CONNECT"}
        for head in proxy.heads:
            assert "\r\nProxy-Authorization: Basic ZWRnZTpwQHNz\r\n" in head
            assert "\r\nAuthorization:" not in head

    async def test_its_refusal_is_named_without_the_password(
        self, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy.status = 407
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://", "http://edge:p%40ss@"))
        with pytest.raises(FetchError, match=r"^the proxy answered with HTTP status 407$"):
            await fetch(key_config("https://keys.idp.example/keys"))

    async def test_one_that_is_away_is_named(self) -> None:
        with pytest.raises(FetchError, match=r"^the proxy 127\.0\.0\.1:1 cannot be reached"):
            await fetch(key_config(PROXIED, proxy="http://127.0.0.1:1"))

    async def test_an_address_that_is_not_public_is_refused_all_the_same(self, proxy: ForwardProxy) -> None:
        with pytest.raises(FetchError, match="not a public address"):
            await fetch(key_config("http://169.254.169.254/keys", proxy=proxy.url))

    @pytest.mark.parametrize(
        ("no_proxy", "url", "direct"),
        [
            ("", "http://idp.example/", False),
            ("*", "http://idp.example/", True),
            ("idp.example", "http://idp.example/", True),
            ("idp.example", "http://keys.idp.example/", True),
            (".idp.example", "http://keys.idp.example/", True),
            ("*.idp.example", "http://keys.idp.example/", True),
            ("idp.example", "http://myidp.example/", False),
            ("IDP.example:8443, other", "http://idp.example:8443/", True),
            ("idp.example:80", "http://idp.example/", True),
            ("idp.example:8443", "http://idp.example/", False),
            ("other idp.example", "http://idp.example/", True),
            (".", "http://idp.example/", False),
            ("*.", "http://idp.example./", False),
            ("2001:db8::1", "http://[2001:db8::1]/", True),
            ("[2001:db8::1]", "http://[2001:db8::1]/", True),
            ("[2001:db8::1]:8080", "http://[2001:db8::1]:8080/", True),
            ("2001:db8::/32", "http://[2001:db8::1]/", True),
            ("10.0.0.0/8", "http://10.1.2.3/", True),
            ("10.0.0.0/8", "http://11.1.2.3/", False),
            ("", "http://localhost:8080/", True),
            ("", "http://127.0.0.1:8080/", True),
            ("", "http://[::1]:8080/", True),
        ],
    )
    def test_no_proxy_says_what_goes_directly(
        self, monkeypatch: pytest.MonkeyPatch, no_proxy: str, url: str, direct: bool
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "proxy.example:3128")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        found = proxy_for(url, None)
        assert (found is None) is direct
        if found is not None:
            assert found.url == "http://proxy.example:3128"

    def test_false_turns_off_that_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
        assert proxy_for(PROXIED, configured=False) is None

    @pytest.mark.parametrize("text", ["socks5://proxy.example", "http://", "http://proxy.example:x"])
    def test_one_that_cannot_be_used_is_named_by_its_variable(
        self, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", text)
        with pytest.raises(OutboundError, match=r"environment \(HTTP_PROXY\) is not http://HOST:PORT"):
            proxy_for(PROXIED, None)
        monkeypatch.delenv("HTTP_PROXY")
        monkeypatch.setenv("all_proxy", text)
        with pytest.raises(OutboundError, match=r"\(ALL_PROXY\)"):
            proxy_for(PROXIED, None)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("proxy:3128", "must look like"),
            ("socks5://proxy", "must look like"),
            ("http://u:p@proxy:3128", "belongs in the environment"),
            (True, "proxy"),
        ],
    )
    def test_a_setting_that_cannot_be_used_is_a_configuration_error(self, text: Any, problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            key_config(PROXIED, proxy=text)


def test_neither_does_anything_with_a_file(harness: CredentialsHarness, authority: Authority) -> None:
    harness.write("ca.pem", authority.certificate)
    harness.write("keys.json", key_set(jwk(private_key("ES256"))))
    settings: Mapping[str, Any] = {"ca_file": "ca.pem", "proxy": False}
    for name, value in settings.items():
        with pytest.raises(ValueError, match=f"{name} does nothing with a file"):
            harness.config({"issuers": [harness.issuer(jwks={"file": "keys.json", name: value})]})
