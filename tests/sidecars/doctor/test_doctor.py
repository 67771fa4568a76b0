"""The doctor at a real suite, with a real Envoy and a real Redis, in good health and with faults."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecars.demo.envoy import find_envoy, scripts_folder, serve_envoy
from sidecars.doctor import sockets
from sidecars.doctor.checks import findings
from sidecars.doctor.finding import Finding
from sidecars.doctor.redis import check_redis
from sidecars.doctor.redis_rights import RedisUses
from sidecars.settings.load import read_settings
from sidecars.settings.root import Settings
from sidecars.transport.api.address import UnixAddress
from tests.support.authority import Authority, Pair
from tests.support.command import Command
from tests.support.redis_server import RedisServer, redis_server
from tests.support.redis_topologies import (
    RedisCluster,
    Sentinels,
    _session_cluster,
    _session_sentinels,
    redis_cluster,
    shared_sentinels,
)
from tests.support.running import SIDECARS, Running

__all__ = ["_session_cluster", "_session_sentinels", "redis_cluster", "redis_server", "shared_sentinels"]

ROOT = Path(__file__).parents[3]
POLICY = "rules: [{name: all, paths: [/], allow: anyone}]\n"
LIMITS = "domain: edge\ndescriptors: [{key: path, rate_limit: {unit: minute, requests_per_unit: 3}}]\n"
Change = Callable[[dict[str, Any]], None]


@contextmanager
def suite(folder: Path, **more: Any) -> Iterator[Running]:
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "limits.yaml").write_text(LIMITS)
    settings = {
        "authz": {"listen": [f"unix:{folder}/authz"], "policy": ["policy.yaml"]},
        "ratelimit": {"listen": [f"unix:{folder}/ratelimit"], "limits": ["limits.yaml"], "store": "memory"},
        "accesslog": {
            "listen": [f"unix:{folder}/accesslog"],
            "sinks": [{"type": "file", "path": f"{folder}/access.jsonl"}],
        },
    }
    with Running(folder, {**settings, **more}, program=SIDECARS) as running:
        yield running.wait_until_ready()


def shipped(folder: Path) -> dict[str, Any]:
    """The Envoy configuration of envoy-test with free ports and the sockets in `folder`."""
    configuration: dict[str, Any] = yaml.safe_load((ROOT / "envoy-test" / "envoy.yaml").read_text())
    resources = configuration["static_resources"]
    for listener in resources["listeners"]:
        listener["address"]["socket_address"]["port_value"] = 0
    for cluster in resources["clusters"]:
        if cluster["name"] != "upstream":
            [host] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            host["endpoint"]["address"] = {"pipe": {"path": f"{folder}/{cluster['name']}"}}
    return configuration


def manager(configuration: dict[str, Any]) -> dict[str, Any]:
    listener = configuration["static_resources"]["listeners"][0]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def filters(configuration: dict[str, Any]) -> list[dict[str, Any]]:
    return [one["typed_config"] for one in manager(configuration)["http_filters"]]


async def found_in(running: Running, envoy: UnixAddress | None = None) -> list[Finding]:
    return [finding async for finding in findings(read_settings(running.file, {}), envoy)]


async def found_with_envoy(running: Running, configuration: dict[str, Any]) -> list[Finding]:
    folder = running.folder / "envoy"
    folder.mkdir(exist_ok=True)
    program = find_envoy(os.environ, scripts_folder())
    async with serve_envoy(program, configuration, folder, [running.folder]) as envoy:
        return await found_in(running, UnixAddress(str(envoy.admin_socket)))


def bad(found: list[Finding]) -> dict[str, str]:
    """What is not ok, by check: level and what was seen."""
    assert all(finding.fix for finding in found if finding.level != "ok")
    return {f"{one.level} {one.check}": one.seen for one in found if one.level != "ok"}


def seen(found: list[Finding], *texts: str) -> None:
    """Assert that each text is in the line of a finding that is not ok."""
    lines = [f"{one.level} {one.check}: {one.seen}" for one in found if one.level != "ok"]
    for text in texts:
        assert any(text in line for line in lines), f"no line has {text!r}: {lines}"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("d")  # a unix socket path has at most 107 bytes


@pytest.mark.envoy
async def test_the_shipped_configuration_has_no_findings(folder: Path) -> None:
    with suite(folder) as running:
        (folder / "access.jsonl").chmod(0o640)
        assert bad(await found_with_envoy(running, shipped(folder))) == {}


@pytest.mark.envoy
async def test_an_envoy_with_wrong_settings_has_a_line_for_each(folder: Path) -> None:
    configuration = shipped(folder)
    http = manager(configuration)
    ext_authz, ratelimit, _ = filters(configuration)
    ext_authz["failure_mode_allow"] = True
    ext_authz["grpc_service"]["timeout"] = "0.005s"
    ext_authz["with_request_body"] = {"max_request_bytes": 8192}
    del ext_authz["grpc_service"]["retry_policy"]
    ratelimit["failure_mode_deny"] = True
    ratelimit["domain"] = "edgy"
    ratelimit["rate_limit_service"]["grpc_service"]["retry_policy"]["retry_on"] = "unavailable"
    del http["always_set_request_id_in_response"]
    http["generate_request_id"] = False
    http["xff_num_trusted_hops"] = 1
    log = http["access_log"][0]["typed_config"]["common_config"]
    log["buffer_size_bytes"] = 100
    del log["grpc_stream_retry_policy"]
    route = http["route_config"]["virtual_hosts"][0]["routes"][0]
    route["typed_per_filter_config"]["envoy.filters.http.ext_authz"] = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        "disabled": True,
    }
    del route["typed_per_filter_config"]["envoy.filters.http.ratelimit"]
    http["route_config"]["virtual_hosts"][0]["routes"][1]["typed_per_filter_config"] = {
        name: {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
        for name in ("envoy.filters.http.ext_authz", "envoy.filters.http.ratelimit")
    }
    for cluster in configuration["static_resources"]["clusters"]:
        if cluster["name"] == "authz":
            del cluster["circuit_breakers"], cluster["typed_extension_protocol_options"]
    with suite(folder) as running:
        found = await found_with_envoy(running, configuration)
    seen(
        found,
        "fail envoy listener edge ext_authz: failure_mode_allow is true: requests pass unchecked",
        "warn envoy listener edge ext_authz: grpc_service.timeout is 0.005s",
        "warn envoy listener edge ext_authz: grpc_service.retry_policy is not set",
        "warn envoy listener edge ext_authz: with_request_body.pack_as_bytes is not set",
        "warn envoy listener edge ratelimit: failure_mode_deny is true",
        "fail envoy listener edge ratelimit: domain is edgy, and there are limits for edge",
        "retry_policy.retry_on is unavailable: a call that is sent again counts its hits twice",
        "warn envoy listener edge: always_set_request_id_in_response is not set: a client that gets a 429",
        "fail envoy listener edge: generate_request_id is false",
        "fail envoy listener edge: xff_num_trusted_hops is 1, authz.trusted_hops is 0",
        "warn envoy listener edge access log edge: common_config.buffer_size_bytes is 100",
        "warn envoy listener edge access log edge: common_config.grpc_stream_retry_policy is not set",
        "warn envoy ext_authz routes: turned off for route login, route default",
        "warn envoy ratelimit routes: turned off for route default",
        "warn envoy ratelimit routes: the limits of the virtual host do not apply to route login",
        "fail envoy cluster authz: does not speak HTTP/2",
        "warn envoy cluster authz: max_requests is 1024",
        "warn envoy cluster authz: max_retries is 3",
    )


@pytest.mark.envoy
async def test_an_envoy_that_asks_elsewhere_or_not_at_all_has_a_line(folder: Path) -> None:
    configuration = shipped(folder)
    _, ratelimit, router = manager(configuration)["http_filters"]
    manager(configuration)["http_filters"] = [{**ratelimit, "disabled": True}, router]
    for cluster in configuration["static_resources"]["clusters"]:
        if cluster["name"] == "ratelimit":
            [host] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            host["endpoint"]["address"] = {"pipe": {"path": f"{folder}/elsewhere"}}
    with suite(folder) as running:
        found = await found_with_envoy(running, configuration)
    seen(
        found,
        "fail envoy authz: no listener asks it",
        "warn envoy listener edge envoy.filters.http.ratelimit: disabled: only the routes that enable it",
        f"warn envoy cluster ratelimit: has unix:{folder}/elsewhere, and ratelimit listens on unix:{folder}",
    )


async def test_a_stopped_process_fails_at_each_address_and_at_the_admin_port(folder: Path) -> None:
    with suite(folder) as running:
        running.signal(signal.SIGTERM)
        running.wait_for_exit()
        found = await found_in(running)
    for name in ("authz", "ratelimit", "accesslog"):
        seen(found, f"fail {name} unix:{folder}/{name}: no such file or folder")
    seen(found, "fail admin ", "warn envoy: not checked")


async def test_a_process_that_hangs_is_said_to_hang(folder: Path) -> None:
    with suite(folder) as running:
        running.signal(signal.SIGSTOP)
        try:
            found = await found_in(running)
        finally:
            running.signal(signal.SIGCONT)
    seen(found, "fail authz ", "does not answer within 2 s: it hangs", "fail admin ", "no answer within")


async def test_a_refused_reload_is_a_failure_that_names_the_line(folder: Path) -> None:
    with suite(folder) as running:
        (folder / "policy.yaml").write_text("rules: [{name: all, paths: [/], nonsense: 1, allow: anyone}]\n")
        running.wait_until(lambda: running.config()["sidecars"]["authz"]["last_reload"])
        found = await found_in(running)
    seen(found, "fail authz reload: refused the files at ", "policy.yaml:1", "fail policy: ")


async def test_workers_that_do_not_answer_have_a_line(folder: Path) -> None:
    listen = {"listen": [f"unix:{folder}/{{worker}}.authz"], "policy": ["policy.yaml"]}
    with suite(folder, workers=2, authz=listen, ratelimit=None, accesslog=None) as running:
        pid = running.config()["workers"][1]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            found = await found_in(running)
        finally:
            os.kill(pid, signal.SIGCONT)
    seen(found, f"fail authz unix:{folder}/1.authz: accepts connections", "fail worker 1: does not answer")
    [other] = [one for one in found if one.check == f"authz unix:{folder}/0.authz"]
    assert other.seen.startswith("serving")  # on a busy machine perhaps late


@pytest.mark.redis
async def test_a_redis_that_evicts_or_refuses_has_a_line(folder: Path, redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.execute_command(
            "ACL", "SETUSER", "weak", "on", ">secret", "+ping", "+info", "+select", "+time"
        )
    password = folder / "password"
    password.write_text("secret")
    password.chmod(0o644)
    limits = {"listen": [f"unix:{folder}/ratelimit"], "limits": ["limits.yaml"], "store": "redis"}
    redis = {"url": f"unix://{redis_server.socket}", "username": "weak", "password_file": str(password)}
    with suite(folder, redis=redis, ratelimit=limits) as running:
        found = await found_in(running)
    seen(
        found,
        "fail redis: maxmemory-policy is allkeys-lru",
        "fail redis rights: its user may not call evalsha (ratelimit), eval (ratelimit), get ",
        f"fail secret {password}: mode 0644: every user of this machine can read it",
    )
    assert {"redis latency", "redis clock"} <= {one.check for one in found if one.level == "ok"}


@pytest.mark.redis
async def test_a_redis_that_is_away_fails(folder: Path, redis_server: RedisServer) -> None:
    limits = {"listen": [f"unix:{folder}/ratelimit"], "limits": ["limits.yaml"], "store": "redis"}
    with suite(folder, redis={"url": f"unix://{redis_server.socket}"}, ratelimit=limits) as running:
        redis_server.stop()
        found = await found_in(running)
    seen(found, "fail redis: does not answer")


def test_the_command_prints_a_line_a_check_and_exits_by_what_fails(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "SLOW_MS", 10_000.0)  # a busy machine is slow
    command = Command(capsys)
    with suite(folder) as running:
        good = command("doctor", "--config", running.file)
        assert good.code == 0, good.out
        lines = good.out.splitlines()
        assert f"ok   authz unix:{folder}/authz: serving" in lines
        assert any(line.startswith("warn envoy: not checked; fix: name Envoy's admin") for line in lines)
        running.signal(signal.SIGTERM)
        running.wait_for_exit()
        stopped = command("doctor", "--config", running.file, "--json")
        assert stopped.code == 1
        assert '"level": "fail"' in stopped.out
    bad_address = command("doctor", "--config", running.file, "--envoy-admin", "http://127.0.0.1:9901")
    assert (bad_address.code, "expected 127.0.0.1:9901 (HOST:PORT)" in bad_address.err) == (2, True)
    running.file.write_text("authz: [\n")
    assert command("doctor", "--config", running.file).code == 2


@pytest.mark.redis
async def test_each_master_of_a_cluster_is_checked(redis_cluster: RedisCluster) -> None:
    first, *others = (server.port for server in redis_cluster.servers)
    nodes = [f"127.0.0.1:{port}" for port in others]
    settings = Settings.model_validate(
        {"redis": {"url": f"redis://127.0.0.1:{first}", "cluster": {"nodes": nodes}}}
    )
    found = [one async for one in check_redis(settings, "redis", RedisUses("ratelimit:"))]
    assert bad(found) == {}
    assert {one.check for one in found} >= {f"redis 127.0.0.1:{port} rights" for port in (first, *others)}


@pytest.mark.redis
async def test_the_master_that_sentinels_name_is_checked(shared_sentinels: Sentinels) -> None:
    settings = Settings(redis=shared_sentinels.settings())
    found = [
        one async for one in check_redis(settings, "redis", RedisUses("ratelimit:", "sidecars:session:"))
    ]
    assert bad(found) == {}
    assert "master" in found[0].seen


@pytest.mark.redis
def test_the_output_is_json_alone_though_the_parts_have_logs(
    folder: Path, shared_sentinels: Sentinels, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "sidecars.yaml"
    redis = shared_sentinels.settings().model_dump(mode="json", exclude_unset=True)
    file.write_text(yaml.safe_dump({"redis": redis, "admin": {"listen": f"unix:{folder}/admin"}}))
    result = Command(capsys)("doctor", "-c", file, "--json")
    levels = {one["check"]: one["level"] for one in json.loads(result.out)["findings"]}
    assert (levels["redis"], levels[f"admin unix:{folder}/admin"]) == ("ok", "fail")
    assert result.err == ""


def with_tls(folder: Path, pair: Pair, **more: str) -> dict[str, Any]:
    """The settings of authz with TLS."""
    files = {"cert_file": pair.certificate, "key_file": pair.key}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    tls = {name: str(folder / name) for name in files} | more
    return {"listen": [{"address": f"unix:{folder}/authz", "tls": tls}], "policy": ["policy.yaml"]}


async def test_the_health_of_an_address_with_tls_is_checked_whatever_its_certificate(folder: Path) -> None:
    with suite(folder, authz=with_tls(folder, Authority("edge").sign("authz"))) as running:
        lines = {one.check: one.seen for one in await found_in(running) if one.level != "fail"}
        assert lines[f"authz unix:{folder}/authz"].startswith("serving")  # late on a busy machine
        assert "authz certificate" in lines
        pid = running.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            found = await found_in(running)
        finally:
            os.kill(pid, signal.SIGCONT)
    seen(found, f"fail authz unix:{folder}/authz: no connection within 2 s")


@pytest.mark.parametrize(
    ("signer", "said"),
    [
        ("edge", "serving"),
        ("other", "accepts TLS connections and asks for a certificate; its own is not one"),
    ],
)
async def test_an_address_that_asks_for_certificates_is_shown_its_own(
    folder: Path, signer: str, said: str
) -> None:
    edge = Authority("edge")
    (folder / "clients").write_bytes(edge.certificate if signer == "edge" else Authority(signer).certificate)
    authz = with_tls(folder, edge.sign("authz"), client_ca_file=str(folder / "clients"))
    with suite(folder, authz=authz) as running:
        lines = {one.check: one.seen for one in await found_in(running) if one.level != "fail"}
    assert lines[f"authz unix:{folder}/authz"].startswith(said)
