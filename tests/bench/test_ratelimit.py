import random
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis
from redis.exceptions import NoScriptError
from typer import Typer
from typer.testing import CliRunner

from bench.__main__ import main
from bench.ratelimit import OK, OVER_LIMIT
from bench.tools import load
from bench.tools.callers import Callers, messages
from bench.tools.load import Load, LoadError
from bench.tools.peers import Peer, parse_peer
from bench.tools.processes import cpu_seconds, python_server
from bench.tools.ratelimit_limits import PATH, limits_file, request
from bench.tools.redis_server import running_redis
from bench.tools.rounds import Target, measured, scripts_run
from protos.ratelimit_pb2 import RateLimitRequest
from sidecars.services.ratelimit import build
from sidecars.services.sidecar import Dependencies
from sidecars.settings.ratelimit import RatelimitSettings
from sidecars.transport.api.address import TcpAddress

app = Typer()
app.command()(main)


def callers_of(found: list[bytes]) -> list[str]:
    return [RateLimitRequest.FromString(one).descriptors[0].entries[1].value for one in found]


def test_callers_in_rotation_come_one_after_another() -> None:
    found = list(islice(messages(request("target"), Callers(3, "rotation", first=2)), 4))
    assert callers_of(found) == ["c0000002", "c0000000", "c0000001", "c0000002"]


def test_the_first_caller_by_zipf_comes_most_often_and_the_same_seed_draws_the_same() -> None:
    found = callers_of(list(islice(messages(request("target"), Callers(100, "zipf")), 2_000)))
    assert max(set(found), key=found.count) == "c0000000"
    assert found == callers_of(list(islice(messages(request("target"), Callers(100, "zipf")), 2_000)))


def test_a_message_without_a_caller_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold"):
        messages(b"no caller", Callers(1, "rotation"))


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("go=127.0.0.1:8081", Peer("go", 8081)),
        ("go=127.0.0.1:8081,pid=7,redis_pid=8", Peer("go", 8081, 7, 8)),
        ("go=127.0.0.1:8081,redis_pid=8", Peer("go", 8081, None, 8)),
    ],
)
def test_a_peer_is_a_name_an_address_and_processes(text: str, peer: Peer) -> None:
    assert parse_peer(text) == peer


@pytest.mark.parametrize(
    "text",
    ["go", "go=8081", "go=10.0.0.1:80", "go=127.0.0.1:80,pid=x", "go=127.0.0.1:80,cpu=1", "=127.0.0.1:80"],
)
def test_what_names_no_peer_is_a_usage_error(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_peer(text)
    assert CliRunner().invoke(app, ["ratelimit", "--peer", text]).exit_code == 2


def test_a_bench_without_peers_refuses_one() -> None:
    assert CliRunner().invoke(app, ["authz", "--peer", "go=127.0.0.1:8081"]).exit_code == 2


@pytest.mark.parametrize("limits", [10, 200])
def test_the_requests_fall_under_the_limits(tmp_path: Path, limits: int) -> None:
    settings = RatelimitSettings(
        listen=(TcpAddress("127.0.0.1", 0),), limits=(limits_file(tmp_path, limits),)
    )
    sidecar = build(
        settings, Dependencies(CollectorRegistry(), time.time, time.monotonic, random.random, None)
    )
    call: Any = SimpleNamespace(deadline=None)
    answers = [
        sidecar.should_rate_limit(request(service), call) for service in ("target", "closed", "closed")
    ]
    assert [bytes(answer)[:2] for answer in answers if isinstance(answer, bytes)] == [OK, OK, OVER_LIMIT]


def test_a_run_measures_rate_and_cpu_time_and_refuses_other_answers(tmp_path: Path) -> None:
    limits = str(limits_file(tmp_path, 10))
    order = Load(
        PATH,
        request("target"),
        seconds=0.3,
        warm_up_seconds=0.1,
        callers=Callers(100, "rotation"),
        answer=OK,
    )
    with python_server("bench.tools.ratelimit_server", limits, "--fill", "1000") as (process, port):
        found = measured(Target(port, order, process.pid))
        assert found.result.calls > 100
        assert found.cpu_us is not None
        assert 0 < found.cpu_us * found.result.calls / 1e6 <= cpu_seconds(process.pid)
        with pytest.raises(LoadError, match="the server answered"):
            load.generator(port, replace(order, message=request("closed")))


@pytest.mark.redis
def test_script_calls_of_decisions_are_counted_and_heartbeats_are_not(tmp_path: Path) -> None:
    with running_redis(tmp_path) as redis:
        assert redis is not None
        assert scripts_run(redis) == 0
        with Redis(unix_socket_path=str(redis.socket)) as client:
            client.eval("return 1", 0)  # as a heartbeat does
            assert scripts_run(redis) == 0
            with pytest.raises(NoScriptError):  # a decision that Redis has to be told the script of
                client.evalsha("0" * 40, 0)
            client.eval("return 2", 0)
        assert scripts_run(redis) == 1
