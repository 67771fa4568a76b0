"""Makes one flat record from each entry that Envoy sends. The names are those of `accesslog.records.fields`.

Speed: `operator.attrgetter` over many dotted names reads a whole group of fields in one C call, so the plan
of what to read is made once, at import, and no entry is ever asked for its descriptor.
"""

import time
from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from google.protobuf.message import Message

from accesslog.wire.metadata import add_metadata, plain_any
from accesslog.wire.names import LOG_TYPES, METHODS, PROTOCOLS, TLS_VERSIONS, cipher_name, flag_codes
from protos.accesslog_data_pb2 import AccessLogCommon, HTTPAccessLogEntry, TCPAccessLogEntry, TLSProperties
from protos.core_pb2 import Address

Record = dict[str, Any]

DURATION_TAG: Final = "authz_duration_us"
"""The custom tag in which Envoy tells how long it waited for authz, and the field that it becomes."""

QUERY_OF: Final = {"path": "query", "original_path": "original_query"}
"""The fields for the queries of paths."""

MAX_DIGITS: Final = 15
"""The most digits of that number: 30 years. A longer one is not a duration; above 2**53 JSON is inexact."""


class _Plan:
    """Scalar fields read together; those that are set go into the record under their names."""

    __slots__ = ("_names", "_read")

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = tuple(names)
        self._read = attrgetter(*names.values())

    def copy(self, message: Message, record: Record) -> None:
        for name, value in zip(self._names, self._read(message), strict=True):
            if value:
                record[name] = value


class _PairPlan:
    """Submessages of two parts read together: a Duration (seconds, nanos), an Address (host, port)."""

    __slots__ = ("_read", "names", "sources")

    def __init__(self, names: Mapping[str, str], first: str, second: str) -> None:
        self.names = tuple(names)
        self.sources = tuple(names.values())
        self._read = attrgetter(*(f"{source}.{part}" for source in self.sources for part in (first, second)))

    def pairs(self, message: Message) -> Any:
        parts = iter(self._read(message))
        return zip(parts, parts, strict=True)


_COMMON: Final = _Plan(
    {
        "stream_id": "stream_id",
        "route": "route_name",
        "cluster": "upstream_cluster",
        "upstream_attempts": "upstream_request_attempt_count",
        "upstream_transport_failure_reason": "upstream_transport_failure_reason",
        "downstream_transport_failure_reason": "downstream_transport_failure_reason",
        "connection_termination_details": "connection_termination_details",
        "downstream_wire_bytes_received": "downstream_wire_bytes_received",
        "downstream_wire_bytes_sent": "downstream_wire_bytes_sent",
        "upstream_wire_bytes_received": "upstream_wire_bytes_received",
        "upstream_wire_bytes_sent": "upstream_wire_bytes_sent",
        "intermediate": "intermediate_log_entry",
        "envoy_sample_rate": "sample_rate",
    }
)
_REQUEST: Final = _Plan(
    {
        "request_id": "request_id",
        "scheme": "scheme",
        "authority": "authority",
        "port": "port.value",
        "user_agent": "user_agent",
        "referer": "referer",
        "forwarded_for": "forwarded_for",
        "request_headers_bytes": "request_headers_bytes",
        "request_body_bytes": "request_body_bytes",
        "upstream_header_bytes_sent": "upstream_header_bytes_sent",
        "downstream_header_bytes_received": "downstream_header_bytes_received",
    }
)
_RESPONSE: Final = _Plan(
    {
        "code_details": "response_code_details",
        "response_headers_bytes": "response_headers_bytes",
        "response_body_bytes": "response_body_bytes",
        "upstream_header_bytes_received": "upstream_header_bytes_received",
        "downstream_header_bytes_sent": "downstream_header_bytes_sent",
    }
)
_REQUEST_HEAD: Final = attrgetter("request_method", "path", "original_path", "request_headers")
_RESPONSE_HEAD: Final = attrgetter("response_code.value", "response_headers", "response_trailers")
_TCP: Final = _Plan(
    {
        "received_bytes": "connection_properties.received_bytes",
        "sent_bytes": "connection_properties.sent_bytes",
    }
)
_TLS: Final = _Plan(
    {
        "tls_sni": "tls_sni_hostname",
        "tls_session_id": "tls_session_id",
        "tls_ja3": "ja3_fingerprint",
        "tls_peer_subject": "peer_certificate_properties.subject",
        "tls_peer_issuer": "peer_certificate_properties.issuer",
        "tls_local_subject": "local_certificate_properties.subject",
        "tls_local_issuer": "local_certificate_properties.issuer",
    }
)
_DURATIONS: Final = _PairPlan(
    {
        "duration_us": "duration",
        "time_to_last_rx_byte_us": "time_to_last_rx_byte",
        "time_to_first_upstream_tx_byte_us": "time_to_first_upstream_tx_byte",
        "time_to_last_upstream_tx_byte_us": "time_to_last_upstream_tx_byte",
        "time_to_first_upstream_rx_byte_us": "time_to_first_upstream_rx_byte",
        "time_to_last_upstream_rx_byte_us": "time_to_last_upstream_rx_byte",
        "time_to_first_downstream_tx_byte_us": "time_to_first_downstream_tx_byte",
        "time_to_last_downstream_tx_byte_us": "time_to_last_downstream_tx_byte",
    },
    "seconds",
    "nanos",
)
_ADDRESSES: Final = _PairPlan(
    {
        name: name
        for name in (
            "downstream_remote_address",
            "downstream_direct_remote_address",
            "downstream_local_address",
            "upstream_remote_address",
            "upstream_local_address",
        )
    },
    "socket_address.address",
    "socket_address.port_value",
)
_COMMON_HEAD: Final = attrgetter("start_time.seconds", "start_time.nanos", "access_log_type")


def http_record(entry: HTTPAccessLogEntry, origin: Mapping[str, str], received_at: float) -> Record:
    """The record of an HTTP entry.

    `origin` holds what is the same for a whole stream (log_name, node_id ...); `received_at`, in unix
    seconds, is the time of an entry that brings none. Raises ValueError for a time outside years 1 to 9999.
    """
    common, request, response = entry.common_properties, entry.request, entry.response
    record = _head("http", common, origin, received_at)
    method, path, original_path, request_headers = _REQUEST_HEAD(request)
    code, response_headers, response_trailers = _RESPONSE_HEAD(response)
    protocol = entry.protocol_version
    record["code"] = code
    if method:
        record["method"] = METHODS.get(method) or str(method)
    if protocol:
        record["protocol"] = PROTOCOLS.get(protocol) or str(protocol)
    if path:
        add_target(record, "path", path)
    if original_path:
        add_target(record, "original_path", original_path)
    _REQUEST.copy(request, record)
    _RESPONSE.copy(response, record)
    _add_common(record, common)
    if request_headers:
        record["request_headers"] = {name: request_headers[name] for name in sorted(request_headers)}
    if response_headers:
        record["response_headers"] = {name: response_headers[name] for name in sorted(response_headers)}
    if response_trailers:
        record["response_trailers"] = {name: response_trailers[name] for name in sorted(response_trailers)}
    return record


def tcp_record(entry: TCPAccessLogEntry, origin: Mapping[str, str], received_at: float) -> Record:
    """The record of a TCP entry; arguments and errors as for `http_record`."""
    common = entry.common_properties
    record = _head("tcp", common, origin, received_at)
    _TCP.copy(entry, record)
    _add_common(record, common)
    return record


def _head(kind: str, common: AccessLogCommon, origin: Mapping[str, str], received_at: float) -> Record:
    seconds, nanos, log_type = _COMMON_HEAD(common)
    if not (seconds or nanos):
        seconds, nanos = int(received_at), int(received_at % 1 * 1e9)
    if not 0 <= nanos < 1_000_000_000:
        raise ValueError(f"start_time.nanos is {nanos}, expected 0 to 999999999")
    record: Record = {"time": time_text(seconds, nanos), "type": kind, **origin}
    if log_type:
        record["access_log_type"] = LOG_TYPES.get(log_type) or str(log_type)
    return record


def _add_common(record: Record, common: AccessLogCommon) -> None:
    _COMMON.copy(common, record)
    flags = common.response_flags.SerializeToString()
    if flags:
        record["response_flags"] = flag_codes(flags)
    for name, (seconds, nanos) in zip(_DURATIONS.names, _DURATIONS.pairs(common), strict=True):
        if seconds or nanos:
            record[name] = seconds * 1_000_000 + nanos // 1000
    for name, (host, port) in zip(_ADDRESSES.names, _ADDRESSES.pairs(common), strict=True):
        if host:
            record[name] = _with_port(host, port)
        elif common.HasField(name):
            _add_other_address(record, name, getattr(common, name))
    client = common.downstream_remote_address.socket_address.address
    if client:
        record["client_ip"] = client
    if common.HasField("tls_properties"):
        add_tls(record, common.tls_properties)
    if common.HasField("metadata"):
        add_metadata(record, common.metadata)
    tags = common.custom_tags
    if tags:
        add_tags(record, {tag: tags[tag] for tag in sorted(tags)})
    objects = common.filter_state_objects
    if objects:
        record["filter_state"] = {key: plain_any(objects[key]) for key in sorted(objects)}


def add_target(record: Record, name: str, target: str) -> None:
    """Add the path in `target` as `name`, and the query in it, if there is one."""
    record[name], question, query = target.partition("?")
    if question:
        record[QUERY_OF[name]] = query


def add_tags(record: Record, tags: dict[str, str]) -> None:
    """Add the custom tags, that with the duration of authz as a field of its own."""
    waited = tags.get(DURATION_TAG, "")
    # Envoy writes a duration as text: filter state reaches a tag, and nothing finer reaches an entry.
    if waited.isascii() and waited.isdigit() and len(waited) <= MAX_DIGITS:
        record[DURATION_TAG] = int(tags.pop(DURATION_TAG))
    if tags:
        record["tags"] = tags


def add_address(record: Record, name: str, address: Address) -> None:
    """Add an address as `name`, that of the client also without its port."""
    socket = address.socket_address
    host = socket.address
    if not host:
        _add_other_address(record, name, address)
        return
    record[name] = _with_port(host, socket.port_value)
    if name == "downstream_remote_address":
        record["client_ip"] = host


def _with_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _add_other_address(record: Record, name: str, address: Address) -> None:
    kind = address.WhichOneof("address")
    if kind == "pipe":
        record[name] = f"unix:{address.pipe.path}"
    elif kind == "envoy_internal_address":
        internal = address.envoy_internal_address
        record[name] = f"envoy://{internal.server_listener_name}/{internal.endpoint_id}"


def add_tls(record: Record, tls: TLSProperties) -> None:
    """Add what is known of the TLS connection of the client."""
    version = tls.tls_version
    if version:
        record["tls_version"] = TLS_VERSIONS.get(version) or str(version)
    if tls.HasField("tls_cipher_suite"):
        record["tls_cipher"] = cipher_name(tls.tls_cipher_suite.value)
    _TLS.copy(tls, record)
    for name, certificate in (
        ("tls_peer_san", tls.peer_certificate_properties),
        ("tls_local_san", tls.local_certificate_properties),
    ):
        names = certificate.subject_alt_name
        if names:
            record[name] = [f"uri:{san.uri}" if san.uri else f"dns:{san.dns}" for san in names]


def time_text(seconds: int, nanos: int) -> str:
    """A unix time in RFC 3339, in UTC with microseconds. Raises ValueError outside the years 1 to 9999."""
    return f"{second_text(seconds)}.{nanos // 1000:06d}Z"


# Entries arrive nearly in order of time: the second is formatted once for all that share it.
@lru_cache(maxsize=64)
def second_text(seconds: int) -> str:
    """A unix time in RFC 3339, without a fraction and a zone.

    Raises ValueError outside the years 1 to 9999.
    """
    try:
        year, month, day, hour, minute, second, *_ = time.gmtime(seconds)
    except (OSError, OverflowError) as error:
        raise ValueError(f"start_time.seconds is {seconds}, beyond the calendar") from error
    if not 1 <= year <= 9999:
        raise ValueError(f"start_time.seconds is {seconds}, outside the years 1 to 9999 (timestamp.proto)")
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"
