"""An Envoy with one authz sidecar, configured as in envoy-test/envoy-tcp.yaml, without other services."""

from typing import Any

TYPE = "type.googleapis.com/envoy.extensions"


def edge(sidecar_port: int) -> dict[str, Any]:
    """Return a configuration: a listener named `edge` that calls the sidecar and answers 200 itself."""
    manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "http2_protocol_options": {"max_concurrent_streams": 100},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [_ext_authz(), {"name": "router", "typed_config": {"@type": ROUTER}}],
    }
    listener = {
        "name": "edge",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [http2_cluster("authz", sidecar_port)]}}


ROUTER = f"{TYPE}.filters.http.router.v3.Router"


def _ext_authz() -> dict[str, Any]:
    service = {
        "envoy_grpc": {"cluster_name": "authz"},
        "timeout": "0.2s",
        "retry_policy": {
            "num_retries": 5,
            "retry_on": "unavailable,cancelled,connect-failure,refused-stream,reset",
        },
    }
    config = {
        "@type": f"{TYPE}.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "grpc_service": service,
        "status_on_error": {"code": "ServiceUnavailable"},
        "encode_raw_headers": True,
    }
    return {"name": "ext_authz", "typed_config": config}


def http2_cluster(name: str, port: int) -> dict[str, Any]:
    """A cluster of one local server that speaks HTTP/2."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    options = {
        "@type": f"{TYPE}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "circuit_breakers": {
            "thresholds": [{"max_pending_requests": 16384, "max_requests": 16384, "max_retries": 1024}]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
