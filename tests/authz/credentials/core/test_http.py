"""One bounded GET, against a real HTTP server on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from authz.credentials.core.http import MAX_DOCUMENT_BYTES, FetchError, PublicResolver
from authz.credentials.jwt.config import KeySetConfig
from authz.credentials.jwt.fetch import fetch

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[str]]

LOOPBACK = ("127.0.0.0/8", "::1/128")


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves a handler on a free port; returns its URL."""
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> str:
        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        return f"http://127.0.0.1:{port}/keys"

    yield start
    for runner in runners:
        await runner.cleanup()


def config(url: str, **changes: object) -> KeySetConfig:
    block = {"url": url, "allow_http": True, "allow_addresses": LOOPBACK, "timeout_seconds": 5}
    return KeySetConfig.model_validate(block | changes)


async def test_a_document_arrives(serve: Serve) -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return web.json_response({"keys": []})

    assert await fetch(config(await serve(handler))) == b'{"keys": []}'
    assert seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [204, 206, 301, 302, 307, 404, 500, 503])
async def test_only_status_200_counts_and_no_redirect_is_followed(serve: Serve, status: int) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status, headers={"location": "/elsewhere"})

    with pytest.raises(FetchError, match=f"HTTP status {status}"):
        await fetch(config(await serve(handler)))
    assert asked == ["/keys"]


async def test_a_body_of_ten_megabytes_is_cut_off(serve: Serve) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=b" " * 10_000_000)

    with pytest.raises(FetchError, match=f"larger than {MAX_DOCUMENT_BYTES}"):
        await fetch(config(await serve(handler)))


async def test_a_slow_answer_is_given_up(serve: Serve) -> None:
    gone = asyncio.Event()

    async def handler(_request: web.Request) -> web.Response:
        await gone.wait()
        return web.Response()

    url = await serve(handler)
    try:
        with pytest.raises(FetchError, match="no answer within"):
            await fetch(config(url, timeout_seconds=0.05))
    finally:
        gone.set()


async def test_a_body_that_trickles_is_given_up(serve: Serve) -> None:
    gone = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{")
        await gone.wait()
        return response

    url = await serve(handler)
    try:
        with pytest.raises(FetchError, match="no answer within"):
            await fetch(config(url, timeout_seconds=0.05))
    finally:
        gone.set()


async def test_a_server_that_is_away_is_an_error() -> None:
    with pytest.raises(
        FetchError, match=r"^127\.0\.0\.1:1 cannot be reached: the connection is refused; does a"
    ):
        await fetch(config("http://127.0.0.1:1/keys"))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1"),
        *("[::1]", "[fd00::1]", "[::ffff:10.0.0.1]", "[fec0::1]"),
        *("127\u30020\u30020\u30021", "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460"),
    ],
)
async def test_a_private_address_is_not_asked_unless_listed(host: str) -> None:
    with pytest.raises(FetchError, match="not a public address"):
        await fetch(config(f"http://{host}/keys", allow_addresses=()))


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "0", "1%32%37.0.0.1"]
)
async def test_an_address_in_a_form_of_its_own_is_not_asked(host: str) -> None:
    """Resolvers and `connect` read more than four decimals as an address, each its own set."""
    with pytest.raises(FetchError, match=f"'{host}' is an address in an unusual form"):
        await fetch(KeySetConfig(url=f"https://{host}/keys"))


@pytest.mark.parametrize("host", ["127.0.0.1.example", "4.example", "0xyz"])
def test_a_name_with_digits_is_a_name(host: str) -> None:
    PublicResolver(()).check(host)


async def test_a_name_that_cannot_be_resolved_is_named() -> None:
    with pytest.raises(FetchError, match=r"^the name keys\.invalid cannot be resolved: "):
        await fetch(KeySetConfig(url="https://keys.invalid/keys", proxy=False))


async def test_a_name_that_leads_to_a_private_address_is_not_asked() -> None:
    """DNS may say anything, and may say it only after the configuration was checked (DNS rebinding)."""
    with pytest.raises(FetchError, match="not a public address"):
        await fetch(config("https://localhost/keys", allow_addresses=()))


@pytest.mark.parametrize("address", ["10.1.2.3", "100.64.0.1", "0.0.0.0", "::1", "fe80::1%eth0"])
def test_an_address_that_is_not_public_is_known_as_such(address: str) -> None:
    with pytest.raises(FetchError, match="not a public address"):
        PublicResolver(()).check(address)


def test_a_listed_network_may_be_asked() -> None:
    PublicResolver(config("https://x/", allow_addresses=["10.0.0.0/8"]).allow_addresses).check("10.1.2.3")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://idp.example.com/keys", "must be https"),
        ("ftp://idp.example.com/keys", "must look like"),
        ("file:///etc/passwd", "must look like"),
        ("https:///keys", "must look like"),
        ("https://user:secret@idp.example.com/keys", "user name or password"),
    ],
)
def test_a_url_that_may_not_be_asked_is_an_error(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeySetConfig.model_validate({"url": url})
