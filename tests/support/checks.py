"""Check requests as Envoy sends them, for tests of authz."""

from collections.abc import Mapping, Sequence

from authz.request.request import Request
from protos.authz_pb2 import CheckRequest

Headers = Mapping[str, str] | Sequence[tuple[str, str | bytes]]


def check_request(
    method: str = "GET",
    path: str = "/",
    host: str = "api.example.com",
    headers: Headers = (),
    source: str = "192.0.2.1",
    principal: str = "",
) -> CheckRequest:
    """Return a check request.

    A mapping becomes Envoy's header map; pairs become raw headers (encode_raw_headers).
    """
    message = CheckRequest()
    http = message.attributes.request.http
    http.method, http.path, http.host = method, path, host
    message.attributes.source.address.socket_address.address = source
    message.attributes.source.principal = principal
    if isinstance(headers, Mapping):
        http.headers.update(headers)
        return message
    for name, value in headers:
        raw = value.encode() if isinstance(value, str) else value
        http.header_map.headers.add(key=name, raw_value=raw)
    return message


def request(
    method: str = "GET",
    path: str = "/",
    host: str = "api.example.com",
    headers: Headers = (),
    source: str = "192.0.2.1",
    trusted_hops: int = 0,
    principal: str = "",
) -> Request:
    """Return the parsed check request."""
    return Request(check_request(method, path, host, headers, source, principal), trusted_hops)
