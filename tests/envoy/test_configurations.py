"""Envoy accepts every configuration in envoy-test, and each contains the settings that an edge needs."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.configfile import read
from sidecars.demo.envoy import find_envoy, scripts_folder
from sidecars.settings.load import load_settings
from sidecars.transport.api.address import TcpAddress, UnixAddress
from tests.support.envoy_config import check_configuration

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = sorted((ROOT / "envoy-test").glob("envoy*.yaml"))

every_configuration = pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.name)


def values(tree: Any, key: str) -> Iterator[Any]:
    """Yield every value of `key`, anywhere in the tree."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from values(value, key)


def cluster_addresses(configuration: Any) -> dict[str, Any]:
    clusters = configuration["static_resources"]["clusters"]
    return {cluster["name"]: next(values(cluster, "address")) for cluster in clusters}


@pytest.mark.envoy
@every_configuration
async def test_envoy_accepts_it_without_a_warning(file: Path) -> None:
    assert await check_configuration(find_envoy(os.environ, scripts_folder()), file) == ""


@pytest.mark.envoy
async def test_a_configuration_that_envoy_refuses_is_reported_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text("static_resources: {listeners: [{name: edge, no_such_field: 1}]}\n")
    assert "no_such_field" in await check_configuration(find_envoy(os.environ, scripts_folder()), file)


def test_both_configurations_differ_in_the_addresses_of_the_sidecars_alone() -> None:
    unix, tcp = (read(ROOT / "envoy-test" / name).data for name in ("envoy.yaml", "envoy-tcp.yaml"))
    for configuration in (unix, tcp):
        for cluster in configuration["static_resources"]["clusters"]:
            if cluster["name"] != "upstream":
                next(values(cluster, "endpoint"))["address"] = "of the sidecar"
    assert unix == tcp


@pytest.mark.parametrize(
    ("settings_file", "envoy_file"),
    [("sidecars.yaml", "envoy.yaml"), ("sidecars-tcp.yaml", "envoy-tcp.yaml")],
)
def test_the_example_settings_listen_where_envoy_asks(settings_file: str, envoy_file: str) -> None:
    settings = load_settings(ROOT / "examples" / settings_file, {})
    asked = cluster_addresses(read(ROOT / "envoy-test" / envoy_file).data)
    for name in ("authz", "ratelimit", "accesslog"):
        (listen,) = getattr(settings, name).listen
        if isinstance(listen, UnixAddress):
            assert asked[name] == {"pipe": {"path": listen.path}}
        else:
            assert isinstance(listen, TcpAddress)
            assert asked[name] == {"socket_address": {"address": listen.host, "port_value": listen.port}}


@every_configuration
def test_a_request_that_authz_did_not_answer_is_refused(file: Path) -> None:
    assert set(values(read(file).data, "failure_mode_allow")) == {False}


@every_configuration
def test_repeated_headers_reach_authz_line_by_line(file: Path) -> None:
    """CVE-2021-32777, CVE-2026-26308: rules matched joined values, or missed some."""
    assert set(values(read(file).data, "encode_raw_headers")) == {True}


@every_configuration
def test_ghsa_rf44_j88r_hh8c_no_header_is_hidden_from_authz(file: Path) -> None:
    """To remove another spelling of an identity header, authz must see its name."""
    configuration = read(file).data
    assert not list(values(configuration, "allowed_headers"))
    assert not list(values(configuration, "disallowed_headers"))


@every_configuration
def test_paths_are_normalised_before_anyone_decides(file: Path) -> None:
    """CVE-2019-9901, CVE-2021-29492."""
    configuration = read(file).data
    assert set(values(configuration, "normalize_path")) == {True}
    assert set(values(configuration, "merge_slashes")) == {True}
    assert set(values(configuration, "path_with_escaped_slashes_action")) == {"REJECT_REQUEST"}


@every_configuration
def test_hosts_have_one_spelling_before_anyone_decides(file: Path) -> None:
    """A limit by `:authority` had separate buckets for `example.com:8443` and `example.com.`."""
    configuration = read(file).data
    assert set(values(configuration, "strip_any_host_port")) == {True}
    assert set(values(configuration, "strip_trailing_host_dot")) == {True}


@every_configuration
def test_no_header_has_an_underscore(file: Path) -> None:
    """CVE-2025-64484: to many upstreams x_user is x-user."""
    assert set(values(read(file).data, "headers_with_underscores_action")) == {"REJECT_REQUEST"}


@every_configuration
def test_the_client_is_the_peer_of_the_connection_and_nobody_is_internal(file: Path) -> None:
    """CVE-2023-27487, CVE-2024-45806: x-envoy-* headers from outside were trusted."""
    configuration = read(file).data
    assert set(values(configuration, "use_remote_address")) == {True}
    (internal,) = values(configuration, "internal_address_config")
    assert internal == {"cidr_ranges": [{"address_prefix": "0.0.0.0", "prefix_len": 32}]}


@every_configuration
def test_every_response_has_an_id_that_a_customer_can_quote(file: Path) -> None:
    configuration = read(file).data
    assert set(values(configuration, "always_set_request_id_in_response")) == {True}
    assert len(list(values(configuration, "always_set_request_id_in_response"))) == len(
        list(values(configuration, "http_filters"))
    )


@every_configuration
def test_cve_2026_47205_one_authorizer_is_asked_about_every_route(file: Path) -> None:
    """Older Envoys crash with a second authorizer; clearing the route cache changes the authorizer."""
    configuration = read(file).data
    settings = list(values(configuration, "typed_per_filter_config"))
    assert settings
    assert not any("envoy.filters.http.ext_authz" in of_route for of_route in settings)
    assert not list(values(configuration, "clear_route_cache"))


@every_configuration
def test_every_access_log_buffer_is_sized_for_an_edge(file: Path) -> None:
    """Envoy's default of 16 KiB holds about 16 entries."""
    assert set(values(read(file).data, "buffer_size_bytes")) == {262144}


def test_no_configuration_listens_beyond_this_machine() -> None:
    for file in CONFIGURATIONS:
        for listener in read(file).data["static_resources"]["listeners"]:
            assert listener["address"]["socket_address"]["address"] == "127.0.0.1"


@every_configuration
def test_every_cluster_of_a_sidecar_allows_the_retries_that_its_filter_asks_for(file: Path) -> None:
    """Envoy allows three retries by default; an endpoint that stops needs one for each call in flight."""
    configuration = read(file).data
    clusters = configuration["static_resources"]["clusters"]
    sidecars = [cluster for cluster in clusters if cluster["name"] != "upstream"]
    assert len(sidecars) == 3
    for cluster in sidecars:
        (threshold,) = cluster["circuit_breakers"]["thresholds"]
        assert threshold["max_retries"] >= 1000
    services = [service for service in values(configuration, "grpc_service") if "envoy_grpc" in service]
    retried = {service["envoy_grpc"]["cluster_name"] for service in services if "retry_policy" in service}
    assert retried == {"authz", "ratelimit"}
    logs = list(values(configuration, "common_config"))
    assert all(log["grpc_stream_retry_policy"]["num_retries"] for log in logs)


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.name)
def test_a_rate_limit_call_is_repeated_only_where_it_was_not_begun(file: Path) -> None:
    """A repeated call would count its hits twice."""
    (policy,) = (
        service["retry_policy"]
        for service in values(read(file).data, "grpc_service")
        if service["envoy_grpc"]["cluster_name"] == "ratelimit"
    )
    assert set(policy["retry_on"].split(",")) == {"connect-failure", "refused-stream"}


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.name)
def test_no_try_has_less_time_than_its_call(file: Path) -> None:
    """Envoy 1.40 also uses the longest pause between two tries as the timeout of each try."""
    (filters,) = values(read(file).data, "http_filters")
    configurations = [one["typed_config"] for one in filters if "typed_config" in one]
    (limits,) = (one for one in configurations if "rate_limit_service" in one)
    policy = limits["rate_limit_service"]["grpc_service"]["retry_policy"]
    longest = float(policy["retry_back_off"]["max_interval"].removesuffix("s"))
    assert longest >= float(limits["timeout"].removesuffix("s"))
    (authz,) = (one for one in configurations if "grpc_service" in one)
    assert "retry_back_off" not in authz["grpc_service"]["retry_policy"]


def test_the_sidecars_of_the_examples_trust_their_envoy() -> None:
    for file in ("sidecars.yaml", "sidecars-tcp.yaml"):
        settings = load_settings(ROOT / "examples" / file, {})
        for section in (settings.authz, settings.ratelimit, settings.accesslog):
            assert section is not None
            assert all(address.trusts_peers for address in section.listen)
