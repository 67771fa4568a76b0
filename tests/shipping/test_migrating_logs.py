"""docs/migrating-logs.md: a real Collector and a real VRL treat the entries of the page as the page says.

Needs `otelcol` on the PATH, a Collector whose build has the receiver envoyals and the processors of the page,
and `vrl`, the command-line tool of Vector's language.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from sidecars.services.accesslog import SERVICE
from tests.support.entries import message
from tests.support.free_ports import free_port
from tests.support.log_examples import MANY, Logged, block, entries, facts_of, many_entries

START_SECONDS = 60
TRIES = 200


def program(name: str, side: str) -> str:
    """Return the program; the test is skipped if it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on the PATH: the page's results of {side} were not compared")
    return found


@contextmanager
def collector(folder: Path, text: str) -> Iterator[grpc.Channel]:
    """Run a Collector with the configuration of the page, which writes to collector.jsonl in `folder`."""
    otelcol = program("otelcol", "the Collector")
    address = f"127.0.0.1:{free_port()}"
    configuration = yaml.safe_load(text)
    configuration["receivers"]["envoyals"]["endpoint"] = address
    configuration["exporters"]["file"]["path"] = str(folder / "collector.jsonl")
    file = folder / "collector.yaml"
    file.write_text(yaml.safe_dump(configuration))
    process = subprocess.Popen([otelcol, "--config", str(file)], stderr=subprocess.DEVNULL)
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(START_SECONDS)
            yield channel
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def collected(folder: Path) -> list[dict[str, Any]]:
    """Return the records that the Collector has written, as their attributes and body."""
    file = folder / "collector.jsonl"
    # What follows the last newline is still being written.
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [
        {"body": record["body"].get("stringValue", "")}
        | {one["key"]: next(iter(one["value"].values())) for one in record["attributes"]}
        for line in lines
        for resource in json.loads(line)["resourceLogs"]
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]


def wait_for(records: Callable[[], list[dict[str, Any]]], number: int) -> list[dict[str, Any]]:
    """Return the records once there are as many, or what there is in the end."""
    for _ in range(TRIES):
        if len(records()) >= number:
            break
        time.sleep(0.05)
    return records()


def send(channel: grpc.Channel, logged: Sequence[Logged]) -> None:
    """Send the entries, each in a message of its own."""
    call: Any = channel.stream_unary(f"/{SERVICE}/StreamAccessLogs")
    call(iter([message(one.entry).SerializeToString() for one in logged]), timeout=START_SECONDS)


def compared(records: Mapping[str, Mapping[str, Any]], logged: Sequence[Logged]) -> dict[str, Any]:
    return {
        one.line: facts_of(records.get(one.request_id), json.dumps(records.get(one.request_id)), one.theirs)
        for one in logged
    }


def test_the_collector_writes_as_the_page_says(tmp_path: Path) -> None:
    logged = entries()
    kept = sum("dropped" not in one.ours for one in logged)
    with collector(tmp_path, block("yaml", "collector")) as channel:
        send(channel, logged)
        found = wait_for(lambda: collected(tmp_path), kept)
    records = {record["request_id"]: record for record in found}
    assert compared(records, logged) == {one.line: dict(one.theirs) for one in logged}


def test_the_sampler_of_the_collector_keeps_a_tenth_of_all(tmp_path: Path) -> None:
    text = yaml.safe_load(block("yaml", "collector"))
    text["processors"] |= yaml.safe_load(block("yaml", "collector, sampling"))["processors"]
    text["service"]["pipelines"]["logs"]["processors"].append("probabilistic_sampler")
    with collector(tmp_path, yaml.safe_dump(text)) as channel:
        send(channel, many_entries())
    # It has written everything once it has ended.
    codes = [int(record["code"]) for record in collected(tmp_path)]
    assert MANY * 0.06 < codes.count(200) < MANY * 0.14
    assert codes.count(503) < MANY // 10 // 2


def event_of(one: Logged) -> dict[str, Any]:
    """Return the line that Envoy's file logger would write, with the format of the page."""
    request = one.entry.request
    event = {
        "method": "GET",
        "path": request.path,
        "code": one.entry.response.response_code.value,
        "route": one.entry.common_properties.route_name,
        "request_id": request.request_id,
        "user": request.request_headers.get("x-user"),
        "authorization": request.request_headers.get("authorization"),
    }
    return {name: value for name, value in event.items() if value is not None}


def remapped(vrl: str, folder: Path, one: Logged) -> dict[str, Any] | None:
    """Return the event after the program of the page; None if the program aborted."""
    (folder / "event.json").write_text(json.dumps(event_of(one)))
    (folder / "program.vrl").write_text(block("vrl"))
    command = [vrl, "--input", "event.json", "--program", "program.vrl", "--print-object"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if "aborted" in done.stdout + done.stderr:
        return None
    event: dict[str, Any] = json.loads(done.stdout)
    return event


def test_the_program_for_vector_treats_events_as_the_page_says(tmp_path: Path) -> None:
    vrl, logged = program("vrl", "Vector"), entries("events")
    found = {one.request_id: event for one in logged if (event := remapped(vrl, tmp_path, one)) is not None}
    assert compared(found, logged) == {one.line: dict(one.theirs) for one in logged}
