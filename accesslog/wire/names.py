"""How Envoy and IANA spell what the protocol buffers number."""

from functools import lru_cache
from typing import Final

from protos.accesslog_data_pb2 import AccessLogType, HTTPAccessLogEntry, ResponseFlags, TLSProperties
from protos.core_pb2 import RequestMethod

FLAG_CODES: Final = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "unauthorized_details": "UAEX",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}
"""Envoy's short codes (docs: configuration/observability/access_log/usage, %RESPONSE_FLAGS%)."""

METHODS: Final = {number: name for name, number in RequestMethod.items() if number}
LOG_TYPES: Final = {number: name for name, number in AccessLogType.items() if number}
PROTOCOLS: Final = {
    HTTPAccessLogEntry.HTTP10: "HTTP/1.0",
    HTTPAccessLogEntry.HTTP11: "HTTP/1.1",
    HTTPAccessLogEntry.HTTP2: "HTTP/2",
    HTTPAccessLogEntry.HTTP3: "HTTP/3",
}
TLS_VERSIONS: Final = {
    TLSProperties.TLSv1: "TLSv1",
    TLSProperties.TLSv1_1: "TLSv1.1",
    TLSProperties.TLSv1_2: "TLSv1.2",
    TLSProperties.TLSv1_3: "TLSv1.3",
}
CIPHERS: Final = {
    0x002F: "TLS_RSA_WITH_AES_128_CBC_SHA",
    0x0035: "TLS_RSA_WITH_AES_256_CBC_SHA",
    0x009C: "TLS_RSA_WITH_AES_128_GCM_SHA256",
    0x009D: "TLS_RSA_WITH_AES_256_GCM_SHA384",
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
    0xC009: "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    0xC00A: "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    0xC013: "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    0xC014: "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    0xC027: "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    0xC02B: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    0xC02C: "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    0xC02F: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    0xC030: "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    0xCCA8: "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    0xCCA9: "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
}
"""The suites Envoy's BoringSSL can negotiate with certificates (IANA TLS Cipher Suites registry)."""


def cipher_name(number: int) -> str:
    """The IANA name of a cipher suite, or its number as `0xC0AC`."""
    return CIPHERS.get(number) or f"0x{number:04X}"


# A few combinations make up nearly all traffic; reading 28 fields of each entry would cost 2 microseconds.
@lru_cache(maxsize=1024)
def flag_codes(flags: bytes) -> tuple[str, ...]:
    """The short codes set in a serialised ResponseFlags, in the order of its field numbers."""
    return tuple(FLAG_CODES[field.name] for field, _ in ResponseFlags.FromString(flags).ListFields())
