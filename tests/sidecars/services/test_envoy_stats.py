"""Envoy's counters as metrics, from a server that answers as Envoy's admin interface does.

The scenario accesslog_accounting asks a real Envoy.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from sidecars.services.envoy_stats import EnvoyStats
from sidecars.transport.api.address import UnixAddress


class Admin:
    """The page /stats of an Envoy."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.counts = {"logs_written": 0, "logs_dropped": 0, "grpc_entries_flushed": 0}
        self.text: str | None = None
        self.queries: list[str] = []

    async def stats(self, request: web.Request) -> web.Response:
        self.queries.append(request.query["filter"])
        stats = [
            {"name": f"access_logs.grpc_access_log.{name}", "value": count}
            for name, count in self.counts.items()
        ]
        text = json.dumps({"stats": [*stats, {"histograms": {}}]}) if self.text is None else self.text
        return web.Response(text=text, content_type="application/json")


@pytest_asyncio.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    admin = Admin(tmp_path / "admin.sock")
    app = web.Application()
    app.router.add_get("/stats", admin.stats)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(admin.socket)).start()
    yield admin
    await runner.cleanup()


class Watched:
    def __init__(self, socket: Path) -> None:
        self.received = 0
        self.stats = EnvoyStats(UnixAddress(str(socket)), lambda: self.received)
        self.registry = CollectorRegistry()
        self.registry.register(self.stats)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    @property
    def missing(self) -> float | None:
        return self.value("accesslog_envoy_missing_entries")


async def test_the_counters_of_envoy_are_metrics(admin: Admin) -> None:
    watched = Watched(admin.socket)
    assert watched.missing is None
    admin.counts = {"logs_written": 7, "logs_dropped": 2, "grpc_entries_flushed": 5}
    await watched.stats.look()
    for name, count in admin.counts.items():
        assert watched.value("accesslog_envoy_entries_total", counter=name) == count
    assert admin.queries == ["^access_logs.grpc_access_log."]
    assert watched.value("accesslog_envoy_admin_failing") == 0


async def test_what_was_sent_since_the_first_look_and_did_not_arrive_is_missing(admin: Admin) -> None:
    watched = Watched(admin.socket)
    admin.counts["grpc_entries_flushed"] = 1000
    watched.received = 40
    await watched.stats.look()
    assert watched.missing == 0
    admin.counts["grpc_entries_flushed"] = 1100
    watched.received = 130
    await watched.stats.look()
    assert watched.missing == 10


async def test_a_restart_of_envoy_begins_a_new_count(admin: Admin) -> None:
    watched = Watched(admin.socket)
    admin.counts["grpc_entries_flushed"] = 1000
    await watched.stats.look()
    admin.counts["grpc_entries_flushed"] = 20
    watched.received = 500
    await watched.stats.look()
    assert watched.missing == 0
    admin.counts["grpc_entries_flushed"] = 25
    await watched.stats.look()
    assert watched.missing == 5


async def test_an_envoy_before_1_39_is_measured_by_what_it_wrote(admin: Admin) -> None:
    watched = Watched(admin.socket)
    admin.counts = {"logs_written": 10, "logs_dropped": 0}
    await watched.stats.look()
    admin.counts = {"logs_written": 12, "logs_dropped": 0}
    await watched.stats.look()
    assert watched.missing == 2


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"stats": [{"name": 7}]}', '{"stats": [{"name": "a"}]}', "\xff"]
)
async def test_a_page_that_is_not_envoys_is_said_once_and_changes_nothing(admin: Admin, text: str) -> None:
    watched = Watched(admin.socket)
    admin.counts["grpc_entries_flushed"] = 3
    await watched.stats.look()
    admin.text = text
    with capture_logs() as logs:
        await watched.stats.look()
        await watched.stats.look()
        assert watched.value("accesslog_envoy_admin_failing") == 1
        assert watched.value("accesslog_envoy_entries_total", counter="grpc_entries_flushed") == 3
        admin.text = None
        await watched.stats.look()
    assert [log["event"] for log in logs] == ["envoy_admin does not answer", "envoy_admin answers again"]


async def test_an_envoy_that_is_away_is_said(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "none.sock")
    with capture_logs() as logs:
        await watched.stats.look()
    assert [log["event"] for log in logs] == ["envoy_admin does not answer"]
    assert watched.value("accesslog_envoy_admin_failing") == 1


async def test_where_other_processes_receive_entries_too_there_is_no_gap(admin: Admin) -> None:
    stats = EnvoyStats(UnixAddress(str(admin.socket)), lambda: 0, with_gap=False)
    admin.counts["grpc_entries_flushed"] = 5
    await stats.look()
    assert stats.gap is None
