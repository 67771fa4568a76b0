"""The life of a process, seen from outside: a real process, real sockets, real signals."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.health_pb2 import HealthCheckRequest, HealthCheckResponse
from tests.support.running import ANSWER, SIDECARS, WAIT_SECONDS, Running, call, connect, probe_section

SLOW, COLLECT = "/test.Probe/Slow", "/test.Probe/Collect"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A process for tests that only look: starting one takes most of their time."""
    folder = tmp_path_factory.mktemp("lasting")
    (folder / "policy.yaml").write_text("answer: one\n")
    with Running(folder, {"authz": probe_section(folder)}) as process:
        yield process.wait_until_ready()


@pytest.fixture
def lasting_channel(lasting: Running) -> Iterator[Any]:
    with connect(f"unix:{lasting.folder}/s") as channel:
        yield channel


def health(name: str = "") -> bytes:
    return HealthCheckRequest(service=name).SerializeToString()


def status(reply: bytes) -> str:
    return HealthCheckResponse.ServingStatus.Name(HealthCheckResponse.FromString(reply).status)


def test_it_serves_and_says_so(lasting: Running, lasting_channel: Any) -> None:
    assert call(lasting_channel, ANSWER) == b"one"
    assert lasting.get("/healthz") == (200, "ok\n")
    assert lasting.get("/readyz") == (200, "ready\n")
    assert [status(call(lasting_channel, CHECK, health(name))) for name in ("", "test.Probe")] == [
        "SERVING"
    ] * 2


def test_calls_are_counted_by_method_and_code(lasting: Running, lasting_channel: Any) -> None:
    labels = 'grpc_method="Answer",grpc_service="test.Probe",grpc_type="unary"'
    samples = (
        f'grpc_server_handled_total{{grpc_code="OK",{labels}}}',
        f"grpc_server_handling_seconds_count{{{labels}}}",
    )
    before = [lasting.metric(sample) or 0 for sample in samples]
    call(lasting_channel, ANSWER)
    call(lasting_channel, ANSWER)
    assert [lasting.metric(sample) for sample in samples] == [count + 2 for count in before]
    assert lasting.metric("process_open_fds")


def test_config_shows_settings_state_and_where_it_listens(lasting: Running) -> None:
    config = lasting.config()
    assert config["phase"] == "ready"
    assert config["settings"]["authz"]["policy"] == [str(lasting.folder / "policy.yaml")]
    authz = config["sidecars"]["authz"]
    assert authz["listening"] == [f"unix:{lasting.folder}/s"]
    assert authz["state"]["revision"] == "1"
    assert authz["last_reload"] is None


def test_config_masks_secrets(tmp_path: Path, policy: Path) -> None:
    url = "redis://someone:hunter2@127.0.0.1:1/0"
    with Running(tmp_path, {"authz": probe_section(tmp_path), "redis": {"url": url}}) as running:
        running.wait_until_ready()
        text = running.get("/config")[1]
        assert "redis://***@127.0.0.1:1/0" in text
        assert running.config()["sidecars"]["authz"]["state"]["token"] == "***"
        assert "hunter2" not in text + running.stderr


def test_redis_away_at_start_is_not_an_error(tmp_path: Path, policy: Path) -> None:
    with Running(
        tmp_path, {"authz": probe_section(tmp_path), "redis": {"url": f"unix://{tmp_path}/none"}}
    ) as running:
        running.wait_until_ready()
        running.wait_until(lambda: running.config()["redis"]["state"] == "away")
        running.wait_until(lambda: "redis is away" in running.events())


def test_port_0_takes_a_free_port_and_names_it(tmp_path: Path, policy: Path) -> None:
    listen = {"listen": ["127.0.0.1:0", f"unix:{tmp_path}/s"], "policy": ["policy.yaml"]}
    with Running(tmp_path, {"authz": listen}) as running:
        tcp, unix = running.wait_until_ready().config()["sidecars"]["authz"]["listening"]
        assert unix == f"unix:{tmp_path}/s"
        assert not tcp.endswith(":0")
        with connect(tcp) as channel:
            assert call(channel, ANSWER) == b"one"


def test_bad_files_at_start_exit_with_2_and_every_problem_of_every_file(tmp_path: Path, policy: Path) -> None:
    policy.write_text("anwser: one\n")
    bad = {"authz": probe_section(tmp_path), "log": {"level": "loud"}, "adnim": {}}
    with Running(tmp_path, bad, program=SIDECARS) as running:
        assert running.wait_for_exit() == 2
        assert "Traceback" not in running.stderr
        for problem in ("log.level", "adnim: unknown key; did you mean 'admin'?", f"{policy}:1: "):
            assert problem in running.stderr
        assert not (tmp_path / "s").exists()


def test_a_taken_address_is_one_line_and_exit_1(tmp_path: Path, policy: Path) -> None:
    policy.write_text("rules: []\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listen = {"listen": [address], "policy": ["policy.yaml"]}
        with Running(tmp_path, {"authz": listen, "log": {"level": "error"}}, program=SIDECARS) as running:
            assert running.wait_for_exit() == 1
            # Above it stands a line of grpc's own.
            *_, last = running.stderr.splitlines()
            assert last == f"sidecars: cannot listen on {address}: another process listens on it"
            assert "Traceback" not in running.stderr


def test_a_taken_admin_address_ends_the_start_with_1(tmp_path: Path, policy: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        policy.write_text("rules: []\n")
        settings = {"authz": probe_section(tmp_path), "admin": {"listen": address}, "log": {"level": "error"}}
        with Running(tmp_path, settings, program=SIDECARS) as running:
            assert running.wait_for_exit() == 1
            assert running.stderr == f"sidecars: cannot listen on {address}: another process listens on it\n"
            assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_an_idle_process_with_0(running: Running, number: signal.Signals) -> None:
    running.signal(number)
    assert running.wait_for_exit() == 0
    assert running.events()[-1] == "stopped"
    assert running.stdout == "flushed\n"


def test_a_call_in_flight_finishes_before_the_process_ends(
    running: Running, channel: Any, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    reply = channel.unary_unary(SLOW).future(str(hold).encode(), timeout=WAIT_SECONDS)
    running.wait_until(lambda: running.config()["sidecars"]["authz"]["state"]["open_streams"])
    running.signal(signal.SIGTERM)
    running.wait_until(lambda: running.get("/readyz") == (503, "draining\n"))
    assert not reply.done()
    hold.unlink()
    assert reply.result() == b"slow but sure"
    assert running.wait_for_exit() == 0


def test_a_stream_that_its_client_never_ends_is_ended_in_order(running: Running, channel: Any) -> None:
    """Envoy never half-closes an access-log stream (grpc_access_logger.h)."""

    def endless() -> Iterator[bytes]:
        yield b"first"
        running.wait_for_exit()

    reply = channel.stream_unary(COLLECT).future(endless(), timeout=WAIT_SECONDS)
    running.wait_until(lambda: running.config()["sidecars"]["authz"]["state"]["open_streams"])
    running.signal(signal.SIGTERM)
    assert reply.result() == b"in order"
    assert running.wait_for_exit() == 0


def test_health_watchers_learn_of_the_end_before_the_process_stops_serving(
    tmp_path: Path, policy: Path
) -> None:
    drain = {"drain_delay_seconds": 2, "grace_seconds": 10}
    with (
        Running(tmp_path, {"authz": probe_section(tmp_path), "drain": drain}) as running,
        connect(f"unix:{tmp_path}/s") as channel,
    ):
        running.wait_until_ready()
        watch = channel.unary_stream(WATCH)(health(), timeout=WAIT_SECONDS)
        unknown = channel.unary_stream(WATCH)(health("no.Such"), timeout=WAIT_SECONDS)
        assert status(next(watch)) == "SERVING"
        assert status(next(unknown)) == "SERVICE_UNKNOWN"
        running.signal(signal.SIGTERM)
        assert status(next(watch)) == "NOT_SERVING"
        assert call(channel, ANSWER) == b"one"  # announced, and still at work
        assert running.get("/readyz") == (503, "draining\n")
        assert list(watch) == []
        assert list(unknown) == []
        assert watch.code() is grpc.StatusCode.OK
        assert running.wait_for_exit() == 0


def test_an_unknown_service_is_not_found(lasting_channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(lasting_channel, CHECK, health("no.Such"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_malformed_health_check_is_an_invalid_argument(lasting_channel: Any) -> None:
    for method in (lasting_channel.unary_unary(CHECK), lasting_channel.unary_stream(WATCH)):
        with pytest.raises(grpc.RpcError) as caught:
            list(method(b"\xff", timeout=WAIT_SECONDS))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_second_signal_ends_the_process_at_once(running: Running, channel: Any, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    reply = channel.unary_unary(SLOW).future(str(hold).encode(), timeout=WAIT_SECONDS)
    running.wait_until(lambda: running.config()["sidecars"]["authz"]["state"]["open_streams"])
    running.signal(signal.SIGTERM)
    running.wait_until(lambda: "draining" in running.events())
    running.signal(signal.SIGTERM)
    assert running.wait_for_exit() == 1
    assert isinstance(reply.exception(), grpc.RpcError)


def test_a_call_that_never_ends_is_cut_off_after_the_grace(tmp_path: Path, policy: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    drain = {"drain_delay_seconds": 0, "grace_seconds": 0.2}
    with (
        Running(tmp_path, {"authz": probe_section(tmp_path), "drain": drain}) as running,
        connect(f"unix:{tmp_path}/s") as channel,
    ):
        running.wait_until_ready()
        reply = channel.unary_unary(SLOW).future(str(hold).encode(), timeout=WAIT_SECONDS)
        running.wait_until(lambda: running.config()["sidecars"]["authz"]["state"]["open_streams"])
        running.signal(signal.SIGTERM)
        assert running.wait_for_exit() == 0
        assert isinstance(reply.exception(), grpc.RpcError)


def test_a_sidecar_that_hangs_cannot_keep_the_process_alive(tmp_path: Path, policy: Path) -> None:
    """A thread in a system call outlives every cancellation; the interpreter would wait for it forever."""
    drain = {"drain_delay_seconds": 0, "grace_seconds": 0, "flush_seconds": 0}
    environ = {"PROBE_HANGS": "1"}
    with Running(tmp_path, {"authz": probe_section(tmp_path), "drain": drain}, environ=environ) as running:
        running.wait_until_ready().signal(signal.SIGTERM)
        assert running.wait_for_exit() == 1


def test_systemd_learns_of_every_stage(tmp_path: Path, policy: Path) -> None:
    """sd_notify(3), and RELOADING with its time as Type=notify-reload wants it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(WAIT_SECONDS)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}

        def until(line: str) -> list[str]:
            for _ in range(1000):
                lines = systemd.recv(4096).decode().splitlines()
                if line in lines:
                    return lines
            raise AssertionError(f"{line} never came")

        with Running(tmp_path, {"authz": probe_section(tmp_path)}, environ=environ) as running:
            until("READY=1")
            until("WATCHDOG=1")
            until("WATCHDOG=1")
            running.signal(signal.SIGHUP)
            assert any(line.startswith("MONOTONIC_USEC=") for line in until("RELOADING=1"))
            until("READY=1")
            running.signal(signal.SIGTERM)
            until("STOPPING=1")
            assert running.wait_for_exit() == 0
