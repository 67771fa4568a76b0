"""Several workers under a supervisor, seen from outside: real processes, real sockets, real signals."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from protos.accesslog_data_pb2 import HTTPAccessLogEntry
from protos.accesslog_pb2 import StreamAccessLogsMessage
from protos.ratelimit_descriptor_pb2 import RateLimitDescriptor
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from sidecars.admin.index import links_in
from tests.support.checks import check_request
from tests.support.running import SIDECARS, WAIT_SECONDS, Running, call, connect

RATELIMIT = "envoy.service.ratelimit.v3.RateLimitService"
CHECK = "/envoy.service.auth.v3.Authorization/Check"
ASK = f"/{RATELIMIT}/ShouldRateLimit"
LOG = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
COUNT = (
    f'grpc_server_handled_total{{grpc_code="OK",grpc_method="ShouldRateLimit",grpc_service="{RATELIMIT}",'
    'grpc_type="unary"}'
)
LIMITS = """
domain: edge
descriptors:
  - {key: client, rate_limit: {unit: hour, requests_per_unit: 2}}
"""
REQUEST = RateLimitRequest(
    domain="edge",
    descriptors=[RateLimitDescriptor(entries=[RateLimitDescriptor.Entry(key="client", value="c")])],
).SerializeToString()


@pytest.fixture
def limits(tmp_path: Path) -> Path:
    path = tmp_path / "limits.yaml"
    path.write_text(LIMITS)
    return path


def settings(tmp_path: Path, **more: Any) -> dict[str, Any]:
    listen = [f"unix:{tmp_path}/{{worker}}.s"]
    return {"workers": 2, "ratelimit": {"listen": listen, "limits": ["limits.yaml"]}, **more}


def serve(tmp_path: Path, more: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Running:
    # The log must hold nothing but ours, so that it can be read as JSON.
    quiet = {"GRPC_VERBOSITY": "NONE"}
    return Running(
        tmp_path, settings(tmp_path, **more), program=SIDECARS, environ={**quiet, **(environ or {})}
    )


@pytest.fixture
def running(tmp_path: Path, limits: Path) -> Iterator[Running]:
    with serve(tmp_path, {}) as process:
        yield process.wait_until_ready()


def ask(tmp_path: Path, worker: int) -> str:
    """What worker number `worker` answers to one hit."""
    with connect(f"unix:{tmp_path}/{worker}.s") as channel:
        return RateLimitResponse.Code.Name(
            RateLimitResponse.FromString(call(channel, ASK, REQUEST)).overall_code
        )


def pid(running: Running, worker: int) -> int:
    found: int = running.config()["workers"][worker]["pid"]
    return found


def kill(running: Running, worker: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a worker, and wait until its end was seen and all are ready again."""
    restarts = running.metric(f'sidecars_worker_restarts_total{{worker="{worker}"}}')
    assert restarts is not None
    os.kill(pid(running, worker), number)
    running.wait_until(
        lambda: running.metric(f'sidecars_worker_restarts_total{{worker="{worker}"}}') == restarts + 1
    )
    running.wait_until(lambda: running.get("/readyz")[0] == 200)


def lives(process: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds, whatever has become of the supervisor."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_worker_answers_on_a_socket_of_its_own(running: Running, tmp_path: Path) -> None:
    workers = running.config()["workers"]
    assert [worker["phase"] for worker in workers] == ["ready", "ready"]
    assert len({worker["pid"] for worker in workers}) == 2
    listening = [worker["config"]["sidecars"]["ratelimit"]["listening"] for worker in workers]
    assert listening == [[f"unix:{tmp_path}/0.s"], [f"unix:{tmp_path}/1.s"]]
    assert [ask(tmp_path, worker) for worker in (0, 1)] == ["OK", "OK"]
    assert running.get("/healthz") == (200, "ok\n")
    assert running.get("/readyz") == (200, "ready\n")


def test_the_log_names_the_worker(running: Running) -> None:
    def ready() -> list[int]:
        return sorted(line.get("worker", -1) for line in running.log if line["event"] == "ready")

    running.wait_until(lambda: ready() == [-1, 0, 1])


def test_limits_in_memory_are_those_of_each_worker_and_a_warning_says_so(
    running: Running, tmp_path: Path
) -> None:
    answers = [ask(tmp_path, worker) for worker in (0, 0, 0, 1, 1, 1)]
    assert answers == ["OK", "OK", "OVER_LIMIT"] * 2
    (warning,) = [line for line in running.log if line["level"] == "warning"]
    assert warning["event"].startswith("ratelimit.store: memory counts in each worker by itself")


def test_metrics_are_those_of_all_workers_and_do_not_fall_when_one_ends(
    running: Running, tmp_path: Path
) -> None:
    for worker in (0, 1, 1):
        ask(tmp_path, worker)
    assert running.metric(COUNT) == 3
    assert running.metric('sidecars_worker_ready{worker="1"}') == 1
    assert running.metric('sidecars_config_loaded_timestamp_seconds{sidecar="ratelimit",worker="1"}')
    kill(running, 1)
    assert running.metric(COUNT) == 3
    ask(tmp_path, 1)
    assert running.metric(COUNT) == 4


POLICY = """
rules:
  - {name: open, methods: [GET], paths: ["/{rest=**}"], allow: anyone}
"""


def check(tmp_path: Path, worker: int, path: str) -> None:
    with connect(f"unix:{tmp_path}/{worker}.a") as channel:
        call(channel, CHECK, check_request(path=path).SerializeToString())


def test_a_worker_that_hangs_takes_no_page_and_no_logout_with_it(tmp_path: Path, limits: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    authz = {"listen": [f"unix:{tmp_path}/{{worker}}.a"], "policy": ["policy.yaml"]}
    with serve(tmp_path, {"authz": authz}) as running:
        running.wait_until_ready()
        for number in range(3):
            for worker in (1, 0):
                check(tmp_path, worker, f"/{number}/{worker}")
                time.sleep(0.002)  # the order is that of the records' times, in milliseconds
        status, body = running.get("/decisions?limit=4")
        found = json.loads(body)
        assert [one["path"] for one in found["decisions"]] == ["/2/0", "/2/1", "/1/0", "/1/1"]
        assert found["workers_without_answer"] == []
        hanging = pid(running, 0)
        os.kill(hanging, signal.SIGSTOP)
        try:
            status, page = running.get("/metrics")
            assert status == 200
            assert 'sidecars_worker_answered{worker="0"} 0.0' in page
            assert 'sidecars_worker_answered{worker="1"} 1.0' in page
            found = json.loads(running.get("/decisions")[1])
            assert [one["path"] for one in found["decisions"]] == ["/2/1", "/1/1", "/0/1"]
            assert found["workers_without_answer"] == [0]
            assert running.config()["workers"][0]["config"] is None
            status, body = running.get("/authz/backchannel-logout", "logout_token=x")
            assert (status, json.loads(body)["error_description"]) == (
                404,
                "no issuer is configured with logout",
            )
        finally:
            os.kill(hanging, signal.SIGCONT)


def test_a_page_of_one_worker_is_had_by_its_number(running: Running, tmp_path: Path) -> None:
    ask(tmp_path, 1)
    one = json.loads(running.get("/config?worker=1")[1])
    assert one["settings"]["ratelimit"]["listen"] == [f"unix:{tmp_path}/1.s"]
    assert f"{COUNT} 0.0" in running.get("/metrics?worker=0")[1]
    assert f"{COUNT} 1.0" in running.get("/metrics?worker=1")[1]
    assert running.get("/readyz?worker=1") == (200, "ready\n")
    assert running.get("/config?worker=2") == (404, "no such worker: they are 0 to 1\n")
    assert running.get("/no-such-page")[0] == 404
    assert links_in(running.get("/")[1]) == [
        *("/metrics", "/healthz", "/readyz", "/config", "/totals", "/version"),
        *("/rlconfig", "/limits/hot", "/limits/bans", "/console/"),
    ]


def test_each_worker_may_have_an_admin_address_of_its_own(tmp_path: Path, limits: Path) -> None:
    admin = {
        "listen": "127.0.0.1:0",
        "port_file": "admin.port",
        "workers": f"unix:{tmp_path}/{{worker}}.admin?mode=0600",
    }
    with serve(tmp_path, {"admin": admin}) as running:
        assert running.wait_until_ready().get("/metrics?worker=1")[0] == 200
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WAIT_SECONDS)
            client.connect(f"{tmp_path}/1.admin")
            client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            assert client.recv(1024).startswith(b"HTTP/1.0 200 ")


def test_a_dead_worker_is_started_again_while_the_other_serves(running: Running, tmp_path: Path) -> None:
    first, second = pid(running, 0), pid(running, 1)
    os.kill(second, signal.SIGKILL)
    running.wait_until(lambda: running.get("/readyz")[0] == 503)
    assert ask(tmp_path, 0) == "OK"
    running.wait_until(lambda: running.get("/readyz")[0] == 200)
    assert ask(tmp_path, 1) == "OK"
    assert pid(running, 0) == first
    assert pid(running, 1) != second
    assert running.config()["workers"][1]["last_end"] == "SIGKILL"
    running.wait_until(lambda: "worker ended" in running.events())
    (line,) = [line for line in running.log if line["event"] == "worker ended"]
    assert (line["worker"], line["how"]) == (1, "SIGKILL")


def test_sigterm_to_one_worker_restarts_it_in_order(running: Running) -> None:
    kill(running, 0, signal.SIGTERM)
    assert running.config()["workers"][0]["last_end"] == "exit code 0"
    assert "stopped" in [line["event"] for line in running.log if line.get("worker") == 0]


def test_a_crash_loop_is_reported_by_metric_log_and_readyz_and_can_be_ended(
    running: Running, tmp_path: Path, limits: Path
) -> None:
    """Limits that became bad: a worker that serves keeps the good ones, one that starts has none."""
    limits.write_text("nonsense\n")
    os.kill(pid(running, 1), signal.SIGKILL)
    running.wait_until(lambda: "worker is in a crash loop" in running.events())
    failures = running.metric('sidecars_worker_consecutive_failures{worker="1"}')
    assert failures is not None
    assert failures >= 3
    assert running.metric('sidecars_worker_ready{worker="1"}') == 0
    status, text = running.get("/readyz")
    assert (status, text.splitlines()[0]) == (503, "degraded")
    assert "worker 1: " in text
    assert "times in a row" in text
    assert running.config()["phase"] == "degraded"
    assert ask(tmp_path, 0) == "OK"
    limits.write_text(LIMITS)
    running.wait_until(lambda: running.get("/readyz")[0] == 200)
    assert ask(tmp_path, 1) == "OK"


def test_a_worker_started_again_has_the_settings_of_the_others(running: Running, tmp_path: Path) -> None:
    """The settings file is read at the start only."""
    elsewhere = yaml.safe_load(running.file.read_text())
    elsewhere["ratelimit"]["listen"] = [f"unix:{tmp_path}/elsewhere.{{worker}}"]
    running.file.write_text(yaml.safe_dump(elsewhere))
    kill(running, 1)
    assert ask(tmp_path, 1) == "OK"


def test_sighup_reloads_every_worker(running: Running) -> None:
    running.signal(signal.SIGHUP)
    running.wait_until(lambda: running.metric('sidecars_config_reload_total{sidecar="ratelimit"}') == 2)
    running.wait_until(lambda: running.get("/readyz")[0] == 200)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_drains_every_worker_and_ends_with_0(
    running: Running, tmp_path: Path, number: signal.Signals
) -> None:
    running.signal(number)
    assert running.wait_for_exit() == 0
    assert sorted(line.get("worker", -1) for line in running.log if line["event"] == "stopped") == [-1, 0, 1]
    assert running.events()[-1] == "stopped"


def test_a_second_signal_ends_all_at_once(tmp_path: Path, limits: Path) -> None:
    with serve(tmp_path, {"drain": {"drain_delay_seconds": 600}}) as running:
        workers = [pid(running.wait_until_ready(), worker) for worker in (0, 1)]
        running.signal(signal.SIGTERM)
        running.wait_until(lambda: running.get("/readyz") == (503, "draining\n"))
        running.signal(signal.SIGTERM)
        assert running.wait_for_exit() == 1
        wait_for(lambda: not any(lives(worker) for worker in workers))


def test_sigterm_to_the_whole_group_drains_all_the_same(tmp_path: Path, limits: Path) -> None:
    """As systemd's KillMode=control-group sends it: each worker hears of it twice, and drains once."""
    with serve(tmp_path, {"drain": {"drain_delay_seconds": 0.5}}) as running:
        workers = [pid(running.wait_until_ready(), worker) for worker in (0, 1)]
        for worker in workers:
            os.kill(worker, signal.SIGTERM)
        running.signal(signal.SIGTERM)
        assert running.wait_for_exit() == 0
        assert len([line for line in running.log if line["event"] == "stopped"]) == 3


def test_workers_end_with_their_supervisor_however_it_ended(running: Running) -> None:
    workers = [pid(running, worker) for worker in (0, 1)]
    running.signal(signal.SIGKILL)
    running.wait_for_exit()
    wait_for(lambda: not any(lives(worker) for worker in workers))
    stopped = [line["worker"] for line in running.log if line["event"] == "stopped"]
    assert sorted(stopped) == [0, 1]  # in order, too


def test_bad_files_exit_with_2_and_each_problem_once(tmp_path: Path, limits: Path) -> None:
    limits.write_text("domain: edge\nnonsense: 1\n")
    with serve(tmp_path, {}) as running:
        assert running.wait_for_exit() == 2
        assert running.stderr.count(f"{limits}:2: ") == 1


def test_a_path_that_cannot_be_a_socket_is_found_before_anything_starts(tmp_path: Path, limits: Path) -> None:
    (tmp_path / "1.s").touch()
    with serve(tmp_path, {}) as running:
        assert running.wait_for_exit() == 2
        assert f"{tmp_path}/1.s exists and is not a socket" in running.stderr
        assert "Traceback" not in running.stderr


def test_a_worker_started_by_hand_says_that_it_needs_a_supervisor(tmp_path: Path, limits: Path) -> None:
    program = ("-m", "sidecars", "run", "all", "--worker", "0", "--config")
    with Running(tmp_path, settings(tmp_path), program=program) as running:
        running.process.communicate()
        assert running.process.returncode == 1
        assert (
            running.stderr == "sidecars: no settings on standard input: only a supervisor starts a worker\n"
        )


def test_the_access_log_of_all_workers_comes_out_of_one_stdout(tmp_path: Path, limits: Path) -> None:
    log = {"listen": [f"unix:{tmp_path}/{{worker}}.al"]}
    with serve(tmp_path, {"accesslog": log}) as running:
        running.wait_until_ready()
        for worker in (0, 1):
            entry = HTTPAccessLogEntry()
            entry.request.path = f"/of-{worker}"
            message = StreamAccessLogsMessage()
            message.identifier.log_name = "edge"
            message.http_logs.log_entry.append(entry)
            with connect(f"unix:{tmp_path}/{worker}.al") as channel:
                channel.stream_unary(LOG)(iter([message.SerializeToString()]), timeout=WAIT_SECONDS)
        running.wait_until(lambda: len(running.stdout.splitlines()) == 2)
        assert {json.loads(line)["path"] for line in running.stdout.splitlines()} == {"/of-0", "/of-1"}


def test_systemd_hears_of_the_whole_and_never_of_one_worker(tmp_path: Path, limits: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(WAIT_SECONDS)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        heard: list[str] = []

        def until(line: str) -> None:
            for _ in range(10_000):
                heard.extend(lines := systemd.recv(4096).decode().splitlines())
                if line in lines:
                    return
            raise AssertionError(f"{line} never came, but {heard}")

        with serve(tmp_path, {}, environ) as running:
            until("READY=1")
            assert "STATUS=2 of 2 workers ready" in heard
            until("WATCHDOG=1")
            os.kill(pid(running, 1), signal.SIGKILL)
            until("STATUS=1 of 2 workers ready")
            until("STATUS=2 of 2 workers ready")
            assert heard.count("READY=1") == 1
            running.signal(signal.SIGHUP)
            until("RELOADING=1")
            until("READY=1")
            running.signal(signal.SIGTERM)
            until("STOPPING=1")
            assert running.wait_for_exit() == 0
            assert heard.count("STOPPING=1") == 1


def test_sighup_reaches_a_worker_that_is_being_started_again(tmp_path: Path, limits: Path) -> None:
    with serve(tmp_path, {"reload": {"watch": False}}) as running:
        os.kill(pid(running.wait_until_ready(), 1), signal.SIGKILL)
        running.wait_until(lambda: running.config()["workers"][1]["phase"] == "starting")
        running.signal(signal.SIGHUP)
        running.wait_until(lambda: running.metric('sidecars_config_reload_total{sidecar="ratelimit"}') == 2)
