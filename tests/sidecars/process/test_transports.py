"""The settings of our own transport: what they hold, what they refuse, and that a process keeps to them."""

import dataclasses
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import pytest

from common.configfile import ConfigError
from sidecars.settings.load import load_settings
from sidecars.settings.per_worker import for_worker
from sidecars.settings.root import Settings
from sidecars.transport.api.address import TcpAddress, TlsSettings, UnixAddress
from sidecars.transport.api.limits import Lifetime, Limits, Rate
from sidecars.transport.http2.errors import Reason
from tests.support.authority import Authority
from tests.support.free_ports import free_port
from tests.support.running import ANSWER, WAIT_SECONDS, Running, call, connect

TLS = "{cert_file: s.pem, key_file: s.key, client_ca_file: c.pem, reload_seconds: 3}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sidecars.yaml"


def load(file: Path, text: str) -> Settings:
    file.write_text(text)
    return load_settings(file, {})


def problems(file: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    return str(caught.value).replace(f"{file}:", "").splitlines()


def authz(listen: str) -> str:
    return f"authz:\n  policy: [policy.yaml]\n  listen:\n  - {listen}\n"


class TestLimits:
    @pytest.mark.parametrize(
        ("section", "values"), [("Limits", Limits), ("Lifetime", Lifetime), ("Rate", Rate)]
    )
    def test_every_limit_of_the_transport_is_a_setting_that_says_why(self, section: str, values: Any) -> None:
        schema = Settings.model_json_schema()["$defs"][section]
        assert list(schema["properties"]) == [field.name for field in dataclasses.fields(values)]
        assert all(prop["description"] for prop in schema["properties"].values())
        assert schema["additionalProperties"] is False

    def test_what_is_not_set_is_as_the_transport_has_it(self, file: Path) -> None:
        connections = load(file, "").connections
        assert connections.limits == Limits()
        assert connections.lifetime == Lifetime()

    def test_what_is_set_reaches_the_transport(self, file: Path) -> None:
        connections = load(
            file,
            "connections:\n"
            "  limits: {max_message_bytes: 2048, resets: {burst: 5, per_second: 0.5}}\n"
            "  lifetime: {max_age_seconds: 60, keepalive_seconds: null}\n",
        ).connections
        expected = dataclasses.replace(Limits(), max_message_bytes=2048, resets=Rate(5, 0.5))
        assert connections.limits == expected
        assert connections.lifetime == Lifetime(keepalive_seconds=None, max_age_seconds=60)

    def test_values_that_cannot_work_are_refused(self, file: Path) -> None:
        text = (
            "connections:\n  limits:\n    max_streams: 5\n    message_timeout_seconds: -1\n"
            "  lifetime:\n    max_age_jitter: 2\n"
        )
        assert problems(file, text) == [
            "3: connections.limits.max_streams: unknown key; did you mean 'max_concurrent_streams'?",
            "4: connections.limits.message_timeout_seconds: expected more than 0, not -1",
            "6: connections.lifetime.max_age_jitter: expected at most 0.9, not 2",
        ]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("limits: {resets: {burst: 5, per_minute: 1}}", "resets.per_minute: unknown key"),
            ("limits: {resets: {burst: 0, per_second: 1}}", "resets.burst: expected at least 1, not 0"),
            ("limits: {resets: {per_second: 1}}", "resets.burst: is required"),
            ("limits: {resets: 5}", "resets: expected keys and values, not 5"),
            ("limits: [1]", "limits: expected keys and values, not a list"),
            ("limits: {max_connections: many}", "expected a whole number, not 'many'"),
            (
                "lifetime: {max_age: 5}",
                "lifetime.max_age: unknown key; did you mean 'max_age_jitter'?",
            ),
        ],
    )
    def test_each_wrong_value_is_named(self, file: Path, text: str, problem: str) -> None:
        found = problems(file, f"connections:\n  {text}\n")
        assert all(line.startswith("2: connections.") for line in found)
        assert problem in "\n".join(found)

    def test_the_environment_overrides_one_limit(self, file: Path) -> None:
        file.write_text("connections: {limits: {max_connections: 5}}\n")
        environ = {
            "SIDECARS_CONNECTIONS__LIMITS__RESETS__BURST": "7",
            "SIDECARS_CONNECTIONS__LIMITS__RESETS__PER_SECOND": "3",
            "SIDECARS_CONNECTIONS__LIFETIME__MAX_AGE_SECONDS": "60",
        }
        connections = load_settings(file, environ).connections
        assert connections.limits == Limits(max_connections=5, resets=Rate(7, 3))
        assert connections.lifetime == Lifetime(max_age_seconds=60)

    def test_a_wrong_limit_in_the_environment_names_its_variable(self, file: Path) -> None:
        file.write_text("")
        with pytest.raises(ConfigError, match=r"SIDECARS_CONNECTIONS__LIMITS__MAX_CONNECTIONS: .*not '?0"):
            load_settings(file, {"SIDECARS_CONNECTIONS__LIMITS__MAX_CONNECTIONS": "0"})

    def test_settings_are_shown_as_they_are_written(self, file: Path) -> None:
        shown = load(file, "connections: {limits: {max_connections: 5}}\n").model_dump(mode="json")
        assert shown["connections"]["limits"] == dataclasses.asdict(Limits(max_connections=5))
        assert Settings.model_validate(shown).connections.limits == Limits(max_connections=5)

    def test_a_message_larger_than_what_may_be_held_is_refused(self, file: Path) -> None:
        """Its window would shut half-way, and stay shut until the message is too old."""
        (problem,) = problems(file, "connections: {limits: {max_message_bytes: 20000000}}\n")
        assert "max_held_bytes (16777216) is less than max_message_bytes (20000000)" in problem


class TestTrust:
    @pytest.mark.parametrize(
        ("listen", "trusted", "trusts"),
        [
            ("127.0.0.1:1", None, False),
            ("{address: '127.0.0.1:1', trusted: true}", True, True),
            ("{address: 'unix:/run/a', trusted: false}", False, False),
            (f"{{address: '127.0.0.1:1', tls: {TLS}}}", None, True),
            (f"{{address: '127.0.0.1:1', tls: {TLS}, trusted: false}}", False, False),
        ],
    )
    def test_each_address_says_whom_it_trusts(
        self, file: Path, listen: str, trusted: bool | None, trusts: bool
    ) -> None:
        settings = load(file, "workers: 1\n" + authz(listen))
        section = for_worker(settings, 0).authz
        assert section is not None
        (address,) = section.listen
        assert (address.trusted, address.trusts_peers) == (trusted, trusts)
        (shown,) = settings.model_dump(mode="json")["authz"]["listen"]
        assert (shown.get("trusted") if isinstance(shown, dict) else None) is trusted

    def test_grpcio_knows_no_trust(self, file: Path) -> None:
        text = authz("{address: '127.0.0.1:1', trusted: true}")
        assert problems(file, f"transport: grpcio\n{text}") == [
            "5: authz.listen[0].trusted: needs `transport: native`: grpcio trusts no peer"
        ]

    def test_the_absolute_cap_is_not_below_the_cap(self, file: Path) -> None:
        text = "connections:\n  limits: {max_header_list_bytes: 100000}\n"
        (problem,) = problems(file, text)
        assert "absolute_max_header_list_bytes (65536) is less than max_header_list_bytes (100000)" in problem


class TestTls:
    def test_each_address_may_have_its_own(self, file: Path) -> None:
        section = load(file, f"{authz('127.0.0.1:1')}  - {{address: 'unix:/run/a', tls: {TLS}}}\n").authz
        assert section is not None
        plain, secured = section.listen
        folder = file.parent
        assert plain.tls is None
        assert secured == UnixAddress("/run/a")
        assert secured.tls == TlsSettings(folder / "s.pem", folder / "s.key", folder / "c.pem", 3)

    def test_an_address_may_be_written_as_a_mapping_without_it(self, file: Path) -> None:
        section = load(file, authz("{address: '127.0.0.1:1'}")).authz
        assert section is not None
        assert section.listen == (TcpAddress("127.0.0.1", 1),)
        assert section.listen[0].tls is None

    def test_what_is_wrong_is_found_at_its_line(self, file: Path) -> None:
        text = authz("address: nonsense\n    tls:\n      cert_fiel: x\n      key_file: y")
        assert problems(file, text) == [
            "4: authz.listen[0].address: 'nonsense': expected HOST:PORT (0-65535), unix:PATH or unix:@NAME",
            "5: authz.listen[0].tls.cert_file: is required",
            "6: authz.listen[0].tls.cert_fiel: unknown key; did you mean 'cert_file'?",
        ]

    def test_a_bad_address_alone_is_reported_as_before(self, file: Path) -> None:
        (problem,) = problems(file, authz("nonsense"))
        assert problem.startswith("4: authz.listen[0]: 'nonsense': expected HOST:PORT")

    def test_the_admin_server_has_none(self, file: Path) -> None:
        (problem, *_) = problems(file, f"admin: {{listen: {{address: '127.0.0.1:1', tls: {TLS}}}}}\n")
        assert "admin.listen" in problem

    def test_workers_keep_it(self, file: Path) -> None:
        listen = f"{{address: '127.0.0.1:5000', tls: {TLS}}}"
        settings = load(file, "workers: 2\n" + authz(listen))
        section = for_worker(settings, 1).authz
        assert section is not None
        assert section.listen == (TcpAddress("127.0.0.1", 5001),)
        assert section.listen[0].tls is not None

    def test_the_settings_show_its_files(self, file: Path) -> None:
        settings = load(file, authz(f"{{address: '127.0.0.1:1', tls: {TLS}}}"))
        (shown,) = settings.model_dump(mode="json")["authz"]["listen"]
        assert shown["address"] == "127.0.0.1:1"
        assert shown["tls"]["cert_file"] == str(file.parent / "s.pem")

    def test_the_schema_knows_both_ways_to_write_an_address(self) -> None:
        schema = Settings.model_json_schema()
        tls = {"cert_file": "a", "key_file": "b"}
        for listen in ("127.0.0.1:1", {"address": "127.0.0.1:1", "tls": tls}):
            jsonschema.validate({"authz": {"listen": [listen], "policy": ["p"]}}, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"authz": {"listen": [{"tls": tls}], "policy": ["p"]}}, schema)


class TestGrpcio:
    def test_tls_is_refused_and_not_left_out(self, file: Path) -> None:
        text = "transport: grpcio\n" + authz(f"{{address: '127.0.0.1:1', tls: {TLS}}}")
        assert problems(file, text) == [
            "5: authz.listen[0].tls: needs `transport: native`: grpcio is served without TLS"
        ]

    def test_a_limit_that_it_does_not_know_is_refused(self, file: Path) -> None:
        text = (
            "transport: grpcio\nconnections:\n  limits: {max_connections: 5}\n  lifetime: {max_age_jitter: 0}"
        )
        assert problems(file, text) == [
            "3: connections.limits.max_connections: needs `transport: native`: grpcio does not know it",
            "4: connections.lifetime.max_age_jitter: needs `transport: native`: grpcio does not know it",
        ]

    def test_those_that_it_knows_are_its_own(self, file: Path, tmp_path: Path) -> None:
        load(file, "transport: grpcio\nconnections: {limits: {max_message_bytes: 2048}}\n")


def settings(folder: Path, listen: Any, **connections: Any) -> dict[str, Any]:
    (folder / "policy.yaml").write_text("answer: one\n")
    return {"authz": {"listen": [listen], "policy": ["policy.yaml"]}, "connections": connections}


@pytest.fixture(params=["native", "grpcio"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """A process whose messages have at most 2 KB."""
    whole = settings(tmp_path, f"unix:{tmp_path}/s", limits={"max_message_bytes": 2048})
    with Running(tmp_path, {"transport": request.param, **whole}) as running:
        yield running.wait_until_ready()


def test_a_process_keeps_to_the_largest_message_of_its_settings(small: Running) -> None:
    with connect(f"unix:{small.folder}/s") as channel:
        assert call(channel, ANSWER, bytes(2048)) == b"one"
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, ANSWER, bytes(2049))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_process_serves_our_own_transport_unless_told_otherwise(tmp_path: Path) -> None:
    with Running(tmp_path, settings(tmp_path, f"unix:{tmp_path}/s")) as running:
        page = running.wait_until_ready().get("/metrics")[1]
    assert 'transport="native"' in page


def test_a_process_serves_tls_and_knows_its_clients(tmp_path: Path) -> None:
    servers, clients = Authority("servers"), Authority("clients")
    server, client = servers.sign("server"), clients.sign("envoy")
    for name, content in {
        "s.pem": server.certificate,
        "s.key": server.key,
        "c.pem": clients.certificate,
    }.items():
        (tmp_path / name).write_bytes(content)
    target = f"localhost:{free_port()}"
    tls = {"cert_file": "s.pem", "key_file": "s.key", "client_ca_file": "c.pem"}
    listen = {"address": target.replace("localhost", "127.0.0.1"), "tls": tls}
    with Running(tmp_path, settings(tmp_path, listen)) as running:
        running.wait_until_ready()
        known = grpc.ssl_channel_credentials(servers.certificate, client.key, client.certificate)
        with grpc.secure_channel(target, known) as channel:
            assert call(channel, ANSWER) == b"one"
        unknown = grpc.ssl_channel_credentials(servers.certificate)
        with grpc.secure_channel(target, unknown) as channel:
            ask: Any = channel.unary_unary(ANSWER)
            with pytest.raises(grpc.RpcError):
                ask(b"", timeout=WAIT_SECONDS)


def test_tls_files_that_do_not_load_end_the_start_and_are_named(tmp_path: Path) -> None:
    listen = {"address": "127.0.0.1:0", "tls": {"cert_file": "none.pem", "key_file": "none.key"}}
    with Running(tmp_path, settings(tmp_path, listen)) as running:
        assert running.wait_for_exit() != 0
    assert "none.pem" in running.stderr


def test_what_happens_on_connections_is_counted_and_logged(tmp_path: Path) -> None:
    """One counter by reason, one log line."""
    with Running(tmp_path, settings(tmp_path, f"unix:{tmp_path}/s")) as running:
        running.wait_until_ready()
        for reason in Reason:
            assert (
                running.metric(f'sidecars_transport_peer_errors_total{{reason="{reason}",sidecar="authz"}}')
                == 0
            )
        with connect(f"unix:{tmp_path}/s") as channel:
            call(channel, ANSWER)
            assert running.metric('sidecars_transport_connections_open{sidecar="authz"}') == 1
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as rude:
                rude.connect(f"{tmp_path}/s")
                rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert rude.recv(1000)
        open_now = 'sidecars_transport_connections_open{sidecar="authz"}'
        running.wait_until(lambda: running.metric(open_now) == 0)
        expected = {
            'sidecars_transport_connections_opened_total{sidecar="authz"}': 4,
            'sidecars_transport_connections_closed_total{sidecar="authz"}': 4,
            'sidecars_transport_streams_open{sidecar="authz"}': 0,
            'sidecars_transport_tls_last_reload_failed{sidecar="authz"}': 0,
            'sidecars_transport_peer_errors_total{reason="bad_preface",sidecar="authz"}': 3,
            'sidecars_transport_goaways_sent_total{code="PROTOCOL_ERROR",sidecar="authz"}': 3,
        }
        assert {name: running.metric(name) for name in expected} == expected
        lines = [line for line in running.log if line["event"] == "connection ended"]
    assert 1 <= len(lines) <= 3
    assert lines[0]["reason"] == "bad_preface"


def test_tls_files_that_are_refused_show_as_a_state(tmp_path: Path) -> None:
    signed = Authority("servers").sign("server")
    certificate, key = tmp_path / "s.pem", tmp_path / "s.key"
    certificate.write_bytes(signed.certificate)
    key.write_bytes(signed.key)
    tls = {"cert_file": "s.pem", "key_file": "s.key", "reload_seconds": 0.1}
    whole = settings(tmp_path, {"address": "127.0.0.1:0", "tls": tls})
    name = 'sidecars_transport_tls_last_reload_failed{sidecar="authz"}'
    with Running(tmp_path, whole) as running:
        running.wait_until_ready()
        assert running.metric(name) == 0
        expiry = 'sidecars_transport_tls_expiry_timestamp_seconds{file="%s",sidecar="authz"}'
        assert running.metric(expiry % certificate) == pytest.approx(time.time() + 86_400, abs=60)
        assert running.metric("sidecars_clock_timestamp_seconds") == pytest.approx(time.time(), abs=60)
        certificate.write_bytes(b"no certificate")
        running.wait_until(lambda: running.metric(name) == 1)
        certificate.write_bytes(signed.certificate)
        running.wait_until(lambda: running.metric(name) == 0)


def test_a_connection_ends_at_the_age_of_the_settings(tmp_path: Path) -> None:
    whole = settings(tmp_path, f"unix:{tmp_path}/s", lifetime={"max_age_seconds": 0.2})
    with Running(tmp_path, whole) as running, connect(f"unix:{tmp_path}/s") as channel:
        running.wait_until_ready()
        call(channel, ANSWER)
        name = 'sidecars_transport_goaways_sent_total{code="NO_ERROR",sidecar="authz"}'
        running.wait_until(lambda: running.metric(name))
        assert call(channel, ANSWER) == b"one"
