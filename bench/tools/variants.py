"""The listeners of the Envoy under test: the edge of envoy-test/envoy-tcp.yaml, with other filters each."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.configfile import read
from sidecars.demo.configuration import http_filters, http_manager

EDGE_FILE: Final = Path(__file__).parents[2] / "envoy-test" / "envoy-tcp.yaml"
FILTERS: Final = ("authz", "ratelimit", "accesslog")
ANSWER_SECONDS: Final = 5
"""Each request gets its answer, however slow the server: a request without one costs less, and looks fast."""
SAMPLED_PERCENT: Final = 1

_FILTER_NAMES: Final = {
    "envoy.filters.http.ext_authz": "authz",
    "envoy.filters.http.ratelimit": "ratelimit",
}
_TYPE: Final = "type.googleapis.com/envoy"


@dataclass(frozen=True, slots=True)
class Variant:
    """One listener."""

    name: str
    filters: tuple[str, ...] = ()
    answered_by: str = ""
    """native, grpcio or floor."""
    raw_headers: bool = True
    """Whether authz gets each header line unchanged, or a map of joined ones."""
    tracing: bool = True
    """Whether Envoy traces, so that each call to a sidecar has its own traceparent."""


def variants(answerers: Sequence[str]) -> list[Variant]:
    """Return the listeners to compare, as far as their sidecars are among `answerers`."""
    found = [Variant("none")]
    for kind in answerers:
        found += [Variant(f"{kind}_{name}", (name,), kind) for name in FILTERS]
        found.append(Variant(f"{kind}_all", FILTERS, kind))
        if kind != "grpcio":
            found.append(Variant(f"{kind}_all_untraced", FILTERS, kind, tracing=False))
    found.append(Variant("native_authz_header_map", ("authz",), "native", raw_headers=False))
    return found


def configuration(
    listeners: Sequence[Variant], ports: Mapping[tuple[str, str], int], upstream_port: int
) -> dict[str, Any]:
    """Return the configuration of Envoy; `ports` has that of each answerer and filter."""
    shipped: dict[str, Any] = read(EDGE_FILE).data
    resources = shipped["static_resources"]
    edge = next(one for one in resources["listeners"] if one["name"] == "edge")
    clusters = {one["name"]: one for one in resources["clusters"]}
    _set_port(clusters["upstream"], upstream_port)
    called = [clusters["upstream"]]
    for (kind, name), port in ports.items():
        cluster = deepcopy(clusters[name])
        cluster["name"] = cluster["load_assignment"]["cluster_name"] = f"{kind}_{name}"
        _set_port(cluster, port)
        called.append(cluster)
    return {
        "node": shipped["node"],
        "static_resources": {"listeners": [_listener(edge, one) for one in listeners], "clusters": called},
    }


def _listener(edge: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    listener = deepcopy(dict(edge))
    listener["name"] = variant.name
    listener["address"]["socket_address"]["port_value"] = 0
    manager = http_manager(listener)
    manager["stat_prefix"] = variant.name
    for name, config in http_filters(listener).items():
        if name in _FILTER_NAMES:
            _call(config, f"{variant.answered_by}_{_FILTER_NAMES[name]}")
    manager["http_filters"] = [
        one for one in manager["http_filters"] if _FILTER_NAMES.get(one["name"], "") in ("", *variant.filters)
    ]
    for one in manager["http_filters"]:
        if one["name"] == "envoy.filters.http.ext_authz":
            one["typed_config"]["encode_raw_headers"] = variant.raw_headers
    if "accesslog" in variant.filters:
        (log,) = manager["access_log"]
        service = log["typed_config"]["common_config"]["grpc_service"]
        service["envoy_grpc"]["cluster_name"] = f"{variant.answered_by}_accesslog"
    else:
        del manager["access_log"]
    if variant.tracing:
        manager["tracing"] = _tracing()
    return listener


def _call(config: dict[str, Any], cluster: str) -> None:
    """Have a filter call the cluster, and wait for its answer."""
    if "rate_limit_service" in config:
        config["timeout"] = f"{ANSWER_SECONDS}s"
        service = config["rate_limit_service"]["grpc_service"]
        service["retry_policy"]["retry_back_off"]["max_interval"] = f"{ANSWER_SECONDS}s"
    else:
        service = config["grpc_service"]
        service["timeout"] = f"{ANSWER_SECONDS}s"
    service["envoy_grpc"]["cluster_name"] = cluster


def _tracing() -> dict[str, Any]:
    """Return OpenTelemetry tracing whose few sampled spans go to the upstream, which accepts everything."""
    collector = {"uri": "http://upstream/v1/traces", "cluster": "upstream", "timeout": "1s"}
    config = {
        "@type": f"{_TYPE}.config.trace.v3.OpenTelemetryConfig",
        "service_name": "edge",
        "http_service": {"http_uri": collector},
    }
    provider = {"name": "envoy.tracers.opentelemetry", "typed_config": config}
    return {"provider": provider, "random_sampling": {"value": SAMPLED_PERCENT}}


def _set_port(cluster: Mapping[str, Any], port: int) -> None:
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"]["socket_address"]["port_value"] = port


def with_second_endpoints(configuration: Mapping[str, Any], ports: Mapping[str, int]) -> None:
    """Give the named clusters a second endpoint, with what docs/deployment.md says about several."""
    for cluster in configuration["static_resources"]["clusters"]:
        if cluster["name"] in ports:
            endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            second = deepcopy(endpoints[0])
            second["endpoint"]["address"]["socket_address"]["port_value"] = ports[cluster["name"]]
            endpoints.append(second)
            cluster.update(deepcopy(_SEVERAL))


_SEVERAL: Final = {
    "lb_policy": "LEAST_REQUEST",
    "health_checks": [
        {
            "interval": "0.5s",
            "no_traffic_interval": "0.5s",
            "timeout": "1s",
            "unhealthy_threshold": 1,
            "healthy_threshold": 1,
            "grpc_health_check": {},
        }
    ],
    "common_lb_config": {"healthy_panic_threshold": {"value": 1}},
    "outlier_detection": {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 1,
        "interval": "0.5s",
        "base_ejection_time": "1s",
        "max_ejection_percent": 50,
    },
}
