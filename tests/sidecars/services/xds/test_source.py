"""Limits from a state-of-the-world ADS server, which speaks the official protos."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from protos.ratelimit_pb2 import RateLimitResponse
from ratelimit.config import load_limits
from ratelimit.rules import CompiledLimits
from sidecars.services.ratelimit import RatelimitSidecar, build
from sidecars.services.xds import client
from sidecars.services.xds.limits import SentLimits, sent_limits
from sidecars.settings.ratelimit import RatelimitSettings
from tests.support.authority import Authority
from tests.support.management_server import ManagementServer, config, management_server
from tests.support.ratelimiting import answered, dependencies, request
from tests.support.waiting import until

OK, OVER = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT


@asynccontextmanager
async def sidecar_of(server: str, tmp_path: Path, **more: Any) -> AsyncIterator[RatelimitSidecar]:
    limits = more.pop("limits", [])
    xds = {"server": server, "state_file": str(tmp_path / "kept.json"), "backoff_min_seconds": 0.05, **more}
    settings = RatelimitSettings.model_validate({"listen": ["127.0.0.1:0"], "limits": limits, "xds": xds})
    sidecar = build(settings, dependencies())
    await sidecar.start()
    try:
        yield sidecar
    finally:
        await sidecar.stop()


def codes(sidecar: RatelimitSidecar, key: str, times: int, domain: str = "edge") -> list[int]:
    message = request({key: "1"}, domain=domain)
    return [answered(sidecar, message).overall_code for _ in range(times)]


async def accepted(server: ManagementServer, version: str) -> None:
    answer = await server.request()
    assert answer["version_info"] == version
    assert "error_detail" not in answer


async def rejected(server: ManagementServer, version: str = "") -> str:
    answer = await server.request()
    assert answer.get("version_info", "") == version
    assert answer["error_detail"]["code"] == 3
    return str(answer["error_detail"]["message"])


async def test_limits_are_asked_for_put_into_service_and_acknowledged(tmp_path: Path) -> None:
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2)])
        node = {"node_id": "n7", "cluster": "c", "metadata": {"zone": "a", "weights": [1, 2]}}
        async with sidecar_of(server.address, tmp_path, **node) as sidecar:
            first = await server.request()
            assert first["node"]["id"] == "n7"
            assert first["node"]["cluster"] == "c"
            assert first["node"]["metadata"] == {"zone": "a", "weights": [1.0, 2.0]}
            assert first["type_url"].endswith("ratelimit.config.ratelimit.v3.RateLimitConfig")
            assert "response_nonce" not in first
            answer = await server.request()
            assert (answer["version_info"], answer["response_nonce"]) == ("1", "n1")
            assert codes(sidecar, "user", 3) == [OK, OK, OVER]
            state = sidecar.describe()["xds"]
            assert (state["connected"], state["version"], state["rejection"]) == (True, "1", None)


async def test_requests_go_on_while_limits_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[threading.Thread] = []

    def noting(real: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            readers.append(threading.current_thread())
            return real(*arguments)

        return noted

    monkeypatch.setattr(client, "sent_limits", noting(sent_limits))
    monkeypatch.setattr(SentLimits, "documents", noting(SentLimits.documents))
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2)])
        async with sidecar_of(server.address, tmp_path):
            await server.request()
            await accepted(server, "1")
    assert len(readers) == 2
    assert threading.main_thread() not in readers


async def test_a_later_set_replaces_the_one_before(tmp_path: Path) -> None:
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2), config("other", "user", 1)])
        async with sidecar_of(server.address, tmp_path) as sidecar:
            await server.request()
            await accepted(server, "1")
            server.send("2", [config("edge", "user", 1)])
            await accepted(server, "2")
            assert codes(sidecar, "user", 2) == [OK, OVER]
            assert sidecar.describe()["domains"] == ["edge"]


@pytest.mark.parametrize(
    ("configs", "reason"),
    [
        ([config("", "user", 1)], "config file cannot have empty domain"),
        ([config("edge", "", 1)], "xds/edge:3: descriptors[0].key: descriptor has empty key"),
        ([config("edge", "user", 1), config("edge", "user", 1)], "duplicate domain 'edge'"),
        (
            [config("edge", "user", 1, rate_limit={"requests_per_unit": 5})],
            "invalid rate limit unit 'unknown'",
        ),
        ([], "xds.allow_empty: true permits it"),
    ],
    ids=["no domain", "no key", "twice", "no unit", "empty"],
)
async def test_a_set_that_cannot_be_loaded_is_rejected_with_the_reason_and_replaces_nothing(
    tmp_path: Path, configs: list[Any], reason: str
) -> None:
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2)])
        async with sidecar_of(server.address, tmp_path) as sidecar:
            await server.request()
            await accepted(server, "1")
            server.send("2", configs)
            assert reason in await rejected(server, "1")
            assert codes(sidecar, "user", 3) == [OK, OK, OVER]
            assert reason in sidecar.describe()["xds"]["rejection"]
            server.send("3", [config("edge", "user", 5)])
            await accepted(server, "3")
            assert sidecar.describe()["xds"]["rejection"] is None


async def test_another_type_and_bytes_that_are_no_message_are_rejected(tmp_path: Path) -> None:
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2)], type_url="type.googleapis.com/envoy.Cluster")
        async with sidecar_of(server.address, tmp_path):
            await server.request()
            assert "found 'type.googleapis.com/envoy.Cluster'" in await rejected(server)
            server.send("2", [config("edge", "user", 2)], resource_type="type.googleapis.com/envoy.Cluster")
            assert "xds/0: expected a ratelimit.config.ratelimit.v3.RateLimitConfig" in await rejected(server)
            server.send("3", [], raw=b"\xff")
            assert "xds/0: the resource cannot be decoded" in await rejected(server)


async def test_an_empty_set_removes_all_where_the_settings_permit_it(tmp_path: Path) -> None:
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2)])
        async with sidecar_of(server.address, tmp_path, allow_empty=True) as sidecar:
            await server.request()
            await accepted(server, "1")
            server.send("2", [])
            await accepted(server, "2")
            assert sidecar.describe()["domains"] == []


async def test_limits_of_files_stay_next_to_those_of_the_server(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        "domain: own\ndescriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 1}}]\n"
    )
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2)])
        async with sidecar_of(server.address, tmp_path, limits=[str(file)]) as sidecar:
            await server.request()
            await accepted(server, "1")
            assert codes(sidecar, "user", 2, "own") == [OK, OVER]
            file.write_text(file.read_text().replace("1}}", "3}}"))
            sidecar.prepare()()
            assert sidecar.describe()["domains"] == ["edge", "own"]
            assert codes(sidecar, "user", 3) == [OK, OK, OVER]
            server.send("2", [config("own", "user", 2)])
            assert "duplicate domain 'own'" in await rejected(server, "1")


async def test_files_and_limits_that_change_at_the_same_time_are_both_in_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def noting(*arguments: Any) -> CompiledLimits:
        threads.append(threading.current_thread())
        return load_limits(*arguments)

    file = tmp_path / "own.yaml"
    own = "domain: own\ndescriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 1}}]\n"
    file.write_text(own)
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2)])
        async with sidecar_of(server.address, tmp_path, limits=[str(file)]) as sidecar:
            await server.request()
            await accepted(server, "1")
            file.write_text(own.replace("unit: 1", "unit: 3"))
            swap = sidecar.prepare()
            server.send("2", [config("edge", "user", 1), config("more", "user", 1)])
            await accepted(server, "2")
            monkeypatch.setattr("sidecars.services.ratelimit_reload.load_limits", noting)
            swap()
            task = sidecar._loading
            assert task is not None
            await task
            assert sidecar.describe()["domains"] == ["edge", "more", "own"]
            assert codes(sidecar, "user", 4, "own") == [OK, OK, OK, OVER]
            assert threads
            assert threading.main_thread() not in threads, "the event loop waits for it"
            swap = sidecar.prepare()
            server.send("3", [config("edge", "user", 1), config("later", "user", 1)])
            await accepted(server, "3")
            file.write_text(own.replace("own", "later"))
            with capture_logs() as logs:
                swap()  # the two do not fit, so the ones before stay
                await until(lambda: logs)
            assert logs[0]["event"] == "changed limit files do not fit the limits of the server"
            assert sidecar.describe()["domains"] == ["edge", "later", "own"]
            monkeypatch.setattr("sidecars.services.ratelimit.prepare_limits", lambda *_: 1 / 0)
            with capture_logs() as logs:
                swap()
                await until(lambda: logs)
            assert logs[0]["event"] == "changed limit files cannot be loaded"


async def test_the_last_limits_are_kept_over_a_restart_without_the_server(tmp_path: Path) -> None:
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2)])
        async with sidecar_of(server.address, tmp_path):
            await server.request()
            await accepted(server, "1")
            await until((tmp_path / "kept.json").exists)
        address = server.address
    async with sidecar_of(address, tmp_path) as sidecar:
        assert codes(sidecar, "user", 3) == [OK, OK, OVER]


@pytest.mark.parametrize("content", ["", "{}", '{"format": 2, "version": "", "limits": []}', "[1]"])
async def test_kept_limits_that_cannot_be_read_are_left_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "kept.json").write_text(content)
    with capture_logs() as logs:
        async with sidecar_of("127.0.0.1:1", tmp_path) as sidecar:
            assert sidecar.describe()["domains"] == []
    assert "kept limits are not used" in [line["event"] for line in logs]


async def test_kept_limits_that_do_not_fit_the_files_are_left_out(tmp_path: Path) -> None:
    async with management_server() as server:
        server.send("1", [config("own", "user", 2)])
        async with sidecar_of(server.address, tmp_path):
            await server.request()
            await accepted(server, "1")
            await until((tmp_path / "kept.json").exists)
    file = tmp_path / "own.yaml"
    file.write_text(
        "domain: own\ndescriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 1}}]\n"
    )
    async with sidecar_of("127.0.0.1:1", tmp_path, limits=[str(file)]) as sidecar:
        assert codes(sidecar, "user", 2, "own") == [OK, OVER]


async def test_a_stream_that_ends_is_opened_again_with_the_version_in_service(tmp_path: Path) -> None:
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2)])
        async with sidecar_of(server.address, tmp_path) as sidecar:
            await server.request()
            await accepted(server, "1")
            server.end_streams()
            again = await server.request()
            assert again["version_info"] == "1"
            assert "response_nonce" not in again
            await accepted(server, "1")
            assert codes(sidecar, "user", 3) == [OK, OK, OVER]


async def test_a_server_that_is_killed_costs_no_limits_and_is_asked_again(tmp_path: Path) -> None:
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2)])
        with capture_logs() as logs:
            async with sidecar_of(server.address, tmp_path) as sidecar:
                await server.request()
                await accepted(server, "1")
                port = server.port
                await server.kill()
                await until(lambda: not sidecar.describe()["xds"]["connected"])
                assert codes(sidecar, "user", 3) == [OK, OK, OVER]
                await until(lambda: bool(sidecar.describe()["xds"]["trouble"]))
                async with management_server(port) as other:
                    other.send("2", [config("edge", "user", 7)])
                    assert (await other.request())["version_info"] == "1"
                    await accepted(other, "2")
                    assert codes(sidecar, "user", 4) == [OK] * 4
    events = [line["event"] for line in logs]
    assert "management server is away, limits stay" in events
    assert "management server answers again" in events


async def test_headers_are_sent(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("X-Tenant: acme\n")
    async with management_server() as server, sidecar_of(server.address, tmp_path, headers_file=str(file)):
        while "metadata" not in (event := await server.event()):
            pass
        assert event["metadata"]["x-tenant"] == "acme"


async def test_tls_checks_the_server_by_the_authority_and_the_name_of_the_settings(tmp_path: Path) -> None:
    authority = Authority("control plane")
    pair = authority.sign("localhost")
    files = {"ca.pem": authority.certificate, "cert.pem": pair.certificate, "key.pem": pair.key}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "other.pem").write_bytes(Authority("another").certificate)
    async with management_server(0, tmp_path / "cert.pem", tmp_path / "key.pem") as server:
        server.send("1", [config("edge", "user", 2)])
        tls = {"ca_file": str(tmp_path / "ca.pem")}
        async with sidecar_of(server.address, tmp_path, tls=tls):
            await server.request()
            await accepted(server, "1")
        for wrong, reason in (
            ({"ca_file": str(tmp_path / "other.pem")}, "CERTIFICATE_VERIFY_FAILED"),
            ({**tls, "server_name": "elsewhere"}, "Hostname Verification Check failed"),
            ({"ca_file": str(tmp_path / "missing.pem")}, "missing.pem: no such file"),
        ):
            async with sidecar_of(server.address, tmp_path, tls=wrong) as sidecar:
                await until(lambda: sidecar.describe()["xds"]["trouble"])
                state = sidecar.describe()["xds"]
                assert not state["connected"]
                assert reason in state["trouble"]


async def test_metrics_say_what_became_of_the_limits(tmp_path: Path) -> None:
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2)])
        around = dependencies()
        xds = {"server": server.address}
        settings = RatelimitSettings.model_validate({"listen": ["127.0.0.1:0"], "xds": xds})
        sidecar = build(settings, around)
        value = around.registry.get_sample_value
        assert value("ratelimit_xds_connected") == 0
        await sidecar.start()
        await server.request()
        await accepted(server, "1")
        server.send("2", [])
        await rejected(server, "1")
        assert value("ratelimit_xds_connected") == 1
        assert value("ratelimit_xds_rejected") == 1
        assert value("ratelimit_xds_responses_total", {"result": "accepted"}) == 1
        assert value("ratelimit_xds_responses_total", {"result": "rejected"}) == 1
        assert value("ratelimit_service_config_load_error") == 1
        await sidecar.stop()


def test_limits_or_a_server_are_needed() -> None:
    with pytest.raises(ValueError, match="limits: expected at least one file or folder, or a server in xds"):
        RatelimitSettings.model_validate({"listen": ["127.0.0.1:0"]})


async def test_a_state_file_that_cannot_be_written_stops_no_limits(tmp_path: Path) -> None:
    async with management_server() as server:
        server.send("1", [config("edge", "user", 2)])
        with capture_logs() as logs:
            missing = str(tmp_path / "none" / "kept.json")
            async with sidecar_of(server.address, tmp_path, state_file=missing) as sidecar:
                await server.request()
                await accepted(server, "1")
                assert codes(sidecar, "user", 3) == [OK, OK, OVER]
    assert "limits of the management server are not kept" in [line["event"] for line in logs]
