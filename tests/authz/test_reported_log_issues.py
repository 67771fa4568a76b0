"""What users of other authorizers complain about in logs and metrics, each test named after its issue."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import MessageToDict
from structlog.testing import capture_logs

from protos.authz_pb2 import CheckRequest, CheckResponse
from tests.support.authz_sidecar import (
    Broken,
    BuiltWithIssuer,
    Never,
    OneCall,
)
from tests.support.checks import Headers, check_request
from tests.support.running import SIDECARS, Running, call, connect
from tests.support.signing import (
    NOW,
    token,
)

CHECK = "/envoy.service.auth.v3.Authorization/Check"


LOGGED: Mapping[str, tuple[Headers, str, str]] = {
    "no credential": ({}, "/orders", "credentials_missing"),
    "an empty token": ({"authorization": "Bearer "}, "/orders", "token_malformed"),
    "an empty header": ({"authorization": ""}, "/orders", "credentials_missing"),
    "no token": ({"authorization": "Bearer a.b.c"}, "/orders", "token_malformed"),
    "two tokens": (
        [("authorization", "Bearer a"), ("authorization", "Bearer b")],
        "/orders",
        "duplicate_authorization",
    ),
    "bytes that are not text": ([("authorization", b"Bearer \xff")], "/orders", "token_malformed"),
    "an odd path": ({}, "//orders", "path_empty_segment"),
    "no path": ({}, "", "path_form"),
    "no rule": ({}, "/nothing", "no_rule"),
}


class TestOpa1953:
    """Some answers, such as that to a bad token, left no line in the decision log."""

    @pytest.mark.parametrize("case", LOGGED)
    async def test_opa_1953_every_refusal_is_in_the_decision_log(self, tmp_path: Path, case: str) -> None:
        headers, path, reason = LOGGED[case]
        await self.logged(tmp_path, check_request(path=path, headers=headers), reason)

    async def test_opa_1953_so_is_a_bad_host(self, tmp_path: Path) -> None:
        await self.logged(tmp_path, check_request(host="a,b"), "host_malformed")

    async def test_opa_1953_so_is_an_empty_request(self, tmp_path: Path) -> None:
        await self.logged(tmp_path, CheckRequest(), "method_missing")

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"exp": NOW - 100}, "token_expired"),
            ({"iss": "https://mallory.example"}, "issuer_unknown"),
            ({"aud": "another"}, "audience_mismatch"),
            ({"sub": None}, "claim_missing"),
            ({"scope": "nothing"}, "credentials_insufficient"),
        ],
    )
    async def test_opa_1953_so_is_every_bad_token(
        self, tmp_path: Path, changes: dict[str, Any], reason: str
    ) -> None:
        headers = {"authorization": f"Bearer {token(**changes)}"}
        await self.logged(tmp_path, check_request(path="/orders", headers=headers), reason)

    @pytest.mark.parametrize(
        ("authenticator", "reason"), [(Broken(), "internal_error"), (Never(), "deadline")]
    )
    async def test_opa_1953_so_is_what_fails_or_takes_too_long(
        self, tmp_path: Path, authenticator: object, reason: str
    ) -> None:
        with capture_logs():
            await self.logged(tmp_path, check_request(path="/orders"), reason, authenticator)

    async def logged(
        self, folder: Path, message: CheckRequest, reason: str, authenticator: object = None
    ) -> None:
        """One line, which holds what the answer says and what was asked, though no allow would be logged."""
        file = folder / "decisions.jsonl"
        authz = BuiltWithIssuer(folder, decisions={"log": {"file": file, "allow_sample_rate": 0.0}})
        if authenticator is not None:
            authz.replace_authenticator(authenticator)
        await authz.sidecar.start()
        deadline = asyncio.get_running_loop().time() + 0.05
        answer = authz.sidecar.check(message.SerializeToString(), OneCall(deadline))
        response = CheckResponse.FromString(answer if isinstance(answer, bytes) else await answer)
        await authz.sidecar.stop()
        said = MessageToDict(response.dynamic_metadata)
        (line,) = [orjson.loads(line) for line in file.read_bytes().splitlines()]
        assert said["reason"] == line["reason"] == reason
        assert (line["decision_id"], line["outcome"]) == (said["decision_id"], said["outcome"])
        http = message.attributes.request.http
        for name, value in (("path", http.path), ("host", http.host), ("method", http.method)):
            assert line.get(name, "") == value


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A process that keeps no decisions and logs none."""
    BuiltWithIssuer(tmp_path)
    settings = {"listen": [f"unix:{tmp_path}/a.sock"], "policy": ["policy.yaml"], "decisions": {"recent": 0}}
    with Running(tmp_path, {"authz": settings}, program=SIDECARS) as process:
        yield process.wait_until_ready()


def test_opa_3852_decisions_and_their_time_can_be_read_by_prometheus(
    tmp_path: Path, running: Running
) -> None:
    """The plugin wrote its figures into the decision log only; its metrics page stayed empty."""
    with connect(f"unix:{tmp_path}/a.sock") as channel:
        for path in ("/public", "/public", "/orders", "//"):
            call(channel, CHECK, check_request(path=path).SerializeToString())
    labels = 'outcome="{}",reason="{}",rule="{}"'
    expected = {
        labels.format("allow", "allowed", "public"): 2,
        labels.format("deny", "credentials_missing", "orders"): 1,
        labels.format("deny", "path_empty_segment", ""): 1,
    }
    for sample, times in expected.items():
        assert running.metric(f'authz_decisions_total{{credential="none",{sample}}}') == times
    page = running.get("/metrics")[1]
    counts = [line for line in page.splitlines() if line.startswith("grpc_server_handling_seconds_count")]
    assert sum(float(line.rpartition(" ")[2]) for line in counts if 'grpc_method="Check"' in line) == 4
    assert "grpc_server_handling_seconds_bucket" in page
