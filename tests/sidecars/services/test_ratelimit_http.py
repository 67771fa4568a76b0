"""What the ratelimit sidecar answers without gRPC: /json, /healthcheck and /rlconfig."""

import json
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from common.configfile import parse
from protos.health_pb2 import HealthCheckRequest, HealthCheckResponse
from ratelimit.config import compile_limits
from ratelimit.listing import described
from ratelimit.rules import Algorithm, Options
from sidecars.admin.routes import AdminRequest
from sidecars.services.ratelimit import RatelimitSidecar, build
from sidecars.services.ratelimit_json import answer_json
from tests.support.free_ports import free_port
from tests.support.ratelimiting import dependencies, folder, settings_with
from tests.support.running import SIDECARS, WAIT_SECONDS, Running, call, connect

__all__ = ["folder"]

LOGIN = {"domain": "edge", "descriptors": [{"entries": [{"key": "route", "value": "login"}]}]}


@pytest.fixture
def sidecar(folder: Path) -> RatelimitSidecar:
    settings = settings_with(folder, headers={"retry_after": False}, dynamic_metadata="off")
    return build(settings, dependencies(wall_clock=lambda: 1_790_000_040.0))


async def asked(sidecar: RatelimitSidecar, body: bytes) -> tuple[int, Any]:
    answer = await answer_json(sidecar.should_rate_limit, AdminRequest({}, "text/plain", body))
    read = json.loads(answer.body) if answer.content_type == "application/json" else answer.body
    return answer.status, read


class TestJson:
    async def test_a_request_and_its_answer_are_protobufs_json(self, sidecar: RatelimitSidecar) -> None:
        assert await asked(sidecar, json.dumps(LOGIN).encode()) == (
            200,
            {
                "overallCode": "OK",
                "statuses": [
                    {
                        "code": "OK",
                        "currentLimit": {"requestsPerUnit": 2, "unit": "SECOND", "unitMultiplier": 30},
                        "limitRemaining": 1,
                        "durationUntilReset": "15s",
                    }
                ],
            },
        )

    async def test_a_refusal_is_429(self, sidecar: RatelimitSidecar) -> None:
        status, answer = await asked(sidecar, json.dumps({**LOGIN, "hitsAddend": 3}).encode())
        assert (status, answer["overallCode"]) == (429, "OVER_LIMIT")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"\xff",
            b'{"domain": "edge", "unknown": 1}',
            b'{"domain": "edge"}',
            b'{"domain": "", "descriptors": [{}]}',
            b'{"domain": "\\ud800", "descriptors": [{}]}',
            b'{"domain": "edge", "descriptors": [{"limit": {"requestsPerUnit": 1}}]}',
            b"[" * 10_000,
            b'{"descriptors":' * 4_000,
        ],
    )
    async def test_anything_else_is_400(self, sidecar: RatelimitSidecar, body: bytes) -> None:
        assert await asked(sidecar, body) == (400, b"Bad Request\n")


def test_rlconfig_has_a_line_for_each_rule() -> None:
    """The first three lines are those that envoyproxy/ratelimit prints for them."""
    text = """
domain: d
descriptors:
  - {key: lim, rate_limit: {unit: day, requests_per_unit: 3}}
  - {key: free, rate_limit: {unlimited: true}}
  - key: p
    descriptors:
      - {key: c, value: v, shadow_mode: true, quota_mode: true, rate_limit: {unit: week}}
  - {key: own, rate_limit: {unit: second, unit_multiplier: 30, requests_per_unit: 3, algorithm: token_bucket,
     burst: 5, charge_rejected: true}}
  - {key: lenient, rate_limit: {unit: day, requests_per_unit: 3, charge_rejected: false}}
  - {key: plan, rate_limit: {period: quarter, requests_per_unit: 3}}
  - {key: even, rate_limit: {period: 30s, requests_per_unit: 3, algorithm: sliding_window}}
"""
    limits = compile_limits([parse(text)], Options(algorithm=Algorithm.FIXED_WINDOW))
    modes = "shadow_mode: false, quota_mode: false"
    bucket = "algorithm: token_bucket, burst: 5, charge_rejected: true"
    assert list(described(limits)) == [
        "d.lim: unit=DAY requests_per_unit=3, shadow_mode: false, quota_mode: false",
        "d.free: unit=UNKNOWN requests_per_unit=0, shadow_mode: false, quota_mode: false",
        "d.p.c_v: unit=WEEK requests_per_unit=0, shadow_mode: true, quota_mode: true",
        f"d.own: unit=SECOND requests_per_unit=3, {modes}, unit_multiplier: 30, {bucket}",
        f"d.lenient: unit=DAY requests_per_unit=3, {modes}, charge_rejected: false",
        f"d.plan: unit=MONTH requests_per_unit=3, {modes}, period: quarter",
        f"d.even: unit=SECOND requests_per_unit=3, {modes}, unit_multiplier: 30, algorithm: sliding_window",
    ]


def fetched(url: str, body: bytes | None = None, method: str | None = None) -> tuple[int, str]:
    try:
        with urlopen(Request(url, body, method=method), timeout=WAIT_SECONDS) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_process_serves_them_on_its_ports(folder: Path) -> None:
    http, also = (f"127.0.0.1:{free_port()}" for _ in range(2))
    ratelimit = {
        "listen": [f"unix:{folder}/s"],
        "limits": [str(folder / "edge.yaml")],
        "http": http,
        "max_json_bytes": 2000,
    }
    admin = {"listen": "127.0.0.1:0", "port_file": "admin.port", "also_listen": [also]}
    with Running(folder, {"ratelimit": ratelimit, "admin": admin}, program=SIDECARS) as process:
        process.wait_until_ready()
        assert fetched(f"http://{http}/healthcheck") == (200, "OK")
        assert fetched(f"http://{http}/json", json.dumps(LOGIN).encode())[0] == 200
        for length, status in ((2000, 200), (2001, 413)):
            body = json.dumps(LOGIN).encode().ljust(length)
            assert fetched(f"http://{http}/json", body)[0] == status
        for method in ("GET", "PUT", "DELETE"):  # as theirs
            assert fetched(f"http://{http}/json", json.dumps(LOGIN).encode(), method)[0] in {200, 429}
            assert fetched(f"http://{http}/healthcheck", None, method) == (200, "OK")
        assert fetched(f"http://{http}/config")[0] == 404
        for status, text in (process.get("/rlconfig"), fetched(f"http://{also}/rlconfig")):
            assert (status, text.splitlines()[0].partition(",")[0]) == (
                200,
                "edge.remote_address: unit=MINUTE requests_per_unit=3",
            )
        with connect(f"unix:{folder}/s") as channel:
            for name in ("ratelimit", ""):
                reply = call(
                    channel,
                    "/grpc.health.v1.Health/Check",
                    HealthCheckRequest(service=name).SerializeToString(),
                )
                assert HealthCheckResponse.FromString(reply).status == HealthCheckResponse.SERVING
