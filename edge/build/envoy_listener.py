"""Envoy's listener: the HTTP connection manager with the three filters, and the access log.

It depends on the platform alone, so a change of a team replaces no listener and closes no connection. Its
settings are those of envoy-test/envoy.yaml, where each has its reason; a test compares the two.
"""

from collections.abc import Mapping
from typing import Any, Final

from edge.build.envoy_clusters import address_of
from edge.build.envoy_routes import METADATA, REVISION_KEY
from edge.intent.envoy_block import EnvoyConfig, endpoint_of

LISTENER: Final = "edge"

_TYPE: Final = "type.googleapis.com/envoy.extensions"
_MANAGER: Final = f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"
_BUFFER_BYTES: Final = 32_768


def listener(envoy: EnvoyConfig, domain: str, routes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Listener. `routes` is `{"route_config": ...}` or `{"rds": ...}`."""
    chain: dict[str, Any] = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {**_manager(envoy, domain), **routes},
            }
        ]
    }
    if envoy.tls is not None:
        chain["transport_socket"] = _tls(envoy.tls.certificate_file, envoy.tls.key_file)
    return {
        "name": LISTENER,
        "address": address_of(endpoint_of(envoy.listen)),
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        **({"listener_filters": [_TLS_INSPECTOR]} if envoy.tls is not None else {}),
        "filter_chains": [chain],
    }


_TLS_INSPECTOR: Final = {
    # The access log has no server name (tls_sni) without it.
    "name": "envoy.filters.listener.tls_inspector",
    "typed_config": {"@type": f"{_TYPE}.filters.listener.tls_inspector.v3.TlsInspector"},
}


def _tls(certificate_file: str, key_file: str) -> dict[str, Any]:
    certificate = {
        "certificate_chain": {"filename": certificate_file},
        "private_key": {"filename": key_file},
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificates": [certificate], "alpn_protocols": ["h2", "http/1.1"]},
        },
    }


def _manager(envoy: EnvoyConfig, domain: str) -> dict[str, Any]:
    hops = {"xff_num_trusted_hops": envoy.trusted_hops} if envoy.trusted_hops else {}
    return {
        "@type": _MANAGER,
        "stat_prefix": LISTENER,
        "codec_type": "AUTO",
        "use_remote_address": True,
        **hops,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "0.0.0.0", "prefix_len": 32}]},
        "preserve_external_request_id": False,
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "strip_any_host_port": True,
        "strip_trailing_host_dot": True,
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 100,
            "idle_timeout": "300s",
        },
        "max_request_headers_kb": 60,
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
        },
        "request_headers_timeout": "10s",
        "request_timeout": "60s",
        "stream_idle_timeout": "300s",
        "access_log": [_access_log(envoy)],
        "http_filters": [_ext_authz(), _ratelimit(domain), _ROUTER],
    }


def _access_log(envoy: EnvoyConfig) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.http_grpc",
        "typed_config": {
            "@type": f"{_TYPE}.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            "common_config": {
                "log_name": LISTENER,
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "accesslog"}},
                "buffer_flush_interval": "1s",
                "buffer_size_bytes": 262144,
                "grpc_stream_retry_policy": {"num_retries": 3},
                "custom_tags": [
                    {
                        "tag": "authz_duration_us",
                        "value": "%FILTER_STATE(envoy.filters.http.ext_authz:FIELD:latency_us)%",
                    },
                    {"tag": REVISION_KEY, "value": f"%METADATA(VIRTUAL_HOST:{METADATA}:revision)%"},
                ],
            },
            "additional_request_headers_to_log": list(envoy.log_request_headers),
            "additional_response_headers_to_log": list(envoy.log_response_headers),
        },
    }


def _ext_authz() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": f"{_TYPE}.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {
                "envoy_grpc": {"cluster_name": "authz"},
                "timeout": "0.2s",
                "retry_policy": {
                    "num_retries": 5,
                    "retry_on": "unavailable,cancelled,connect-failure,refused-stream,reset",
                },
            },
            "failure_mode_allow": False,
            "status_on_error": {"code": "ServiceUnavailable"},
            "encode_raw_headers": True,
            "include_peer_certificate": True,
            "include_tls_session": True,
            "validate_mutations": True,
            "emit_filter_state_stats": True,
        },
    }


def _ratelimit(domain: str) -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.ratelimit",
        "typed_config": {
            "@type": f"{_TYPE}.filters.http.ratelimit.v3.RateLimit",
            "domain": domain,
            "timeout": "0.02s",
            "failure_mode_deny": False,
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "rate_limited_as_resource_exhausted": True,
            "rate_limit_service": {
                "transport_api_version": "V3",
                "grpc_service": {
                    "envoy_grpc": {"cluster_name": "ratelimit"},
                    "retry_policy": {
                        "num_retries": 2,
                        "retry_on": "connect-failure,refused-stream",
                        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.02s"},
                    },
                },
            },
        },
    }


_ROUTER: Final = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
}
