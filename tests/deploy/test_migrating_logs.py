"""docs/migrating-logs.md: accesslog writes each entry as the page says.

tests/shipping/test_migrating_logs.py asks a real Collector and a real VRL.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from prometheus_client import CollectorRegistry

from sidecars.services.accesslog import SERVICE, build
from sidecars.services.sidecar import Dependencies
from sidecars.settings.load import load_settings
from tests.support.entries import message
from tests.support.log_examples import MANY, Logged, block, entries, facts_of, many_entries
from tests.support.transport.harness import LOOPBACK, Client, Served, make_server, within

METHOD = f"/{SERVICE}/StreamAccessLogs"


async def records_of(folder: Path, logged: list[Logged], title: str) -> dict[str, dict[str, Any]]:
    """Return the records of the entries by request id, written with the settings of the page."""
    (folder / "hash.key").write_bytes(b"0123456789abcdef")
    file = folder / "sidecars.yaml"
    text = yaml.safe_load(block("yaml", title))
    text["accesslog"] |= {"listen": ["127.0.0.1:0"]}
    file.write_text(yaml.safe_dump(text))
    settings = load_settings(file, {}).accesslog
    assert settings is not None
    dependencies = Dependencies(
        registry=CollectorRegistry(),
        wall_clock=time.time,
        monotonic_clock=time.monotonic,
        random=lambda: 0.5,
        redis=None,
    )
    sidecar = build(settings, dependencies)
    server = make_server("native", tuple(sidecar.services), (LOOPBACK,))
    await sidecar.start()
    await server.start()
    client = Client(Served(server, (LOOPBACK,)).target)
    stream = client.client_stream(METHOD)
    for one in logged:
        await stream.write(message(one.entry).SerializeToString())
    await stream.done_writing()
    await within(stream)
    await client.channel.close()
    await within(server.drain(0))
    await within(sidecar.stop())
    lines = (folder / "access.jsonl").read_bytes().splitlines()
    return {record["request_id"]: record for record in map(orjson.loads, lines)}


def found(records: Mapping[str, Mapping[str, Any]], one: Logged) -> dict[str, str]:
    record = records.get(one.request_id)
    return facts_of(record, orjson.dumps(record).decode(), one.ours)


@pytest.mark.parametrize("kind", ["entries", "events"])
async def test_accesslog_writes_as_the_page_says(kind: str, tmp_path: Path) -> None:
    logged = entries(kind)
    records = await records_of(tmp_path, logged, "accesslog")
    assert {one.line: found(records, one) for one in logged} == {one.line: dict(one.ours) for one in logged}


async def test_every_failure_is_kept_and_a_tenth_of_the_rest(tmp_path: Path) -> None:
    logged = many_entries()
    records = await records_of(tmp_path, logged, "accesslog, sampling")
    codes = [record["code"] for record in records.values()]
    assert codes.count(503) == MANY // 10
    assert MANY * 0.06 < codes.count(200) < MANY * 0.14
    assert {record.get("sample_rate") for record in records.values() if record["code"] == 200} == {0.1}
