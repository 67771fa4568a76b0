"""`sidecars run ratelimit --compat`: a real process with the environment of envoyproxy/ratelimit."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.error import HTTPError

import pytest

from protos.ratelimit_pb2 import RateLimitResponse
from tests.support.command import Done, plain_command
from tests.support.free_ports import free_port
from tests.support.ratelimiting import LIMITS as BY_MINUTE
from tests.support.ratelimiting import request
from tests.support.redis_server import RedisServer
from tests.support.redis_topologies import (
    MASTER,
    RedisCluster,
    Sentinels,
    _session_cluster,
    _session_sentinels,
    redis_cluster,
    shared_sentinels,
)
from tests.support.running import WAIT_SECONDS, Running, call, connect

__all__ = ["_session_cluster", "_session_sentinels", "redis_cluster", "shared_sentinels"]

HOURLY = {"closed": "10.0.0.1"}
"""Falls under a limit whose window no test is likely to outlast."""

COMPAT = ("-m", "sidecars", "run", "ratelimit", "--compat")
METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

LIMITS = BY_MINUTE.replace("unit: minute", "unit: day")
"""In windows that do not end during a test."""


def environment(folder: Path, redis: RedisServer, **more: str) -> dict[str, str]:
    """As in a pod: files in RUNTIME_ROOT/RUNTIME_SUBDIRECTORY/config, one of them with any name."""
    (folder / "rl" / "config").mkdir(parents=True)
    (folder / "rl" / "config" / "edge").write_text(LIMITS)
    port = free_port()
    return {
        "RUNTIME_ROOT": str(folder),
        "RUNTIME_SUBDIRECTORY": "rl",
        "REDIS_URL": str(redis.socket),
        "GRPC_UDS": f"{folder}/s",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DEBUG_HOST": "127.0.0.1",
        "DEBUG_PORT": "0",
        "LOG_FORMAT": "json",
        "USE_STATSD": "false",
        "REDIS_PIPELINE_WINDOW": "150us",
        "REDIS_TIMEOUT": "5s",  # these tests wait for Redis, however busy the machine is
        "SIDECARS_ADMIN__PORT_FILE": f"{folder}/admin.port",
        "SIDECARS_DRAIN__DRAIN_DELAY_SECONDS": "0",
        # Longer than a busy machine makes anyone wait.
        "SIDECARS_RATELIMIT__REDIS_TIMEOUT_MS": "5000",
        **more,
    }


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("compat")
    environ = environment(folder, redis, LIMIT_RESPONSE_HEADERS_ENABLED="true")
    with Running(folder, {}, program=COMPAT, environ=environ, arguments=()) as process:
        yield process.wait_until_ready()


def test_it_counts_in_windows_and_answers_as_theirs(running: Running) -> None:
    with connect(f"unix:{running.folder}/s") as channel:
        answers = [RateLimitResponse.FromString(call(channel, METHOD, request(HOURLY))) for _ in range(4)]
    assert [answer.overall_code for answer in answers] == [1, 1, 1, 2]
    assert [header.key for header in answers[-1].response_headers_to_add] == [
        "RateLimit-Limit",
        "RateLimit-Remaining",
        "RateLimit-Reset",
    ]
    assert not answers[-1].HasField("dynamic_metadata")


def test_the_counters_are_in_redis(running: Running, redis: RedisServer) -> None:
    with connect(f"unix:{running.folder}/s") as channel:
        call(channel, METHOD, request({"remote_address": "10.9.9.9"}))
    with redis.client() as client:
        assert list(client.scan_iter("w86400|edge|remote_address=10.9.9.9"))


def test_json_and_healthcheck_are_on_their_port(running: Running) -> None:
    address = f"http://{running.config()['settings']['ratelimit']['http']}"
    with urllib.request.urlopen(f"{address}/healthcheck", timeout=WAIT_SECONDS) as response:
        assert response.read() == b"OK"
    closed = {"entries": [{"key": "closed", "value": "1"}]}
    body = {"domain": "edge", "descriptors": [closed], "hitsAddend": 4}
    with pytest.raises(HTTPError) as caught:
        urllib.request.urlopen(f"{address}/json", json.dumps(body).encode(), timeout=WAIT_SECONDS)
    with caught.value as error:
        assert (error.code, json.loads(error.read())["overallCode"]) == (429, "OVER_LIMIT")


def test_rlconfig_is_on_the_debug_port(running: Running) -> None:
    first = running.get("/rlconfig")[1].splitlines()[0]
    assert first == (
        "edge.remote_address: unit=DAY requests_per_unit=3, shadow_mode: false, quota_mode: false"
    )


def test_metrics_are_those_of_theirs(running: Running) -> None:
    with connect(f"unix:{running.folder}/s") as channel:
        call(channel, METHOD, request({"open": "1"}))
    page = running.get("/metrics")[1]
    assert 'ratelimit_service_rate_limit_total_hits{domain="edge",key1="open"} 1.0\n' in page
    assert "# TYPE ratelimit_service_rate_limit_total_hits counter\n" in page
    assert 'ratelimit_service_response_time_seconds_count{grpc_method="ShouldRateLimit"}' in page


def test_what_has_no_effect_is_in_the_log(running: Running) -> None:
    [line] = [line for line in running.log if "have no effect" in line["event"]]
    assert list(line["variables"]) == ["REDIS_PIPELINE_WINDOW"]


def test_a_changed_file_is_loaded(running: Running) -> None:
    file = running.folder / "rl" / "config" / "edge"
    new = running.folder / "new"
    new.write_text(LIMITS.replace("requests_per_unit: 3, name", "requests_per_unit: 7, name"))
    new.replace(file)
    running.wait_until(lambda: "requests_per_unit=7," in running.get("/rlconfig")[1])


def test_a_changed_hidden_file_is_loaded(running: Running) -> None:
    """As theirs, which loads hidden files unless RUNTIME_IGNOREDOTFILES is set: a new one, and its change."""
    file = running.folder / "rl" / "config" / ".hidden"
    text = "domain: hidden\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 8}}]\n"
    for limit in (8, 9):
        new = running.folder / "new"
        new.write_text(text.replace(": 8}", f": {limit}}}"))
        new.replace(file)
        running.wait_until(partial(_has_rule, running, f"hidden.a: unit=DAY requests_per_unit={limit},"))
    file.unlink()
    running.wait_until(lambda: not _has_rule(running, "hidden.a"))


def _has_rule(running: Running, text: str) -> bool:
    return text in running.get("/rlconfig")[1]


@pytest.fixture
def checked(tmp_path: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """`sidecars config check --compat` in an environment."""

    def check(**more: str) -> Done:
        for name, value in {**environment(tmp_path, redis), **more}.items():
            monkeypatch.setenv(name, value)
        return plain_command("config", "check", "--compat")

    return check


def test_config_check_reads_the_environment(checked: Callable[..., Done]) -> None:
    done = checked(MEMCACHE_TLS="true")
    assert (done.returncode, done.stdout) == (0, "environment: ok (ratelimit)\n")
    assert "warning: MEMCACHE_TLS has no effect: the store is Redis\n" in done.stderr


def test_config_check_finds_what_would_stop_the_start(checked: Callable[..., Done]) -> None:
    done = checked(BACKEND_TYPE="memcache", NEAR_LIMIT_RATIO="much")
    assert done.returncode == 1
    problems = [line for line in done.stderr.splitlines() if not line.startswith("warning")]
    assert [line.partition(":")[0] for line in problems] == ["BACKEND_TYPE", "NEAR_LIMIT_RATIO"]


def test_the_tools_take_the_settings_of_the_environment(
    running: Running, redis: RedisServer, checked: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, Redis and the process: with fixed windows, as the process has."""
    checked(RUNTIME_ROOT=str(running.folder))
    data = json.loads(plain_command("limits", "show", "--compat", "--json").stdout)
    assert {rule["algorithm"] for rule in data["rules"] if rule["algorithm"]} == {"fixed_window"}
    with connect(f"unix:{running.folder}/s") as channel:
        call(channel, METHOD, request({"closed": "tools"}, hits=2))
    arguments = ("limits", "explain", "--compat", "--json", "--domain", "edge", "closed=tools")
    monkeypatch.setenv("DEBUG_PORT", running.folder.joinpath("admin.port").read_text().strip())
    for more in ((), ("--running",)):
        done = plain_command(*arguments, *more)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)[0]["remaining"] == 1


def test_config_check_needs_one_of_the_two(checked: Callable[..., Done]) -> None:
    assert plain_command("config", "check").returncode == 2


def test_a_cluster_and_sentinels_are_used_as_their_variables_say(
    tmp_path: Path, redis: RedisServer, redis_cluster: RedisCluster, shared_sentinels: Sentinels
) -> None:
    """Limits by the day in the cluster, those of less than a minute at the master that Sentinels name."""
    environ = environment(
        tmp_path,
        redis,
        REDIS_TYPE="CLUSTER",
        REDIS_URL=",".join(f"127.0.0.1:{server.port}" for server in redis_cluster.servers),
        REDIS_PERSECOND="true",
        REDIS_PERSECOND_TYPE="SENTINEL",
        REDIS_PERSECOND_URL=",".join(
            [MASTER, *(f"127.0.0.1:{sentinel.port}" for sentinel in shared_sentinels.sentinels)]
        ),
        REDIS_PERSECOND_TIMEOUT="5s",
    )
    both = request(HOURLY, {"route": "login"})
    with Running(tmp_path, {}, program=COMPAT, environ=environ, arguments=()) as process:
        process.wait_until_ready()
        with connect(f"unix:{tmp_path}/s") as channel:
            answers = [RateLimitResponse.FromString(call(channel, METHOD, both)) for _ in range(3)]
        assert [answer.overall_code for answer in answers[:2]] == [1, 1]
        config = process.config()
        assert config["redis"]["slots_without_node"] == 0
        assert config["redis_per_second"]["master"] == f"127.0.0.1:{shared_sentinels.master.port}"
        assert config["sidecars"]["ratelimit"]["state"]["replicas"] == 1
        names = []
        for server in redis_cluster.servers:
            with server.client() as client:
                names += [name.decode() for name in client.keys("*")]
        with shared_sentinels.master.client() as client:
            [short] = client.keys("*")
        assert sorted(names) == ["sidecars", "w3600|edge|closed=10.0.0.1"]
        assert short.decode() == "w30|edge|route=login"
        process.process.terminate()
        assert process.wait_for_exit() == 0


def test_what_cannot_be_followed_stops_the_start(tmp_path: Path, redis: RedisServer) -> None:
    environ = environment(tmp_path, redis, REDIS_TYPE="ring", BACKEND_TYPE="memcache")
    with Running(tmp_path, {}, program=COMPAT, environ=environ, arguments=()) as process:
        assert process.wait_for_exit() == 2
        assert [line.partition(":")[0] for line in process.stderr.splitlines()] == [
            "BACKEND_TYPE",
            "REDIS_TYPE",
        ]


def test_workers_get_the_settings_too(tmp_path: Path, redis: RedisServer) -> None:
    environ = environment(
        tmp_path,
        redis,
        CACHE_KEY_PREFIX="workers:",
        SIDECARS_WORKERS="2",
        GRPC_UDS=f"{tmp_path}/{{worker}}.s",
    )
    with Running(tmp_path, {}, program=COMPAT, environ=environ, arguments=()) as process:
        process.wait_until_ready()
        for worker in range(2):
            with connect(f"unix:{tmp_path}/{worker}.s") as channel:
                reply = call(channel, METHOD, request(HOURLY))
                assert RateLimitResponse.FromString(reply).statuses[0].limit_remaining == 2 - worker
        hits = 'ratelimit_service_rate_limit_total_hits{domain="edge",key1="closed"}'
        # A worker that is busy for a second is left out of the sum.
        process.wait_until(lambda: process.metric(hits) == 2)
        assert "# TYPE ratelimit_service_rate_limit_total_hits counter\n" in process.get("/metrics")[1]
