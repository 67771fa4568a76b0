"""Access log entries and messages as a real Envoy sends them."""

from collections.abc import Mapping
from typing import Any

from protos.accesslog_data_pb2 import (
    DownstreamEnd,
    HTTPAccessLogEntry,
    ResponseFlags,
    TCPAccessLogEntry,
    TcpConnectionEnd,
    TLSProperties,
)
from protos.accesslog_pb2 import StreamAccessLogsMessage
from protos.core_pb2 import GET

START_SECONDS = 1_790_000_000
"""2026-09-21T14:13:20Z."""

ORIGIN = {"log_name": "edge", "node_id": "envoy-1", "node_cluster": "front"}


def http_entry(
    *,
    path: str = "/v1/orders/77?expand=lines",
    code: int = 200,
    request_id: str = "f0d5e1f0-aaaa-4000-8000-000000000000",
    request_headers: Mapping[str, str] = {},
    response_headers: Mapping[str, str] = {},
    response_trailers: Mapping[str, str] = {},
    tags: Mapping[str, str] = {},
    metadata: Mapping[str, Mapping[str, Any]] = {},
    flags: ResponseFlags | None = None,
    referer: str = "",
    original_path: str = "",
    authority: str = "api.example.com",
) -> HTTPAccessLogEntry:
    """Return the entry for one finished request."""
    entry = HTTPAccessLogEntry()
    common = entry.common_properties
    common.start_time.seconds = START_SECONDS
    common.start_time.nanos = 123_456_789
    common.duration.nanos = 7_654_321
    common.downstream_remote_address.socket_address.address = "203.0.113.9"
    common.downstream_remote_address.socket_address.port_value = 40001
    common.upstream_cluster = "orders"
    common.route_name = "orders-read"
    common.access_log_type = DownstreamEnd
    for tag, value in tags.items():
        common.custom_tags[tag] = value
    for namespace, content in metadata.items():
        common.metadata.filter_metadata[namespace].update(dict(content))
    if flags is not None:
        common.response_flags.CopyFrom(flags)
    entry.protocol_version = HTTPAccessLogEntry.HTTP2
    request = entry.request
    request.request_method = GET
    request.scheme = "https"
    request.authority = authority
    request.path = path
    request.original_path = original_path
    request.referer = referer
    request.request_id = request_id
    for name, value in request_headers.items():
        request.request_headers[name] = value
    entry.response.response_code.value = code
    for name, value in response_headers.items():
        entry.response.response_headers[name] = value
    for name, value in response_trailers.items():
        entry.response.response_trailers[name] = value
    return entry


def tcp_entry(received_bytes: int = 10, sent_bytes: int = 20) -> TCPAccessLogEntry:
    """Return the entry for one finished TLS connection."""
    entry = TCPAccessLogEntry()
    common = entry.common_properties
    common.start_time.seconds = START_SECONDS
    common.access_log_type = TcpConnectionEnd
    common.tls_properties.tls_version = TLSProperties.TLSv1_3
    common.stream_id = "11111111-2222-4333-8444-555555555555"
    entry.connection_properties.received_bytes = received_bytes
    entry.connection_properties.sent_bytes = sent_bytes
    return entry


def message(
    *entries: HTTPAccessLogEntry | TCPAccessLogEntry, log_name: str | None = "edge"
) -> StreamAccessLogsMessage:
    """Return a message with entries of one type; it has an identifier unless `log_name` is None."""
    batch = StreamAccessLogsMessage()
    if log_name is not None:
        batch.identifier.log_name = log_name
        batch.identifier.node.id = "envoy-1"
        batch.identifier.node.cluster = "front"
    for entry in entries:
        if isinstance(entry, HTTPAccessLogEntry):
            batch.http_logs.log_entry.append(entry)
        else:
            batch.tcp_logs.log_entry.append(entry)
    return batch
