"""Large messages of many log streams share the turns of the event loop, even if their callers have left."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from accesslog.records.decoder import BATCH_ENTRIES
from sidecars.services.accesslog import AccesslogSidecar, build
from sidecars.services.sidecar import Dependencies
from sidecars.settings.accesslog import AccesslogSettings
from tests.support.entries import http_entry, message
from tests.support.ratelimiting import FakeCall

STREAMS = 10
ENTRIES = 10 * BATCH_ENTRIES


def without_a_writer(folder: Path) -> AccesslogSidecar:
    """A sidecar that has not started, so that its queue keeps every entry."""
    sink = {"type": "file", "path": str(folder / "log"), "queue": {"entries": 2 * STREAMS * ENTRIES}}
    settings = AccesslogSettings.model_validate({"listen": ["127.0.0.1:0"], "sinks": [sink]})
    return build(
        settings, Dependencies(CollectorRegistry(), time.time, time.monotonic, random.random, redis=None)
    )


async def one_message(data: bytes) -> AsyncIterator[bytes]:
    yield data
    await asyncio.Event().wait()


def queued(sidecar: AccesslogSidecar) -> int:
    (sink,) = sidecar.describe()["sinks"]
    entries = sink["queue_entries"]
    assert isinstance(entries, int)
    return entries


@pytest.mark.parametrize("gone", [False, True])
async def test_streams_in_the_middle_of_a_message_go_on_one_a_turn(tmp_path: Path, *, gone: bool) -> None:
    sidecar = without_a_writer(tmp_path)
    data = message(*[http_entry()] * ENTRIES).SerializeToString()
    handlers = [
        asyncio.create_task(sidecar.stream(one_message(data), FakeCall(deadline=None)))
        for _ in range(STREAMS)
    ]
    await asyncio.sleep(0)
    if gone:
        for handler in handlers:
            handler.cancel()
    before, most = queued(sidecar), 0
    async with asyncio.timeout(30):
        while before < STREAMS * ENTRIES:
            await asyncio.sleep(0)
            now = queued(sidecar)
            before, most = now, max(most, now - before)
    assert most <= BATCH_ENTRIES
    for handler in handlers:
        handler.cancel()
    await asyncio.gather(*handlers, return_exceptions=True)
    assert sidecar.open_streams == 0
