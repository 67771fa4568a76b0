"""The admin port says why a sink or a spool fails, not only that it does."""

from pathlib import Path
from typing import Any

from tests.support.entries import http_entry, message
from tests.support.running import SIDECARS, Running, connect

STREAM = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"


def sink_state(running: Running) -> Any:
    return running.config()["sidecars"]["accesslog"]["state"]["sinks"][0]


def served(folder: Path, **sink: Any) -> Running:
    section = {"listen": [f"unix:{folder}/s"], "sinks": [{"type": "file", **sink}]}
    return Running(folder, {"accesslog": section}, program=SIDECARS)


def test_a_full_disk_is_named_until_the_sink_writes_again(tmp_path: Path) -> None:
    link = tmp_path / "access.jsonl"
    link.symlink_to("/dev/full")
    with served(tmp_path, path=str(link)) as running:
        running.wait_until_ready()
        assert sink_state(running)["problem"] == ""
        with connect(f"unix:{tmp_path}/s") as channel:
            batch = message(http_entry()).SerializeToString()
            channel.stream_unary(STREAM)(iter([batch]), timeout=30, wait_for_ready=True)
        running.wait_until(lambda: "the disk is full" in sink_state(running)["problem"])
        link.unlink()
        running.wait_until(lambda: not sink_state(running)["failing"])
        assert sink_state(running)["problem"] == ""


def test_a_spool_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("not a folder")
    with served(tmp_path, path="access.jsonl", spool={"folder": "spool"}) as running:
        running.wait_until_ready()
        running.wait_until(lambda: sink_state(running)["spool"]["failing"])
        assert sink_state(running)["spool"]["problem"]
