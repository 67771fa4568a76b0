"""The admin server over real HTTP."""

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter
from pydantic import SecretStr

from sidecars.admin.health import Health, ProcessPhase
from sidecars.admin.index import links_in
from sidecars.admin.routes import AdminAnswer, AdminRequest, AdminRoute
from sidecars.admin.server import Admin
from sidecars.observability import process_metrics
from sidecars.observability.process_metrics import package_version
from sidecars.settings.process import AdminSettings


class Served:
    def __init__(
        self,
        listen: str = "127.0.0.1:0",
        port_file: Path | None = None,
        routes: Sequence[AdminRoute] = (),
    ) -> None:
        self.health = Health(["a.B"])
        self.registry = CollectorRegistry()
        self.state: dict[str, Any] = {"settings": {}}
        settings = AdminSettings(listen=listen, port_file=port_file)
        self.admin = Admin(settings, self.health, self.registry, lambda: self.state, routes)
        self.address = ""

    async def get(self, path: str, method: str = "GET", **headers: str) -> aiohttp.ClientResponse:
        unix = self.address.removeprefix("unix:") if self.address.startswith("unix:") else None
        connector = aiohttp.UnixConnector(path=unix) if unix else aiohttp.TCPConnector()
        url = f"http://{'admin' if unix else self.address}{path}"
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.request(method, url, headers=headers) as response,
        ):
            await response.read()
            return response


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    served.address = await served.admin.start()
    yield served
    await served.admin.stop()


@pytest.mark.parametrize(
    ("phase", "answer"),
    [(ProcessPhase.STARTING, 503), (ProcessPhase.READY, 200), (ProcessPhase.DRAINING, 503)],
)
async def test_readyz_follows_the_phase_and_healthz_does_not(
    served: Served, phase: ProcessPhase, answer: int
) -> None:
    served.health.enter(phase)
    ready = await served.get("/readyz")
    assert (ready.status, await ready.text()) == (answer, f"{phase}\n")
    assert (await served.get("/healthz")).status == 200


async def test_metrics_are_those_of_the_registry_in_the_format_asked_for(served: Served) -> None:
    Counter("answers", "Answers.", registry=served.registry).inc()
    plain = await served.get("/metrics")
    assert plain.content_type == "text/plain"
    assert "answers_total 1.0" in await plain.text()
    open_metrics = await served.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert open_metrics.content_type == "application/openmetrics-text"
    assert (await open_metrics.text()).endswith("# EOF\n")


async def test_config_is_json_with_secrets_masked(served: Served) -> None:
    served.state = {
        "settings": {"url": "redis://u:hunter2@r/0", "session": SecretStr("hunter2"), "path": Path("/a")},
        "state": {"client_secret": "hunter2"},
    }
    response = await served.get("/config")
    assert await response.json() == {
        "settings": {"url": "redis://***@r/0", "session": "**********", "path": "/a"},
        "state": {"client_secret": "***"},
    }


async def test_the_version_is_that_of_the_code_that_runs(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = package_version()
    monkeypatch.setattr(process_metrics, "version", lambda _name: "99.0")  # another one was installed since
    assert (await (await served.get("/version")).json())["version"] == runs


async def test_version_says_what_runs(served: Served) -> None:
    assert set(await (await served.get("/version")).json()) == {"version", "python"}


async def test_the_index_names_every_page(served: Served) -> None:
    page = await served.get("/")
    assert page.content_type == "text/html"
    links = links_in(await page.text())
    assert len(links) == 6
    for path in links:
        served.health.enter(ProcessPhase.READY)
        assert (await served.get(path)).status == 200


async def test_the_index_links_to_the_pages_of_the_sidecars() -> None:
    async def answer(_request: AdminRequest) -> AdminAnswer:
        return AdminAnswer()

    served = Served(
        routes=[AdminRoute("GET", "/decisions", answer), AdminRoute("POST", "/authz/<x>", answer)]
    )
    served.address = await served.admin.start()
    page = await (await served.get("/")).text()
    assert links_in(page)[-1] == "/decisions"
    assert "<li>POST /authz/&lt;x&gt;</li>" in page
    await served.admin.stop()


@pytest.mark.parametrize(("method", "status"), [("POST", 405), ("DELETE", 405)])
async def test_nothing_can_be_changed(served: Served, method: str, status: int) -> None:
    assert (await served.get("/config", method)).status == status


async def test_the_port_is_written_to_a_file(tmp_path: Path) -> None:
    served = Served(port_file=tmp_path / "port")
    address = await served.admin.start()
    assert address == f"127.0.0.1:{(tmp_path / 'port').read_text().strip()}"
    await served.admin.stop()


async def test_it_serves_on_a_unix_socket_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    served = Served(f"unix:{path}?mode=0600")
    served.address = await served.admin.start()
    assert (await served.get("/healthz")).status == 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await served.admin.stop()


async def test_a_socket_file_left_by_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "admin"))
    served = Served(f"unix:{tmp_path / 'admin'}")
    served.address = await served.admin.start()
    assert (await served.get("/healthz")).status == 200
    await served.admin.stop()


async def test_a_taken_address_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {address}: another process listens on it"):
            await Served(address).admin.start()


async def test_stop_without_start_does_nothing() -> None:
    await Served().admin.stop()


@pytest.mark.parametrize(
    "request_text",
    [
        "GET /healthz HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        f"GET /{'a' * 9_000} HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_malformed_request_has_one_line_without_a_traceback(
    served: Served, request_text: str, caplog: pytest.LogCaptureFixture
) -> None:
    host, _, port = served.address.rpartition(":")
    for number in range(2):
        before = (await served.get("/healthz")).status, len(caplog.records)
        reader, writer = await asyncio.open_connection(host, int(port))
        # From the second request on, aiohttp logs each error of its parser.
        first = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" if number else ""
        writer.write(f"{first}{request_text}".encode())
        answer = await reader.read()
        writer.close()
        assert b" 400 " in answer
        assert before[0] == 200
        for record in caplog.records[before[1] :]:
            assert record.exc_info is None
            assert "admin request malformed: 400" in record.getMessage()
        assert len(caplog.records) - before[1] <= 1
    assert caplog.records
