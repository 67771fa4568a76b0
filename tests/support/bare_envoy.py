"""A listener that passes malformed requests on, and a client that sends them, for scenarios.

The edge of `envoy-test/envoy.yaml` normalises or refuses many requests before the check, so they do not test
authz. The second listener does neither, and both mark each response that is not from the upstream with its
sender.
"""

import asyncio
from collections.abc import Iterable
from copy import deepcopy
from http.client import parse_headers
from io import BytesIO
from pathlib import Path
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded
from multidict import CIMultiDict, CIMultiDictProxy

from sidecars.demo.ask import EdgeResponse
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import Edge

BARE = "bare"
"""The name of the listener without hardening."""

MAX_ANSWER_SECONDS = 20.0

_TOLD = {
    "x-details": "%RESPONSE_CODE_DETAILS%",
    "x-reason": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%",
}
_BY_AUTHZ = {"ext_authz_denied", "ext_authz_error"}


def add_bare_listener(configuration: dict[str, Any], _folder: Path) -> None:
    """The `change_envoy` of a scenario: add a listener that changes nothing and refuses only what it must."""
    listeners = configuration["static_resources"]["listeners"]
    edge = listeners[0]
    manager = http_manager(edge)
    manager["local_reply_config"] = {
        "mappers": [
            {
                "filter": {"not_health_check_filter": {}},
                "headers_to_add": [
                    {"header": {"key": name, "value": value}, "keep_empty_value": True}
                    for name, value in _TOLD.items()
                ],
            }
        ]
    }
    # Requests follow each other at once, and no limit should refuse one with 429.
    manager["http_filters"] = [one for one in manager["http_filters"] if "ratelimit" not in one["name"]]
    bare = deepcopy(edge)
    bare["name"] = BARE
    http_manager(bare).update(
        normalize_path=False,
        merge_slashes=False,
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        # This machine counts as internal, so its x-envoy-* headers are trusted.
        internal_address_config={"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]},
    )
    http_manager(bare)["common_http_protocol_options"]["headers_with_underscores_action"] = "ALLOW"
    listeners.append(bare)


async def send(
    edge: Edge,
    target: str | bytes,
    headers: Iterable[tuple[str, str | bytes]] = (),
    *,
    listener: str = BARE,
    host: str = "edge.example",
    method: str = "GET",
    body: bytes = b"",
) -> EdgeResponse:
    """Return the response of the listener without hardening to these bytes; text is sent as Latin-1.

    Raises EOFError if the connection is closed without a response of known length.
    """
    lines = [(method, target, "HTTP/1.1"), ("host:", host), ("connection:", "close")]
    head = b"\r\n".join(b" ".join(map(_bytes, line)) for line in lines) + b"\r\n"
    head += b"".join(b"%s: %s\r\n" % (_bytes(name), _bytes(value)) for name, value in headers)
    head += b"content-length: %d\r\n" % len(body) if body else b""
    async with asyncio.timeout(MAX_ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.envoy.ports[listener])
        try:
            writer.write(head + b"\r\n" + body)
            # It does not read until the connection is closed, because after an error Envoy closes it a second
            # later.
            return await _read(reader)
        finally:
            writer.close()


async def send_http2(
    edge: Edge,
    path: bytes,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    listener: str = BARE,
    authority: str = "edge.example",
) -> EdgeResponse:
    """Return Envoy's response over HTTP/2, for a path or headers that HTTP/1 cannot carry.

    Raises EOFError if the connection is closed without a response.
    """
    config = H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
    connection = H2Connection(config)
    connection.initiate_connection()
    request = {b":method": b"GET", b":scheme": b"http", b":authority": authority.encode(), b":path": path}
    connection.send_headers(1, [*request.items(), *headers], end_stream=True)
    answered: CIMultiDict[str] = CIMultiDict()
    body = b""
    async with asyncio.timeout(MAX_ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.envoy.ports[listener])
        try:
            writer.write(connection.data_to_send())
            while received := await reader.read(65536):
                for event in connection.receive_data(received):
                    if isinstance(event, ResponseReceived):
                        answered.extend((name.decode(), value.decode()) for name, value in event.headers)
                    elif isinstance(event, DataReceived):
                        body += event.data
                    elif isinstance(event, StreamEnded):
                        return EdgeResponse(int(answered.pop(":status")), CIMultiDictProxy(answered), body)
                writer.write(connection.data_to_send())
        finally:
            writer.close()
    raise EOFError("no answer")


def refused(answer: EdgeResponse) -> str:
    """Return the refuser and the reason: `authz no_rule`, `envoy http1.codec_error`; empty if not refused."""
    details = answer.headers.get("x-details")
    if details is None:
        return ""
    return f"authz {answer.headers['x-reason']}" if details in _BY_AUTHZ else f"envoy {details}"


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


async def _read(reader: asyncio.StreamReader) -> EdgeResponse:
    head = await reader.readuntil(b"\r\n\r\n")
    status, _, fields = head.partition(b"\r\n")
    headers = CIMultiDict(parse_headers(BytesIO(fields)).items())
    body = await reader.readexactly(int(headers["content-length"]))
    return EdgeResponse(int(status.split()[1]), CIMultiDictProxy(headers), body)
