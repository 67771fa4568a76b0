"""The access log entries of the benchmark, as Envoy sends them with authz and ratelimit: 870 bytes each."""

from itertools import count
from typing import Final

from protos.accesslog_data_pb2 import DownstreamEnd, HTTPAccessLogEntry
from protos.accesslog_pb2 import StreamAccessLogsMessage
from protos.core_pb2 import GET, Address

ENTRIES_A_MESSAGE: Final = 16
"""What Envoy's default buffer of 16 KiB holds."""

_BEGIN_SECONDS: Final = 1_790_000_000
_USER_AGENT: Final = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0"


def messages(total: int, first: int = 0) -> list[bytes]:
    """Return messages of one stream from number `first` on; that with number 0 has the identifier."""
    numbers = count(first * ENTRIES_A_MESSAGE)
    made = []
    for index in range(first, first + total):
        message = StreamAccessLogsMessage()
        if index == 0:
            message.identifier.log_name = "edge"
            message.identifier.node.id = "envoy-1"
            message.identifier.node.cluster = "front"
        message.http_logs.log_entry.extend(_entry(next(numbers)) for _ in range(ENTRIES_A_MESSAGE))
        made.append(message.SerializeToString())
    return made


def _entry(number: int) -> HTTPAccessLogEntry:
    """An allowed request of an API: its ids, ports and times are its own, all else repeats."""
    entry = HTTPAccessLogEntry()
    common = entry.common_properties
    _address(common.downstream_remote_address, "203.0.113.9", 30_000 + number // 20 % 30_000)
    _address(common.downstream_direct_remote_address, "203.0.113.9", 30_000 + number // 20 % 30_000)
    _address(common.downstream_local_address, "10.0.0.4", 8443)
    _address(common.upstream_remote_address, f"10.0.1.{number % 8}", 8080)
    _address(common.upstream_local_address, "10.0.0.4", 40_000 + number % 16)
    common.start_time.seconds = _BEGIN_SECONDS + number // 5_000
    common.start_time.nanos = number % 5_000 * 200_000 + 123
    for step, time in enumerate(
        (
            common.time_to_last_rx_byte,
            common.time_to_first_upstream_tx_byte,
            common.time_to_last_upstream_tx_byte,
            common.time_to_first_upstream_rx_byte,
            common.time_to_last_upstream_rx_byte,
            common.time_to_first_downstream_tx_byte,
            common.time_to_last_downstream_tx_byte,
            common.duration,
        )
    ):
        time.nanos = 61_000 + step * 411_000 + number * 7_919 % 1_000_000
    common.upstream_cluster = "orders"
    common.route_name = "orders-read"
    common.upstream_request_attempt_count = 1
    common.stream_id = f"7e0f5c1a-2b0d-4b8f-9d52-{number:012x}"
    common.downstream_wire_bytes_received = 212
    common.downstream_wire_bytes_sent = 1_300 + number % 100
    common.upstream_wire_bytes_received = 1_700 + number % 100
    common.upstream_wire_bytes_sent = 611
    common.access_log_type = DownstreamEnd
    _add_answers(entry, number)
    entry.protocol_version = HTTPAccessLogEntry.HTTP2
    _add_http(entry, number)
    return entry


def _address(address: Address, host: str, port: int) -> None:
    address.socket_address.address = host
    address.socket_address.port_value = port


def _add_answers(entry: HTTPAccessLogEntry, number: int) -> None:
    """Add what authz and ratelimit said of the request."""
    answers = entry.common_properties.metadata.filter_metadata
    answers["envoy.filters.http.ext_authz"].update(
        {
            "decision_id": f"0198f2c4{number:018x}",
            "outcome": "allow",
            "reason": "allowed",
            "rule": "orders-read",
            "policy_revision": "3f1c9a2b7d40",
            "subject": f"user-{number % 500}",
            "credential": "jwt",
        }
    )
    answers["envoy.filters.http.ratelimit"].update({"domain": "edge", "outcome": "ok"})


def _add_http(entry: HTTPAccessLogEntry, number: int) -> None:
    request, response = entry.request, entry.response
    request.request_method = GET
    request.scheme = "https"
    request.authority = "api.example.com"
    request.path = f"/v1/orders/{number}?expand=lines"
    request.user_agent = _USER_AGENT
    request.referer = "https://app.example.com/orders"
    request.request_id = entry.common_properties.stream_id
    request.request_headers_bytes = 700
    request.request_headers["accept"] = "application/json"
    request.upstream_header_bytes_sent = 560
    request.downstream_header_bytes_received = 180
    response.response_code.value = 200
    response.response_headers_bytes = 320
    response.response_body_bytes = 1_024 + number % 100
    response.response_code_details = "via_upstream"
    response.response_headers["content-type"] = "application/json"
    response.upstream_header_bytes_received = 310
    response.downstream_header_bytes_sent = 320
