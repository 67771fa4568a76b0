"""A restart of the only accesslog sidecar loses all entries logged while it is down, without a count.

Envoy loses entries for an endpoint that refuses connections: `logs_dropped` stays 0. With two endpoints
(docs/deployment.md) nothing is lost.
"""

import asyncio
import os

import yaml

from common.configfile import read
from sidecars.demo.ask import ask
from sidecars.demo.demo import log_lines
from sidecars.demo.edge import STOP_SECONDS, Edge, serve_sidecars

FLUSH_SECONDS = 1.5
"""Longer than `buffer_flush_interval`: Envoy has sent its buffer."""
BEFORE, AWAY, AFTER = 20, 30, 20


async def scenario(edge: Edge) -> None:
    await _ask(edge, "before", BEFORE)
    before = await log_lines(edge.places.access_log, lambda lines: _told(lines, "before") == BEFORE)
    assert _told(before, "before") == BEFORE
    await edge.sidecars.stop(STOP_SECONDS)

    file = edge.places.settings_file
    whole = file.read_text()
    without = {name: value for name, value in read(file).data.items() if name != "accesslog"}
    file.write_text(yaml.safe_dump(without))
    async with serve_sidecars(edge.places, os.environ):
        await _ask(edge, "away", AWAY)
        await asyncio.sleep(FLUSH_SECONDS)

    file.write_text(whole)
    async with serve_sidecars(edge.places, os.environ):
        # The first one makes Envoy reopen its streams.
        await _ask(edge, "after", AFTER)
        lines = await log_lines(edge.places.access_log, lambda lines: _told(lines, "after") == AFTER)
        assert _told(lines, "after") == AFTER
        assert _told(lines, "away") == 0
        assert await edge.envoy.counter("access_logs.grpc_access_log.logs_dropped") == 0
        written = await edge.envoy.counter("access_logs.grpc_access_log.logs_written")
        assert written == BEFORE + AWAY + AFTER


async def _ask(edge: Edge, name: str, times: int) -> None:
    for number in range(times):
        assert (await ask(edge.url, f"/public/{name}/{number}")).status == 200


def _told(lines: list[dict[str, object]], name: str) -> int:
    return sum(f"/public/{name}/" in str(line["path"]) for line in lines)
