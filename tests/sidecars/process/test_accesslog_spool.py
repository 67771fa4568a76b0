"""A real process with a spool is killed, and its successor delivers what was left."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from accesslog.sinks.spooling import SpoolBounds
from tests.support.entries import http_entry, message
from tests.support.running import SIDECARS, Running, connect

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"


def settings(folder: Path) -> dict[str, Any]:
    sink = {"type": "file", "path": "out/access.jsonl", "spool": {"folder": "spool", "sync_ms": 20}}
    return {"accesslog": {"listen": [f"unix:{folder}/a"], "sinks": [sink]}}


def messages(first: int, count: int) -> Iterator[bytes]:
    for number in range(first, first + count):
        yield message(http_entry(request_id=f"id-{number}")).SerializeToString()


def send(folder: Path, first: int, count: int) -> None:
    with connect(f"unix:{folder}/a") as channel:
        channel.stream_unary(METHOD)(messages(first, count), timeout=30, wait_for_ready=True)


def request_ids(file: Path) -> list[str]:
    return [orjson.loads(line)["request_id"] for line in file.read_bytes().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_on_disk_survives_the_process_in_order(tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "out"
    output.mkdir()
    with Running(tmp_path, settings(tmp_path), program=SIDECARS) as before:
        before.wait_until_ready()
        send(tmp_path, 0, 10)
        before.wait_until(
            lambda: (output / "access.jsonl").exists() and len(request_ids(output / "access.jsonl")) == 10
        )
        output.rename(tmp_path / "moved")  # the sink is away
        send(tmp_path, 10, 300)
        before.wait_until(lambda: before.metric('accesslog_spool_entries{sink="file"}') == 300)
        assert before.metric('accesslog_spool_max_bytes{sink="file"}') == SpoolBounds().max_bytes
        assert before.config()["sidecars"]["accesslog"]["state"]["sinks"][0]["spool"]["in_use"]
        before.signal(number)
        before.wait_for_exit()
    (tmp_path / "moved").rename(output)
    (tmp_path / "admin.port").unlink(missing_ok=True)
    with Running(tmp_path, settings(tmp_path), program=SIDECARS) as after:
        after.wait_until_ready()
        send(tmp_path, 310, 10)
        edge = 'log_name="edge"'
        written = f'accesslog_entries_written_total{{{edge},sink="file",type="http"}}'
        after.wait_until(lambda: after.metric(written) == 310)
        assert after.metric(f'accesslog_entries_recovered_total{{{edge},sink="file",type="http"}}') == 300
        assert request_ids(output / "access.jsonl") == [f"id-{one}" for one in range(320)]
        # An entry counts as written a moment before its segment is removed.
        after.wait_until(lambda: not list((tmp_path / "spool").glob("*.spool")))


def test_a_second_process_on_the_same_spool_serves_without_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with Running(tmp_path, settings(tmp_path), program=SIDECARS) as first:
        first.wait_until_ready()
        folder = tmp_path / "second"
        (folder / "out").mkdir(parents=True)
        (folder / "spool").symlink_to(tmp_path / "spool")
        with Running(folder, settings(folder), program=SIDECARS) as second:
            second.wait_until_ready()
            send(folder, 0, 3)
            second.wait_until(lambda: len(request_ids(folder / "out" / "access.jsonl")) == 3)
            [problem] = [line for line in second.log if line["event"] == "spool cannot be opened"]
            assert problem["error"] == "another process has this spool open"
            assert second.metric('accesslog_spool_failing{sink="file"}') == 1
