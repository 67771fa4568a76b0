"""Envoy's clusters: the three sidecars, and the upstream of each service."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final

from edge.intent.envoy_block import Endpoint, EnvoyConfig, endpoint_of
from edge.intent.model import Service
from edge.intent.service_file import TlsConfig, UpstreamConfig

SIDECARS: Final = ("authz", "ratelimit", "accesslog")
UPSTREAM_PREFIX: Final = "service."
"""The clusters of services have names that those of sidecars cannot have."""
SYSTEM_AUTHORITIES: Final = "/etc/ssl/certs/ca-certificates.crt"

_PROTOCOL: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TLS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_BUFFER_BYTES: Final = 32_768
"""The most that Envoy buffers of a response for a slow client."""


def sidecar_clusters(envoy: EnvoyConfig) -> Iterator[dict[str, Any]]:
    """Yield the clusters of the three sidecars."""
    for name in SIDECARS:
        endpoints = [endpoint_of(address) for address in getattr(envoy, name)]
        yield {
            "name": name,
            **_discovery(endpoints),
            "connect_timeout": "0.25s",
            # Detects a sidecar that hangs with its socket open; Envoy detects a closed socket at once.
            **_http2({"connection_keepalive": {"interval": "30s", "timeout": "5s"}}),
            # A burst exceeds the default of 1,024 calls; when a sidecar stops, each one is retried.
            "circuit_breakers": {
                "thresholds": [
                    {
                        "max_connections": 1024,
                        "max_pending_requests": 16384,
                        "max_requests": 16384,
                        "max_retries": 1024,
                    }
                ]
            },
            "load_assignment": _load_assignment(name, endpoints),
        }


def upstream_name(service: Service) -> str:
    """Return the name of the cluster of a service."""
    return UPSTREAM_PREFIX + service.name


def upstream_cluster(service: Service) -> dict[str, Any]:
    """Return the cluster of a service."""
    upstream = service.upstream
    endpoint = endpoint_of(upstream.address)
    name = upstream_name(service)
    return {
        "name": name,
        **_discovery([endpoint]),
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        **(_http2({}) if upstream.http2 else {}),
        "load_assignment": _load_assignment(name, [endpoint]),
        **_transport(upstream, endpoint),
    }


def _discovery(endpoints: Sequence[Endpoint]) -> Mapping[str, str]:
    named = any(not endpoint.socket and not _is_ip(endpoint.host) for endpoint in endpoints)
    return {"type": "STRICT_DNS" if named else "STATIC"}


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _http2(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "typed_extension_protocol_options": {
            _PROTOCOL: {
                "@type": f"type.googleapis.com/{_PROTOCOL}",
                "explicit_http_config": {"http2_protocol_options": options},
            }
        }
    }


def _load_assignment(name: str, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    addresses = [{"endpoint": {"address": address_of(endpoint)}} for endpoint in endpoints]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": addresses}]}


def address_of(endpoint: Endpoint) -> dict[str, Any]:
    """Return Envoy's Address."""
    if endpoint.socket:
        return {"pipe": {"path": endpoint.socket}}
    return {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}


def _transport(upstream: UpstreamConfig, endpoint: Endpoint) -> dict[str, Any]:
    if not upstream.tls:
        return {}
    tls = upstream.tls if isinstance(upstream.tls, TlsConfig) else TlsConfig()
    server_name = tls.server_name or endpoint.host
    kind = "IP_ADDRESS" if _is_ip(server_name) else "DNS"
    validation = {
        "trusted_ca": {"filename": tls.ca_file or SYSTEM_AUTHORITIES},
        "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": server_name}}],
    }
    context: dict[str, Any] = {
        "@type": _TLS,
        "common_tls_context": {
            "validation_context": validation,
            "alpn_protocols": ["h2"] if upstream.http2 else ["http/1.1"],
        },
    }
    if kind == "DNS":  # an address is not a server name (RFC 6066 section 3)
        context["sni"] = server_name
    return {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}
