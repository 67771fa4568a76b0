"""Which requests the admin server answers: those that name it, with a token where one is needed."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from sidecars.admin.guard import HEADERS, Guard, is_same_origin
from sidecars.admin.health import Health, ProcessPhase
from sidecars.admin.server import Admin
from sidecars.client.admin_client import admin_session
from sidecars.settings.process import AdminSettings

TOKEN = "a-token-of-many-characters"

Get = Callable[..., Any]


@asynccontextmanager
async def serve(**settings: Any) -> AsyncIterator[Get]:
    """Serve the admin pages and one page of a console; give a function that asks for (status, headers)."""
    health = Health(())
    health.enter(ProcessPhase.READY)
    listen = settings.pop("listen", "127.0.0.1:0")
    admin = Admin(
        AdminSettings(listen=listen, **settings), health, CollectorRegistry(), lambda: {"settings": {}}
    )

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="console")

    admin.router.add_get("/console/{page:.*}", page)
    address = await admin.start()
    unix = address.removeprefix("unix:").partition(",")[0] if address.startswith("unix:") else None
    connector = aiohttp.UnixConnector(path=unix) if unix else aiohttp.TCPConnector()
    base = "http://admin" if unix else f"http://127.0.0.1:{address.rpartition(':')[2]}"
    async with aiohttp.ClientSession(base, connector=connector) as client:

        async def get(path: str, **headers: str) -> tuple[int, Any]:
            async with client.get(path, headers=headers) as response:
                return response.status, response.headers

        yield get
    await admin.stop()


async def _empty(_request: web.Request) -> web.Response:
    return web.Response()


async def test_what_no_page_answers_says_so_in_words() -> None:
    app = web.Application(middlewares=[Guard(AdminSettings(listen="127.0.0.1:0")).middleware])
    app.router.add_get("/config", _empty)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
        async with client.get("/nonesuch") as answer:
            assert (answer.status, await answer.text()) == (
                404,
                "there is no such page; the page / lists all\n",
            )
        async with client.post("/config") as answer:
            assert (answer.status, await answer.text()) == (405, "this page answers GET, HEAD only\n")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    await runner.cleanup()


@pytest.mark.parametrize("page", ["/limits/reset", "/limits/bans/lift"])
async def test_a_page_that_changes_limits_needs_a_token_on_tcp(tmp_path: Path, page: str) -> None:
    (tmp_path / "token").write_text(TOKEN)
    async with serve() as get:
        assert (await get(page))[0] == 403
    async with serve(token_file=tmp_path / "token") as get:
        assert (await get(page))[0] == 401
        assert (await get(page, Authorization=f"Bearer {TOKEN}"))[0] == 404  # no ratelimit here
    async with serve(listen=f"unix:{tmp_path}/admin") as get:
        assert (await get(page))[0] == 404


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9090", "localhost:9090", "LOCALHOST", "[::1]:9090", "10.1.2.3", "edge-1.example.com"]
)
async def test_a_request_that_names_the_server_is_answered(host: str) -> None:
    async with serve(hosts=["Edge-1.example.com"]) as get:
        for path in ("/", "/config", "/console/"):
            assert (await get(path, Host=host))[0] == 200


@pytest.mark.parametrize(
    "host",
    ["rebound.example:9090", "127.0.0.1.example", "localhost.example", "[::1", "a@b", "edge_1", "x:y:z"],
)
@pytest.mark.parametrize("path", ["/", "/config", "/totals", "/console/", "/%63onsole/"])
async def test_a_request_that_names_another_server_is_refused(host: str, path: str) -> None:
    async with serve() as get:
        assert (await get(path, Host=host))[0] == 421


async def test_scrapers_and_probes_use_any_name_and_no_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    async with serve(token_file=file) as get:
        for path in ("/metrics", "/healthz", "/readyz"):
            assert (await get(path, Host="edge-1.monitoring.svc"))[0] == 200


async def test_a_token_is_needed_where_the_settings_have_one(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    wrong = base64.b64encode(f"{TOKEN}:".encode()).decode()
    async with serve(token_file=file) as get:
        for path in ("/config", "/console/"):
            status, headers = await get(path)
            assert (status, headers["WWW-Authenticate"].split()[0]) == (401, "Basic")
            for shown in (f"Bearer {TOKEN}x", "Bearer", f"Basic {wrong}", "Basic é", f"Digest {TOKEN}"):
                assert (await get(path, Authorization=shown))[0] == 401, shown
            for shown in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
                assert (await get(path, Authorization=shown))[0] == 200, shown
        file.write_text("another-token-of-many-characters")  # read at each request
        assert (await get("/config", Authorization=f"Bearer {TOKEN}"))[0] == 401
        file.write_text("short")
        assert (await get("/config", Authorization="Bearer short"))[0] == 503
        file.unlink()
        assert (await get("/config", Authorization=f"Bearer {TOKEN}"))[0] == 503


async def test_a_token_that_is_not_utf8_is_refused_like_any_other(tmp_path: Path) -> None:
    file, port_file = tmp_path / "token", tmp_path / "port"
    file.write_text(TOKEN)
    async with serve(token_file=file, port_file=port_file):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port_file.read_text()))
        head = b"GET /config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        writer.write(head + b"Authorization: Bearer \xff\xfe\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"401"
        writer.close()


async def test_the_console_of_an_exposed_port_needs_a_token(tmp_path: Path) -> None:
    async with serve(listen="0.0.0.0:0") as get:
        assert (await get("/console/"))[0] == 403
        assert (await get("/console/decisions"))[0] == 403
        assert (await get("/config"))[0] == 200  # as ever, which docs/console.md says
    file = tmp_path / "token"
    file.write_text(TOKEN)
    async with serve(listen="0.0.0.0:0", token_file=file) as get:
        assert (await get("/console/"))[0] == 401
        assert (await get("/console/", Authorization=f"Bearer {TOKEN}"))[0] == 200


@pytest.mark.parametrize(
    ("listen", "exposed"),
    [
        ("127.0.0.1:1", False),
        ("[::1]:1", False),
        ("localhost:1", False),
        ("unix:/a", False),
        ("0.0.0.0:1", True),
        ("[::]:1", True),
        ("192.0.2.1:1", True),
    ],
)
def test_an_address_is_exposed_unless_it_is_loopback(listen: str, *, exposed: bool) -> None:
    assert AdminSettings(listen=listen).exposed is exposed
    assert AdminSettings(also_listen=(listen,)).exposed is exposed


async def test_a_unix_socket_is_guarded_by_its_permissions(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    async with serve(listen=f"unix:{tmp_path}/admin", also_listen=("0.0.0.0:0",), token_file=file) as get:
        assert (await get("/console/"))[0] == 200


async def test_no_page_can_be_framed_or_sniffed() -> None:
    async with serve() as get:
        for path in ("/", "/metrics", "/config", "/nothing", "/console/"):
            status, headers = await get(path)
            assert status == (404 if path == "/nothing" else 200)
            assert {name: headers[name] for name in HEADERS} == dict(HEADERS)


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-site", "Host": "h", "Origin": "http://h"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1:9090"}, True),
        ({"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1:9091"}, False),
        ({"Host": "127.0.0.1:9090", "Origin": "null"}, False),
        ({"Host": "127.0.0.1:9090"}, False),
        ({"Host": "", "Origin": "http://"}, False),
        ({}, False),
    ],
)
def test_a_form_comes_from_a_page_of_the_same_server(headers: dict[str, str], *, same: bool) -> None:
    assert is_same_origin(headers) is same


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "ip6-localhost", "localhost"])
async def test_our_own_commands_show_the_token_and_are_answered_at_each_address(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    # A name that no list of hosts has.
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda name, *more, **named: real("::1" if name == "ip6-localhost" else name, *more, **named),
    )
    file, port_file = tmp_path / "token", tmp_path / "port"
    file.write_text(TOKEN)
    settings = AdminSettings(listen=f"{host}:0", port_file=port_file, token_file=file)
    admin = Admin(settings, Health(()), CollectorRegistry(), lambda: {"settings": {}})
    await admin.start()
    async with admin_session(settings) as (client, base), client.get(f"{base}/config") as response:
        assert response.status == 200
    await admin.stop()
