"""Access-log messages as Envoy sends them for realistic requests."""

from collections.abc import Iterator
from typing import Final

from protos.accesslog_pb2 import StreamAccessLogsMessage
from protos.core_pb2 import GET

ENTRIES: Final = 16
"""About what Envoy's default buffer of 16 KiB holds."""
START_SECONDS: Final = 1_790_000_000


def log_messages(count: int) -> Iterator[bytes]:
    """Yield messages of ENTRIES entries each. No two entries are the same."""
    for number in range(count):
        message = StreamAccessLogsMessage()
        message.identifier.log_name = "edge"
        message.identifier.node.id = "edge-1"
        for place in range(ENTRIES):
            _fill(message, number * ENTRIES + place)
        yield message.SerializeToString()


def _fill(message: StreamAccessLogsMessage, number: int) -> None:
    entry = message.http_logs.log_entry.add()
    common = entry.common_properties
    for address, port in (
        (common.downstream_remote_address, 40_000 + number % 20_000),
        (common.downstream_direct_remote_address, 40_000 + number % 20_000),
        (common.downstream_local_address, 10_000),
        (common.upstream_remote_address, 8080),
    ):
        address.socket_address.address = "127.0.0.1"
        address.socket_address.port_value = port
    common.start_time.seconds = START_SECONDS + number
    common.time_to_last_rx_byte.nanos = 30_000
    common.time_to_first_upstream_tx_byte.nanos = 400_000
    common.time_to_last_downstream_tx_byte.nanos = 1_200_000
    common.upstream_cluster = "upstream"
    common.route_name = "default"
    request = entry.request
    request.request_method = GET
    request.scheme, request.authority = "https", "api.example.com"
    request.path = f"/service-{number % 100}/orders/{number}?page={number % 1000}"
    request.user_agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
    request.referer = "https://app.example.com/orders"
    request.forwarded_for = "192.0.2.1"
    request.request_id = f"{number:08x}-2b0d-4b8f-9d52-0c6f6d2f7a11"
    request.request_headers["traceparent"] = f"00-{number:032x}-{number:016x}-01"
    entry.response.response_code.value = 200
    entry.response.response_body_bytes = 3
    entry.response.response_code_details = "via_upstream"
    entry.response.response_headers["content-type"] = "text/plain"
