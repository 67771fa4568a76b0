"""Every request at full load is accounted for while the accesslog endpoint that Envoy uses ends.

Twice by SIGTERM and once by kill -9; Envoy's stream then moves to the other endpoint. Before the first
SIGTERM the sidecar gets a fifth of its time, so that it falls behind and Envoy holds entries for it.

Envoy's file log is the truth. Of each request, Envoy counts an entry as written or dropped, and each entry
that it wrote is a line of one of two sidecars, or is one of the last that Envoy had sent to the one that was
killed.
Set ACCOUNTING_SECONDS=60 for a minute of load; wrk makes it, if it is installed.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml

from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import STOP_SECONDS, Edge
from sidecars.demo.process import ChildProcess, spawn

SECONDS = float(os.environ.get("ACCOUNTING_SECONDS", "12"))
READY_SECONDS = 60.0
RESTARTS_SECONDS = 8.0
"""Added to the load, so that it outlasts the restarts on a busy machine."""
FLUSH_SECONDS = 2.5
"""Longer than `buffer_flush_interval` twice: Envoy has sent its buffer."""
AROUND_SECONDS = 2.5
"""Losses this near to an end are shown with it."""
FALL_BEHIND_SECONDS = 1.0
"""Envoy's window is shut after it, and its buffers fill."""
STOPPED_SECONDS, RUNNING_SECONDS = 0.08, 0.02
"""The turns of a sidecar that gets a fifth of its time."""
NAMES = ("first", "second")
STATS = "access_logs.grpc_access_log."


def change_envoy(configuration: dict[str, Any], folder: Path) -> None:
    """Two accesslog endpoints; a route that Envoy answers itself, without filters; the file log."""
    resources = configuration["static_resources"]
    [accesslog] = [cluster for cluster in resources["clusters"] if cluster["name"] == "accesslog"]
    accesslog["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"pipe": {"path": str(folder / f"{name}.sock")}}}} for name in NAMES
    ]
    manager = http_manager(resources["listeners"][0])
    manager["http_filters"] = [one for one in manager["http_filters"] if one["name"].endswith("router")]
    # Envoy's default: at full load it then sends many messages a second, and never pauses.
    manager["access_log"][0]["typed_config"]["common_config"]["buffer_size_bytes"] = 16_384
    direct = {"status": 200, "body": {"inline_string": "ok"}}
    manager["route_config"] = {
        "name": "load",
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "direct_response": direct}],
            }
        ],
    }
    line = {"inline_string": "%STREAM_ID% %START_TIME(%s.%6f)% %DURATION%\n"}
    manager["access_log"].append(
        {
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": str(folder / "truth.log"),
                "log_format": {"text_format_source": line},
            },
        }
    )


async def scenario(edge: Edge) -> None:
    folder = edge.places.folder
    ended: list[tuple[float, float]] = []
    killed = ""
    async with AsyncExitStack() as running:
        processes = {name: await running.enter_async_context(_accesslog(folder, name)) for name in NAMES}
        load = asyncio.create_task(_load(edge.url))
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            await asyncio.sleep(SECONDS / 6)
            name = await _receiver(folder)
            killed = name if number == signal.SIGKILL else killed
            child = processes[name].child
            if not ended:
                await _slow_down(child, FALL_BEHIND_SECONDS)
            begin = _now()
            child.send_signal(number)
            await child.wait()
            ended.append((begin, _now()))
            processes[name] = await running.enter_async_context(_accesslog(folder, name))
        requests = await load
        await asyncio.sleep(FLUSH_SECONDS)
        for name in NAMES:
            await _check_metrics(edge, _admin(folder, name))
        counts = await _envoy_counts(edge)
        truth = await _whole_truth(folder / "truth.log", requests)
    received = _received(folder)
    assert requests <= len(truth) <= requests + 64, f"{requests} answers, {len(truth)} in Envoy's own log"
    assert counts["logs_written"] + counts["logs_dropped"] == len(truth)
    assert counts["grpc_entries_flushed"] == counts["logs_written"]
    assert received.keys() <= truth.keys()
    order = [received.get(stream_id, "") for stream_id in truth]
    lost = [time for stream_id, time in truth.items() if stream_id not in received]
    figures = {
        "requests": len(truth),
        "written_by_sidecars": len(received),
        "envoy": counts,
        "lost_around_the_ends": len(lost) - counts["logs_dropped"],
        "lost_at_each_end": [_around(lost, begin, end) for begin, end in ended],
    }
    sys.stderr.write(json.dumps(figures) + "\n")
    elsewhere = sum(
        last - first + 1
        for first, last in _runs(order)
        if order[first - 1] != killed or order[last + 1] == killed
    )
    assert elsewhere <= counts["logs_dropped"], f"lost, but not to the kill, and not counted: {figures}"


_COUNTERS = ("logs_written", "logs_dropped", "grpc_entries_flushed", "grpc_entries_flush_failed")


async def _envoy_counts(edge: Edge) -> dict[str, int]:
    return {name: await edge.envoy.counter(STATS + name) for name in _COUNTERS}


async def _check_metrics(edge: Edge, admin: SidecarsAdmin) -> None:
    """The equation in each sidecar, and Envoy's counters in its metrics once it has looked again."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            counts = await _envoy_counts(edge)
            if await admin.metric("accesslog_envoy_entries_total") == sum(counts.values()):
                break
            await asyncio.sleep(0.1)
    entries = "accesslog_entries_"
    received = await admin.metric(f"{entries}received_total")
    written = await admin.metric(f"{entries}written_total")
    dropped = await admin.metric(f"{entries}dropped_total")
    assert received == written + dropped + await admin.metric("accesslog_queue_entries")
    assert dropped == 0


async def _slow_down(child: asyncio.subprocess.Process, seconds: float) -> None:
    """Stop and continue the process by turns for some time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        child.send_signal(signal.SIGSTOP)
        await asyncio.sleep(STOPPED_SECONDS)
        child.send_signal(signal.SIGCONT)
        await asyncio.sleep(RUNNING_SECONDS)


async def _receiver(folder: Path) -> str:
    """The sidecar that has Envoy's stream."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            for name in NAMES:
                if await _admin(folder, name).metric("accesslog_streams_open"):
                    return name
            await asyncio.sleep(0.05)


def _admin(folder: Path, name: str) -> SidecarsAdmin:
    return SidecarsAdmin(folder / f"{name}.admin")


def _now() -> float:
    return datetime.now(UTC).timestamp()


@asynccontextmanager
async def _accesslog(folder: Path, name: str) -> AsyncIterator[ChildProcess]:
    """An accesslog sidecar; all that have the same name append to the same file."""
    file = folder / f"{name}.yaml"
    section = {
        "listen": [f"unix:{folder}/{name}.sock"],
        "envoy_admin": f"unix:{folder}/envoy-admin.sock",
        "sinks": [{"type": "file", "path": f"{name}.jsonl"}],
    }
    drain = {"drain_delay_seconds": 0, "grace_seconds": 5, "flush_seconds": 5}
    admin = {"listen": f"unix:{folder}/{name}.admin"}
    file.write_text(yaml.safe_dump({"admin": admin, "drain": drain, "accesslog": section}))
    (folder / f"{name}.admin").unlink(missing_ok=True)
    command = (sys.executable, "-m", "sidecars", "run", "accesslog", "--config", str(file))
    async with spawn(name, command, folder / f"{name}.log", stop_seconds=STOP_SECONDS) as process:
        await process.until_ready(_admin(folder, name).ready, READY_SECONDS)
        yield process


async def _load(url: str) -> int:
    """Send requests for SECONDS and the time of the restarts; how many were answered."""
    wrk = shutil.which("wrk")
    if wrk is not None:
        command = (wrk, "-t", "1", "-c", "8", "-d", f"{SECONDS + RESTARTS_SECONDS:.0f}s", url)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        [line] = [line for line in output.decode().splitlines() if " requests in " in line]
        return int(line.split()[0])
    loop = asyncio.get_running_loop()
    until = loop.time() + SECONDS + RESTARTS_SECONDS
    answered = 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal answered
        while loop.time() < until:
            async with session.get(url) as response:
                await response.read()
                answered += 1

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(8)))
    return answered


async def _whole_truth(file: Path, requests: int) -> dict[str, float]:
    """As `_truth`, once all `requests` are there: Envoy flushes the file after 10 s, or at 64 KB."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            truth = dict(_truth(file))
            if len(truth) >= requests:
                return truth
            await asyncio.sleep(1)


def _truth(file: Path) -> list[tuple[str, float]]:
    """The id of each request and when it ended, seconds since 1970."""
    rows = (line.split() for line in file.read_text().splitlines())
    return [(row[0], float(row[1]) + int(row[2]) / 1000) for row in rows if len(row) == 3]


def _runs(order: list[str]) -> list[tuple[int, int]]:
    """The first and the last position of each run of requests that no sidecar logged."""
    found: list[tuple[int, int]] = []
    for position, name in enumerate(order):
        if not name:
            first = found.pop()[0] if found and found[-1][1] == position - 1 else position
            found.append((first, position))
    return found


def _received(folder: Path) -> dict[str, str]:
    """The sidecar that logged each request."""
    result: dict[str, str] = {}
    for name in NAMES:
        with (folder / f"{name}.jsonl").open("rb") as file:
            for line in file:
                stream_id = orjson.loads(line)["stream_id"]
                assert stream_id not in result, f"{stream_id} was logged twice"
                result[stream_id] = name
    return result


def _around(lost: list[float], begin: float, end: float) -> dict[str, float]:
    """How many of `lost` are near this end of a sidecar, and when, in seconds after its signal."""
    near = [time - begin for time in lost if begin - AROUND_SECONDS <= time <= end + AROUND_SECONDS]
    seconds = {"from": round(min(near), 3), "to": round(max(near), 3)} if near else {}
    return {"entries": len(near), **seconds, "ended_after": round(end - begin, 3)}
