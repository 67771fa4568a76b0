"""`python -m bench probe` and `compare` measure servers of others."""

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.compare import ComparePlan, Peer, parse_peer, run
from bench.tools.edge_requests import Issuer, Population
from bench.tools.listener import listener_pid
from bench.tools.load import LoadError
from bench.tools.log_messages import ENTRIES, log_messages
from bench.tools.probe import Questions, Target, parse_target, requests_of
from bench.tools.processes import free_port, python_server
from protos.accesslog_pb2 import StreamAccessLogsMessage


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://127.0.0.1:10000", Target("127.0.0.1", 10000, "/")),
        ("http://edge/a/b?c=d", Target("edge", 80, "/a/b?c=d")),
        ("http://[::1]:81/x", Target("::1", 81, "/x")),
    ],
)
def test_a_url_names_a_listener(url: str, target: Target) -> None:
    assert parse_target(url) == target


@pytest.mark.parametrize("url", ["https://edge/", "edge:80", "http://", "http://edge:99999/"])
def test_a_url_that_cannot_be_probed_is_refused(url: str) -> None:
    with pytest.raises(LoadError, match=url.partition(":")[0]):
        parse_target(url)


def test_every_path_is_sent_with_every_token() -> None:
    target = Target("edge", 80, "/")
    requests = list(requests_of(target, Questions(["/a", "/b"], ["X-Tenant: acme"], ["t1", "t2"])))
    assert len(set(requests)) == 4
    assert requests[0] == (
        b"GET /a HTTP/1.1\r\nhost: edge:80\r\nX-Tenant: acme\r\nauthorization: Bearer t1\r\n\r\n"
    )
    (plain,) = requests_of(target, Questions(headers=["Host: api.example.com"]))
    assert plain == b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n"


@pytest.mark.parametrize(
    "questions",
    [
        Questions(paths=["a"]),
        Questions(paths=["/a b"]),
        Questions(headers=["no colon"]),
        Questions(headers=["a: b\r\nc: d"]),
    ],
)
def test_a_request_that_cannot_be_sent_is_refused(questions: Questions) -> None:
    with pytest.raises(LoadError):
        list(requests_of(Target("edge", 80, "/"), questions))


def test_probe_shows_what_the_filters_add(tmp_path: Path) -> None:
    file = tmp_path / "probe.json"
    with python_server("bench.tools.static_upstream") as (_, port):
        urls = ["--envoy", f"http://127.0.0.1:{port}/a", "--without", f"http://127.0.0.1:{port}/b"]
        options = ["--rate", "100", "--seconds", "0.3", "--rounds", "2", "--json", str(file)]
        result = CliRunner().invoke(app, ["probe", *urls, *options])
    assert result.exit_code == 0, result.output
    assert "load_added_p99_us" in result.output
    content = orjson.loads(file.read_bytes())
    assert len(content["rounds"]["load_filters_p99_us"]) == 2
    assert set(content["details"]["latency"]["load"]) == {"filters", "none"}


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--envoy", "https://edge/"], 2, "https://edge/"),
        (["--envoy", "http://127.0.0.1:{port}", "--rate", "0"], 2, "per_second"),
        (["--envoy", "http://127.0.0.1:{port}", "--header", "x"], 2, "name: value"),
        (["--envoy", "http://127.0.0.1:{port}", "--tokens", "/no/such/file"], 2, "/no/such/file"),
        (["--envoy", "http://127.0.0.1:{port}", "--rate", "10", "--seconds", "0.2"], 1, "refused"),
    ],
)
def test_probe_says_what_is_wrong(options: list[str], code: int, said: str) -> None:
    port = free_port()
    result = CliRunner().invoke(app, ["probe", *(option.format(port=port) for option in options)])
    assert result.exit_code == code, result.output
    assert said in result.output


def test_the_process_of_a_port_is_found() -> None:
    with python_server("bench.tools.static_upstream") as (process, port):
        assert listener_pid(port) == process.pid
    assert listener_pid(free_port()) is None


@pytest.mark.parametrize(
    "text", ["opa", "opa=127.0.0.1", "OPA=127.0.0.1:1", "ours=127.0.0.1:1", "=x:1", "a=:1"]
)
def test_a_peer_that_cannot_be_found_is_refused(text: str) -> None:
    with pytest.raises(LoadError, match="NAME=HOST:PORT"):
        parse_peer(text)


def test_a_peer_has_a_name_and_an_address() -> None:
    assert parse_peer("opa=127.0.0.1:9191") == Peer("opa", "127.0.0.1", 9191)


@pytest.mark.timeout(180)
def test_a_peer_is_measured_next_to_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.compare.QUICK", ComparePlan(2, 0.2, 0.1, Population(10, 100)))
    with python_server("bench.tools.noop_server", "native") as (process, port):
        measured = run(
            quick=True, say=lambda _: None, peer=[f"noop=127.0.0.1:{port}"], service="authz", folder=tmp_path
        )
        assert process.poll() is None
    figures = measured.figures
    for key in ("ratio_noop_rps", "ratio_noop_cpu", "ratio_noop_one_p50", "noop_cpu_us", "ours_p99_us"):
        value = figures[key]
        assert isinstance(value, float)
        assert value > 0
    assert len(measured.rounds["noop_rps"]) == 2
    assert not [note for note in measured.notes if "failed" in note]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("service", ["ratelimit", "accesslog"])
def test_the_other_services_can_be_compared_too(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.compare.QUICK", ComparePlan(1, 0.2, 0.1, Population(10, 100)))
    measured = run(quick=True, say=lambda _: None, service=service)
    assert isinstance(measured.figures["ours_rps"], float)
    assert not [note for note in measured.notes if "failed" in note or "refuse" in note]


def test_a_peer_of_another_service_is_an_error() -> None:
    with python_server("bench.tools.noop_server", "native") as (_, port):
        peers = [f"noop=127.0.0.1:{port}"]
        with pytest.raises(LoadError, match=rf"noop at 127\.0\.0\.1:{port} does not answer"):
            run(quick=True, say=lambda _: None, peer=peers, service="ratelimit")
        options = ["--service", "ratelimit", "--peer", "nonsense"]
        result = CliRunner().invoke(app, ["compare", *options])
    assert result.exit_code == 1
    assert "NAME=HOST:PORT" in result.output


def test_the_key_of_the_tokens_is_kept_and_secret(tmp_path: Path) -> None:
    Issuer(tmp_path)
    first = (tmp_path / "keys.json").read_bytes()
    Issuer(tmp_path)
    assert (tmp_path / "keys.json").read_bytes() == first
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0


def test_log_messages_have_as_many_entries_as_those_of_envoy() -> None:
    messages = list(log_messages(3))
    parsed = [StreamAccessLogsMessage.FromString(message) for message in messages]
    assert all(len(message.http_logs.log_entry) == ENTRIES for message in parsed)
    paths = {entry.request.path for message in parsed for entry in message.http_logs.log_entry}
    assert len(paths) == 3 * ENTRIES
    assert min(map(len, messages)) > 300 * ENTRIES
