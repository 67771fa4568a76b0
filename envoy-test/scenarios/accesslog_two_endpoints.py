"""With two accesslog endpoints a restart of one of them loses no entry: Envoy's streams go to the other."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from common.configfile import read
from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.ask import ask
from sidecars.demo.demo import Lines, log_lines
from sidecars.demo.edge import STOP_SECONDS, Edge, serve_sidecars
from sidecars.demo.process import spawn

READY_SECONDS = 60.0
FLUSH_SECONDS = 1.5
"""Longer than `buffer_flush_interval`: Envoy has sent its buffer."""
NAMES = ("before", "away", "after")
REQUESTS = 30
"""The number of requests with each name."""


def change_envoy(configuration: dict[str, Any], folder: Path) -> None:
    """The second endpoint."""
    clusters = configuration["static_resources"]["clusters"]
    [accesslog] = [cluster for cluster in clusters if cluster["name"] == "accesslog"]
    second = {"endpoint": {"address": {"pipe": {"path": str(folder / "second.sock")}}}}
    accesslog["load_assignment"]["endpoints"][0]["lb_endpoints"].append(second)


async def scenario(edge: Edge) -> None:
    folder = edge.places.folder
    file = folder / "second.yaml"
    sinks = [{"type": "file", "path": "second.jsonl"}]
    listen = [f"unix:{folder}/second.sock"]
    admin = {"listen": f"unix:{folder}/second.admin"}
    file.write_text(yaml.safe_dump({"admin": admin, "accesslog": {"listen": listen, "sinks": sinks}}))
    command = (sys.executable, "-m", "sidecars", "run", "accesslog", "--config", str(file))
    async with spawn("second", command, folder / "second.log", stop_seconds=STOP_SECONDS) as second:
        await second.until_ready(SidecarsAdmin(folder / "second.admin").ready, READY_SECONDS)
        await _ask(edge, "before")
        await asyncio.sleep(FLUSH_SECONDS)
        await edge.sidecars.stop(STOP_SECONDS)

        settings_file = edge.places.settings_file
        whole = settings_file.read_text()
        without = {name: value for name, value in read(settings_file).data.items() if name != "accesslog"}
        settings_file.write_text(yaml.safe_dump(without))
        async with serve_sidecars(edge.places, os.environ):
            await _ask(edge, "away")
            await asyncio.sleep(FLUSH_SECONDS)
        settings_file.write_text(whole)
        async with serve_sidecars(edge.places, os.environ):
            await _ask(edge, "after")
            await asyncio.sleep(FLUSH_SECONDS)
            await second.stop(STOP_SECONDS)
            first = await log_lines(edge.places.access_log, lambda _: True)
            lines = first + await log_lines(folder / "second.jsonl", lambda _: True)
            assert {name: _told(lines, name) for name in NAMES} == dict.fromkeys(NAMES, REQUESTS)


def _told(lines: Lines, name: str) -> int:
    return sum(f"/public/{name}/" in str(line["path"]) for line in lines)


async def _ask(edge: Edge, name: str) -> None:
    for number in range(REQUESTS):
        assert (await ask(edge.url, f"/public/{name}/{number}")).status == 200
