"""`sidecars release collect`, and the gates that its file decides."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecars.cli.release_collect import Collector, read_reports, serve
from sidecars.transport.api.address import TcpAddress
from tests.sidecars.cli.test_release import Rollout
from tests.support.command import Command
from tests.support.free_ports import free_port
from tests.support.waiting import until


def document(node: str, revision: str = "r2", **counts: float) -> dict[str, Any]:
    return {"node": node, "process": "all-0", "revision": revision, "counts": counts, "more": "x" * 100}


async def posted(port: int, body: bytes, token: str = "") -> int:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{port}/status", data=body, headers=headers) as response,
    ):
        return response.status


async def test_the_latest_report_of_each_edge_is_kept_within_bounds(tmp_path: Path) -> None:
    file, port = tmp_path / "reports.jsonl", free_port()
    serving = asyncio.create_task(serve(Collector(file, "secret", 2), TcpAddress("127.0.0.1", port)))
    try:
        await until(lambda: serving.done() or _listens(port))
        bodies = [document("a", calls=1), document("a", calls=2), document("b"), document("c")]
        assert await posted(port, json.dumps(bodies[0]).encode()) == 401
        assert await posted(port, b"{}", "secret") == 400
        assert await posted(port, b"[" * 100_000, "secret") == 413
        for body in bodies:
            assert await posted(port, json.dumps(body).encode(), "secret") == 204
        await until(lambda: file.exists() and [one.node for one in read_reports(file)] == ["b", "c"])
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert "more" not in file.read_text()
    assert Collector(file, "", 2)._reports.keys() == {("b", "all-0"), ("c", "all-0")}


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_a_harmful_release_is_stopped_at_its_canaries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sidecars = Command(capsys)
    rollout, reports = Rollout(tmp_path, sidecars), tmp_path / "reports.jsonl"
    rollout("start", tmp_path / "r1.tar.gz")
    gates = ("--gate", "max_denied_rise=0.05", "--gate", "min_calls=100")
    rollout("start", tmp_path / "r2.tar.gz", "--wave", "canary:5%", "--wave", "all:100%", *gates)
    with_reports = ("--reports", reports)

    def write(*documents: dict[str, Any]) -> None:
        reports.write_text("".join(f"{json.dumps(one)}\n" for one in documents))

    old = document("a", "r1", calls=1000, decisions=1000, denied=10)
    write(old)
    assert rollout("promote", *with_reports).code == 0
    waiting = rollout("promote", *with_reports)
    assert (waiting.code, "min_nodes: 0 reported" in waiting.err) == (1, True)
    assert rollout.look("check", *with_reports).code == 0  # too few reports break nothing
    write(old, document("b", calls=1000, decisions=1000, denied=500))
    refused = rollout("promote", *with_reports)
    assert (refused.code, "the rise of the share of denials is 0.49" in refused.err) == (1, True)
    checked = rollout.look("check", *with_reports)
    assert (checked.code, checked.out.startswith("broken: max_denied_rise")) == (1, True)
    assert rollout("rollback").code == 0
    for line, problem in (
        ("x", "is not JSON"),
        ("[]", "not a status report: a JSON object with the object counts"),
    ):
        write(old)
        reports.write_text(f"{reports.read_text()}{line}\n")
        unread = rollout.look("check", *with_reports)
        separator = " " if line == "x" else ": "
        assert (unread.code, unread.err) == (1, f"{reports}: line 2{separator}{problem}\n")


def test_a_file_that_cannot_be_written_ends_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listen = ("--listen", f"127.0.0.1:{free_port()}")
    done = Command(capsys)("release", "collect", *listen, "-o", tmp_path / "none" / "reports.jsonl")
    assert done.code == 1
    assert f"{tmp_path}/none/reports.jsonl: no such file" in done.err.lower()


def test_a_token_file_without_a_token_is_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would admit every report."""
    empty = tmp_path / "token"
    empty.write_text("\n")
    collect = ("release", "collect", "--listen", f"127.0.0.1:{free_port()}", "-o", tmp_path / "a")
    done = Command(capsys)(*collect, "--token-file", empty)
    assert done.code == 2
    assert "has no token" in done.err


def test_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sidecars = Command(capsys)
    assert sidecars("release", "collect", "--listen", "unix:/a", "-o", tmp_path / "a").code == 2
    assert sidecars("release", "collect", "--listen", "nowhere", "-o", tmp_path / "a").code == 2
    rollout = Rollout(tmp_path, sidecars)
    assert rollout("start", tmp_path / "r1.tar.gz", "--gate", "errors=1").code == 2
