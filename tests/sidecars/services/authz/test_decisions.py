"""What the authz sidecar reports of its decisions, apart from the answers."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from google.protobuf.json_format import MessageToDict
from structlog.testing import capture_logs

from authz.engine.decision_record import DecisionRecord
from authz.tools.examples import Question
from protos.authz_pb2 import CheckResponse
from sidecars.admin.routes import AdminRequest
from sidecars.settings.authz import AuthzSettings
from tests.support.authz_sidecar import KEY, POLICY, SECRET, Built, OneCall, Waiting
from tests.support.checks import check_request
from tests.support.running import SIDECARS, Running, call, connect


@pytest.fixture
def _debug(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The level of the process log is debug, whatever an earlier test has set."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    with caplog.at_level(logging.DEBUG):
        yield
    structlog.configure(**before)


@pytest.mark.usefixtures("_debug")
async def test_a_refusal_says_what_was_wrong_to_operators_alone(tmp_path: Path) -> None:
    """To `/decisions`, the decision log and, at the level debug, the process log; never the credential."""
    built = Built(tmp_path, decisions={"log": {"file": tmp_path / "decisions.jsonl"}})
    built.sidecar._decisions.start()
    with capture_logs() as logged:
        answered = built.metadata(check_request(path="/orders", headers={"x-api-key": f"reports.{SECRET}x"}))
        built.metadata(check_request(host="user:hunter2@bad host"))
    assert "detail" not in answered
    malformed, refused = await built.shown()
    assert (refused["reason"], refused["detail"]) == ("api_key_unknown", "no such key")
    assert (malformed["reason"], malformed["detail"]) == (
        "host_malformed",
        "host 'bad host' with user information",
    )
    assert [(line["log_level"], line["detail"]) for line in logged if line["event"] == "refused"] == [
        ("debug", refused["detail"]),
        ("debug", malformed["detail"]),
    ]
    await built.sidecar.stop()
    lines = (tmp_path / "decisions.jsonl").read_text()
    assert [orjson.loads(line)["detail"] for line in lines.splitlines()] == [
        refused["detail"],
        malformed["detail"],
    ]
    assert SECRET not in lines + str(logged)


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize(
    ("mask", "detail"),
    [({}, "host 'a?token=[redacted]"), ({"mask": ["detail"]}, "***"), ({"omit": ["detail"]}, "")],
)
def test_the_process_log_holds_no_more_of_a_detail_than_the_decision_log(
    tmp_path: Path, mask: dict[str, list[str]], detail: str
) -> None:
    built = Built(tmp_path, decisions={"mask": mask})
    with capture_logs() as logged:
        built.metadata(check_request(host="a?token=hunter2"))
    assert [line["detail"] for line in logged if line["event"] == "refused"] == [detail]


def test_at_the_level_info_it_holds_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with capture_logs() as logged, caplog.at_level("INFO"):
        Built(tmp_path).metadata(check_request(host="a b"))
    assert [line["event"] for line in logged] == []


async def test_a_decision_is_found_by_the_id_that_the_access_log_has(tmp_path: Path) -> None:
    built = Built(tmp_path)
    built.metadata(check_request(path="/public"))
    answered = built.metadata(check_request(path="/orders", headers=KEY))
    (found,) = await built.shown(id=answered["decision_id"])
    assert (found["rule"], found["subject"], found["path"]) == ("orders", "reports", "/orders")


async def test_denials_are_found_by_outcome_and_request_id(tmp_path: Path) -> None:
    built = Built(tmp_path)
    built.metadata(check_request(path="/public", headers={"x-request-id": "r-1"}))
    built.metadata(check_request(path="/nothing", headers={"x-request-id": "r-2"}))
    built.metadata(check_request(host="a,b"))
    assert [one["reason"] for one in await built.shown(outcome="denied")] == ["host_malformed", "no_rule"]
    assert [one["outcome"] for one in await built.shown(request_id="r-1")] == ["allow"]
    assert len(await built.shown(limit="1")) == 1


async def test_no_credential_is_kept(tmp_path: Path) -> None:
    """Not only masked when it is shown: what is not there cannot leak from a core dump either."""
    built = Built(tmp_path)
    built.metadata(check_request(path=f"/orders?key={SECRET}", headers=KEY))
    page = await built.page()
    assert SECRET not in page.body.decode()
    assert built.sidecar._decisions.recent is not None
    assert SECRET not in repr(list(built.sidecar._decisions.recent._ring))


@pytest.mark.parametrize("query", [{"outcome": "maybe"}, {"limit": "0"}, {"limit": "x"}, {"ids": "1"}])
async def test_a_question_that_makes_no_sense_is_400(tmp_path: Path, query: dict[str, str]) -> None:
    page = await Built(tmp_path).page(**query)
    assert page.status == 400


async def test_nothing_is_kept_where_nothing_is_asked_for(tmp_path: Path) -> None:
    built = Built(tmp_path, decisions={"recent": 0})
    assert [one.path for one in built.sidecar.admin_routes if one.path == "/decisions"] == []


async def test_decisions_are_logged_to_a_file(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    mask = {"mask": ["subject"], "omit": ["client"]}
    built = Built(tmp_path, decisions={"log": {"file": log, "allow_sample_rate": 0.1}, "mask": mask})
    await built.sidecar.start()
    built.metadata(check_request(path="/public"))
    built.metadata(check_request(path="/orders"))
    await built.sidecar.stop()
    (line,) = [orjson.loads(line) for line in log.read_bytes().splitlines()]
    assert (line["outcome"], line["reason"]) == ("deny", "credentials_missing")
    assert "client" not in line
    lines = "authz_decision_log_lines_total"
    assert built.registry.get_sample_value(lines, {"result": "sampled_out"}) == 1
    assert built.sidecar.describe()["decisions"]["log"]["written"] == 1


async def test_a_log_that_cannot_be_written_changes_no_answer(tmp_path: Path) -> None:
    """opa-envoy-plugin turned allows into errors when its decision log failed."""
    built = Built(tmp_path, decisions={"log": {"file": tmp_path / "no" / "folder"}})
    with capture_logs():
        await built.sidecar.start()
        assert built.metadata(check_request(path="/public"))["outcome"] == "allow"
        await built.sidecar.stop()
    assert built.registry.get_sample_value("authz_decision_log_lines_total", {"result": "dropped"}) == 1


def test_a_defect_in_taking_note_changes_no_answer(tmp_path: Path) -> None:
    built = Built(tmp_path)

    def broken(_account: DecisionRecord) -> None:
        raise RuntimeError("a defect")

    built.sidecar._decisions._sinks = (broken,)
    with capture_logs() as logs:
        assert built.metadata(check_request(path="/public"))["outcome"] == "allow"
    assert [line["event"] for line in logs] == ["decision not noted"]


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_opa_6333_a_check_that_envoy_gave_up_is_noted(tmp_path: Path, turns: int) -> None:
    """What timed out was missing in the log; under load its caller leaves before it has begun."""
    built = Built(tmp_path)
    built.sidecar._serving.authorizer._authenticator = Waiting()
    pending = built.sidecar.check(check_request(path="/orders").SerializeToString(), OneCall())
    assert not isinstance(pending, bytes)
    task = asyncio.ensure_future(pending)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(one["reason"], one["path"]) for one in await built.shown()] == [("cancelled", "/orders")]


def test_a_mask_for_an_unknown_field_is_an_error() -> None:
    with pytest.raises(ValueError, match="a decision record has no field nothing"):
        AuthzSettings.model_validate(
            {"listen": ["unix:/a"], "policy": ["p"], "decisions": {"mask": {"mask": ["nothing"]}}}
        )


def test_a_running_process_shows_its_decisions_on_the_admin_port(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    address = f"unix:{tmp_path}/authz.sock"
    settings = {"authz": {"listen": [address], "policy": ["policy.yaml"]}}
    with Running(tmp_path, settings, program=SIDECARS) as running:
        running.wait_until_ready()
        with connect(address) as channel:
            message = check_request(path="/public").SerializeToString()
            reply = CheckResponse.FromString(
                call(channel, "/envoy.service.auth.v3.Authorization/Check", message)
            )
        number = MessageToDict(reply.dynamic_metadata)["decision_id"]
        status, body = running.get(f"/decisions?id={number}")
    assert status == 200
    assert [one["rule"] for one in orjson.loads(body)["decisions"]] == ["public"]


async def _question(built: Built, decision_id: str) -> tuple[int, Any]:
    [route] = [one for one in built.sidecar.admin_routes if one.path == "/decisions/question"]
    answer = await route.handle(AdminRequest({"id": decision_id}, "", b""))
    return answer.status, orjson.loads(answer.body) if answer.status == 200 else answer.body


async def test_a_decision_is_a_question_for_the_policy_tools(tmp_path: Path) -> None:
    built = Built(tmp_path)
    built.metadata(check_request(path="/orders?secret=1", headers=KEY))
    built.metadata(check_request(path="/orders", headers={"x-api-key": f"reports.{SECRET}x"}))
    refused, allowed = await built.shown()
    status, found = await _question(built, allowed["decision_id"])
    assert status == 200
    assert found["request"] == {
        "method": "GET",
        "host": "api.example.com",
        "path": "/orders",
        "client": "192.0.2.1",
    }
    assert found["caller"]["subject"] == allowed["subject"]
    assert Question.model_validate(found).caller is not None
    assert (await _question(built, refused["decision_id"]))[1]["caller"] == {"refused": "api_key_unknown"}
    assert (await _question(built, "0"))[0] == 404


async def test_what_is_masked_is_not_in_a_question_and_cannot_be_asked_for(tmp_path: Path) -> None:
    built = Built(tmp_path, decisions={"mask": {"mask": ["subject"], "omit": ["client"]}})
    built.metadata(check_request(path="/orders", headers=KEY))
    [allowed] = await built.shown()
    caller = (await _question(built, allowed["decision_id"]))[1]["caller"]
    assert caller == {"kind": "api_key", "subject": "***"}
    [route] = [one for one in built.sidecar.admin_routes if one.path == "/decisions"]
    answer = await route.handle(AdminRequest({"subject": "reports"}, "", b""))
    assert (answer.status, answer.body) == (400, b"subject cannot be asked for: decisions.mask hides it\n")
