"""The floods of the benchmarks work as described, and the benchmarks measure their effect on others."""

import asyncio
import os
from pathlib import Path

import pytest

from bench.attacks import GOALS, FloodCall, flooding, log_message, measure
from bench.resets import under_attack
from bench.tools.accesslog_server import PATH as LOG_PATH
from bench.tools.edge import edge
from bench.tools.floods import FLOOD_BYTES, FLOODS, STREAMS, FloodRequest, flood
from bench.tools.log_floods import LOG_FLOODS, log_flood
from bench.tools.noop_server import PATH
from bench.tools.processes import python_server
from sidecars.demo.envoy import find_envoy, scripts_folder, serve_envoy
from sidecars.transport.http2.errors import Reason
from tests.support.transport.wire import Bench, parse

REQUEST = FloodRequest("/p/Echo", b"x" * 200)

ENDS: dict[str, Reason] = {
    "rapid_reset": Reason.RAPID_RESET,
    "made_you_reset": Reason.RAPID_RESET,
    "malformed_requests": Reason.RAPID_RESET,
    "cancelled_calls": Reason.RAPID_RESET,
    "pings": Reason.PING_FLOOD,
    "settings": Reason.SETTINGS_FLOOD,
    "window_settings": Reason.SETTINGS_FLOOD,
    "window_updates": Reason.WINDOW_UPDATE_FLOOD,
    "empty_data": Reason.EMPTY_FRAME_FLOOD,
    "priority": Reason.IDLE_FRAME_FLOOD,
    "unknown_frames": Reason.IDLE_FRAME_FLOOD,
    "continuation": Reason.CONTINUATION_FLOOD,
    "hpack_bomb": Reason.HEADER_LIST_SIZE,
    "open_streams": Reason.RAPID_RESET,
    "dribbled_replies": Reason.WINDOW_UPDATE_FLOOD,
    "gzip_bombs": Reason.INFLATION_FLOOD,
}
"""The floods that a limit ends; the others cost as much as calls, in separate turns of the event loop."""


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_does_what_it_says(name: str) -> None:
    bench = Bench()
    data = flood(name, REQUEST)
    assert len(data) < 2 * FLOOD_BYTES
    for start in range(0, len(data), 100_000):
        parse(bench.feed(data[start : start + 100_000]))
        while bench.connection.has_pending_input:
            parse(bench.feed(b""))
    assert bench.connection.over is (name in ENDS), bench.tally.reasons
    if name in ENDS:
        assert bench.tally.reasons[-1] is ENDS[name]


def test_every_flood_has_a_goal() -> None:
    assert {f"{name}_p99_ms" for name in FLOODS} <= set(GOALS)
    assert {f"{name}_p99_ms" for name in LOG_FLOODS} <= set(GOALS)


LOG_ENDS = {"log_streams_reset": 0, "log_streams_ended": 0}
"""Streams that are left open where they are not all of those that were opened."""


@pytest.mark.parametrize("name", LOG_FLOODS)
def test_a_log_flood_does_what_it_says(name: str) -> None:
    bench = Bench()
    connections, data = log_flood(name, FloodRequest("/p/Join", b"x" * 200))
    assert connections >= 1
    for start in range(0, len(data), 100_000):
        bench.feed(data[start : start + 100_000])
        while bench.connection.has_pending_input:
            bench.feed(b"")
        bench.run()
    assert not bench.connection.over, bench.tally.reasons
    assert not bench.tally.reasons
    assert bench.connection.streams.stream_table.opened == STREAMS
    assert len(bench.connection.streams.table) == LOG_ENDS.get(name, STREAMS)


@pytest.mark.parametrize("name", ["rapid_reset", "calls_in_one_write", "gzip_bombs"])
def test_a_second_connection_is_measured_during_a_flood(name: str) -> None:
    with (
        python_server("bench.tools.noop_server", "native") as (_, port),
        flooding(port, name, FloodCall(PATH, b"x" * 200), 0.3) as attacker,
    ):
        times = measure(port, FloodCall(PATH, b"x" * 200), 0.3)
    assert times
    assert attacker["connections"] >= 1
    assert attacker["megabytes"] > 0


@pytest.mark.parametrize("name", ["log_streams_closed_together", "log_messages_in_bursts"])
def test_a_second_log_stream_is_measured_during_a_flood(name: str, tmp_path: Path) -> None:
    call = FloodCall(LOG_PATH, log_message())
    with (
        python_server("bench.tools.accesslog_server", str(tmp_path / "access.log")) as (_, port),
        flooding(port, name, call, 0.3) as attacker,
    ):
        times = measure(port, call, 0.3)
    assert times
    assert attacker["connections"] >= LOG_FLOODS[name].connections


@pytest.mark.envoy
@pytest.mark.timeout(180)
async def test_checks_of_others_are_measured_while_a_client_resets(tmp_path: Path) -> None:
    with python_server("bench.tools.noop_server", "native") as (_, port):
        async with serve_envoy(find_envoy(os.environ, scripts_folder()), edge(port), tmp_path) as envoy:
            times, failed = await asyncio.wait_for(under_attack(envoy.ports["edge"], "token", 400, 1.0), 60)
            assert await envoy.counter("cluster.authz.upstream_rq_tx_reset") > 0
    assert times
    assert failed == 0
