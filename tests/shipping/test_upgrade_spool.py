"""A rolling upgrade of accesslog while its disk is full: what the earlier version spooled is delivered."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import orjson
import pytest

from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.until import until
from tests.support.earlier import READY_SECONDS, STOP_SECONDS, Version, tree_of
from tests.support.entries import http_entry, message
from tests.support.manifests import ROOT

pytestmark = pytest.mark.timeout(400)

FROM = "f4c983f"
"""Five minutes after the spool was written. The last tag, once there is one."""

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
FULL_DISK = Path("/dev/full")
"""Linux answers each write with ENOSPC."""

ENTRIES = 500
"""In each stream."""


def sections(folder: Path, name: str, file: Path) -> dict[str, Any]:
    """Return the settings of one accesslog process, which writes to `file`."""
    spool = {"folder": f"{folder}/spool-{name}", "max_bytes": 100_000_000, "sync_ms": 50}
    sink = {"type": "file", "path": str(file), "spool": spool}
    return {"accesslog": {"listen": [f"unix:{folder}/{name}.sock"], "sinks": [sink]}}


async def send(folder: Path, name: str, first: int) -> set[str]:
    """Send a stream of entries, wait until the process has read it, and return their request ids."""
    sent = [f"{name}-{number}" for number in range(first, first + ENTRIES)]

    async def messages() -> Any:
        for request_id in sent:
            yield message(http_entry(request_id=request_id)).SerializeToString()

    async with grpc.aio.insecure_channel(f"unix:{folder}/{name}.sock") as channel:
        call: Any = channel.stream_unary(METHOD)
        await call(messages(), timeout=60)
    return set(sent)


def delivered(file: Path) -> set[str]:
    """Return the request ids in the file."""
    return {orjson.loads(line)["request_id"] for line in file.read_bytes().splitlines()}


async def test_what_the_earlier_version_spooled_is_delivered(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("u")
    before, after = Version(tree_of(FROM, folder), folder), Version(ROOT, folder)
    names = ("one", "two")
    sent: dict[str, set[str]] = {name: set() for name in names}
    async with AsyncExitStack() as stack:
        processes = {
            name: await stack.enter_async_context(
                before.running(name, "accesslog", **sections(folder, name, FULL_DISK))
            )
            for name in names
        }
        for first, (name, other) in enumerate((names, names[::-1])):
            sent[name] |= await send(folder, name, first * 10_000)
            # The other process gets entries while this one stops.
            stopping = asyncio.create_task(processes[name].stop(STOP_SECONDS))
            sent[other] |= await send(folder, other, first * 10_000 + 5_000)
            assert await stopping == 0
            file = folder / f"{name}.jsonl"
            processes[name] = await stack.enter_async_context(
                after.running(name, "accesslog", **sections(folder, name, file))
            )
            sent[name] |= await send(folder, name, first * 10_000 + 7_000)

            async def all_delivered(file: Path = file, name: str = name) -> bool:
                return delivered(file) == sent[name]

            await until(all_delivered, "the file has everything", READY_SECONDS)
            admin = SidecarsAdmin(folder / f"{name}.admin")
            assert await admin.metric("accesslog_entries_recovered_total") >= ENTRIES
            assert await admin.metric("accesslog_spool_files_left_aside") == 0
    print(f"entries: {sum(map(len, sent.values()))}")  # noqa: T201  # for docs/versions.md
