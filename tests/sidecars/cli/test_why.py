"""`sidecars why` with real processes: what no access log has, and what hangs."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from protos.authz_pb2 import CheckResponse
from tests.support.checks import check_request
from tests.support.command import Command
from tests.support.running import SIDECARS, Running, call, connect

CHECK = "/envoy.service.auth.v3.Authorization/Check"
POLICY = "rules: [{name: hello, paths: [/hello], allow: anyone}]\n"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def sidecars(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("y")  # a unix socket path has at most 107 bytes


@contextmanager
def authz(folder: Path, **more: Any) -> Iterator[Running]:
    (folder / "policy.yaml").write_text(POLICY)
    worker = "{worker}." if "workers" in more else ""
    section = {"listen": [f"unix:{folder}/{worker}authz"], "policy": ["policy.yaml"]}
    with Running(folder, {"authz": section, **more}, program=SIDECARS) as running:
        yield running.wait_until_ready()


def decide(socket: Path, request_id: str, path: str) -> str:
    """Ask about a request, and return the id of the decision."""
    message = check_request(path=path, headers={"x-request-id": request_id})
    with connect(f"unix:{socket}") as channel:
        reply = CheckResponse.FromString(call(channel, CHECK, message.SerializeToString()))
    return str(reply.dynamic_metadata.fields["decision_id"].string_value)


def test_a_request_without_a_log_record_is_explained_by_the_decision(sidecars: Command, folder: Path) -> None:
    with authz(folder) as running:
        decision_id = decide(folder / "authz", "request-1", "/secret")
        decide(folder / "authz", "request-2", "/hello")
        by_request = orjson.loads(sidecars("why", "request-1", "-c", running.file, "--json").out)
        by_decision = orjson.loads(sidecars("why", decision_id, "-c", running.file, "--json").out)
        screen = sidecars("why", "request-1", "-c", running.file).out
        allowed = sidecars("why", "request-2", "-c", running.file).out
    assert by_request == by_decision
    assert by_request["verdict"] == "403: authz refused it: no_rule."
    assert by_request["decision"]["decision_id"] == decision_id
    assert by_request["notes"][0].startswith("no access log has it")
    assert screen.splitlines()[0] == by_request["verdict"]
    assert f"sidecars policy explain --policy {folder}/policy.yaml" in screen
    assert allowed.splitlines()[0] == "authz allowed it; what came after is not known."


def test_a_decision_log_is_read_where_the_process_is_gone(sidecars: Command, folder: Path) -> None:
    decisions = {"log": {"file": f"{folder}/decisions.jsonl"}}
    section = {"listen": [f"unix:{folder}/authz"], "policy": ["policy.yaml"], "decisions": decisions}
    with authz(folder, authz=section) as running:
        decide(folder / "authz", "request-1", "/secret")
        running.signal(signal.SIGTERM)
        running.wait_for_exit()
        why = orjson.loads(sidecars("why", "request-1", "-c", running.file, "--json").out)
    assert why["verdict"] == "403: authz refused it: no_rule."
    assert why["processes"][0].startswith(f"{running.file}: fail admin 127.0.0.1:0: ")


def test_an_id_that_is_unknown_says_where_it_was_looked_for_and_what_is_wrong(
    sidecars: Command, folder: Path
) -> None:
    with authz(folder) as running:
        unknown = sidecars("why", "request-9", "-c", running.file)
        running.signal(signal.SIGSTOP)
        try:
            hangs = sidecars("why", "request-9", "-c", running.file)
        finally:
            running.signal(signal.SIGCONT)
    assert unknown.code == hangs.code == 1
    first = "no record in 0 access logs and no recent decision of a process has this id"
    assert unknown.err.splitlines()[0] == hangs.err.splitlines()[0] == first
    assert "no answer within 5 s; fix: it hangs" in hangs.err


def test_a_worker_that_hangs_is_named_and_the_others_are_asked(sidecars: Command, folder: Path) -> None:
    with authz(folder, workers=2) as running:
        decide(folder / "0.authz", "request-1", "/secret")
        pid = running.config()["workers"][1]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            why = orjson.loads(sidecars("why", "request-1", "-c", running.file, "--json").out)
        finally:
            os.kill(pid, signal.SIGCONT)
    assert why["record"]["authz_reason"] == "no_rule"
    assert [line for line in why["processes"] if "fail worker 1: does not answer" in line]


def test_a_trace_is_found_by_the_headers_that_carry_it(sidecars: Command, tmp_path: Path) -> None:
    for header, text in (
        ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),
        ("x-b3-traceid", TRACE),
        ("b3", f"{TRACE}-b7ad6b7169203331-1"),
    ):
        log = tmp_path / f"{header}.jsonl"
        record = {"type": "http", "request_id": "r", "code": 200, "request_headers": {header: text}}
        log.write_bytes(orjson.dumps(record) + b"\n")
        assert orjson.loads(sidecars("logs", "why", TRACE, log, "--json").out)["record"] == record
        for other in (TRACE[:-1], "00", "01", "b7ad6b7169203331"):
            assert sidecars("logs", "why", other, log).code == 1


def test_an_empty_id_is_bad_usage(sidecars: Command, folder: Path) -> None:
    log = folder / "access.jsonl"
    log.write_bytes(orjson.dumps({"type": "http", "request_id": "", "code": 200, "path": "/"}) + b"\n")
    settings = folder / "sidecars.yaml"
    settings.write_bytes(
        orjson.dumps(
            {"accesslog": {"listen": [f"unix:{folder}/log"], "sinks": [{"type": "file", "path": str(log)}]}}
        )
    )
    for command in (("why", "", "-c", settings), ("logs", "why", " ", log)):
        result = sidecars(*command)
        assert (result.code, result.out) == (2, "")
        assert "ID" in result.err
        assert "it is empty" in result.err


def test_a_missing_answer_of_ratelimit_is_noted(sidecars: Command, folder: Path) -> None:
    log = folder / "access.jsonl"
    record = {"type": "http", "request_id": "r", "code": 200, "authz_outcome": "allow", "path": "/"}
    log.write_bytes(orjson.dumps(record) + b"\n")
    settings = folder / "sidecars.yaml"
    (folder / "policy.yaml").write_text(POLICY)
    settings.write_bytes(
        orjson.dumps(
            {
                "authz": {"listen": [f"unix:{folder}/a"], "policy": ["policy.yaml"]},
                "ratelimit": {"listen": [f"unix:{folder}/r"], "limits": ["limits.yaml"]},
                "accesslog": {"listen": [f"unix:{folder}/l"], "sinks": [{"type": "file", "path": str(log)}]},
                "admin": {"listen": f"unix:{folder}/admin"},
            }
        )
    )
    why = orjson.loads(sidecars("why", "r", "-c", settings, "--json").out)
    assert why["notes"][0].startswith("ratelimit gave no answer, or Envoy did not ask it")
    assert f"fail admin unix:{folder}/admin: " in why["processes"][0]
