"""An Envoy that passes requests to an upstream and logs each one to the accesslog sidecar."""

from typing import Any

from bench.tools.edge import ROUTER, TYPE, http2_cluster

STATS = "access_logs.grpc_access_log"
"""Where Envoy counts what it logged (`logs_written`, `logs_dropped`)."""

_BUFFER_BYTES = 262_144
"""As in envoy-test/envoy.yaml."""


def log_edge(sidecar_port: int, upstream_port: int) -> dict[str, Any]:
    """Return a configuration: a listener named `edge` that routes everything to the upstream."""
    manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "access_log": [_access_log()],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"name": "orders", "match": {"prefix": "/"}, "route": {"cluster": "upstream"}}
                    ],
                }
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
    }
    listener = {
        "name": "edge",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    clusters = [http2_cluster("accesslog", sidecar_port), http2_cluster("upstream", upstream_port)]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _access_log() -> dict[str, Any]:
    common = {
        "log_name": "edge",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "accesslog"}},
        "buffer_size_bytes": _BUFFER_BYTES,
    }
    return {
        "name": "envoy.access_loggers.http_grpc",
        "typed_config": {
            "@type": f"{TYPE}.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            "common_config": common,
            "additional_request_headers_to_log": ["accept"],
            "additional_response_headers_to_log": ["content-type"],
        },
    }
