"""Reads CheckRequests and writes CheckResponses: no other module of authz knows their fields.

A request is read on the path of every check, so nothing is copied from it: the readers below are
`attrgetter`s, which read several fields in one C call, and headers are decoded when they are asked for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from string import printable
from typing import Any, Final
from urllib.parse import quote

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue

from protos.authz_pb2 import AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse
from protos.core_pb2 import HeaderValue, HeaderValueOption, QueryParameter
from protos.lenient import original, parse, parse_refused
from protos.types_pb2 import HttpStatus, StatusCode
from protos.undecoded import undecoded

__all__ = ["CheckRequest", "DeniedHttpResponse", "HeaderValueOption"]

Http = AttributeContext.HttpRequest
HeaderLine = HeaderValue
Peer = AttributeContext.Peer
Attributes = AttributeContext

BLANKS: Final = " \t"
"""The characters around a header's value that are not part of it (RFC 9110 section 5.5)."""

# Reading a request.


def read_request(message: bytes) -> CheckRequest:
    """Return the CheckRequest in `message`. Raises DecodeError.

    A client may put bytes that are not UTF-8 into one: Envoy copies the server name of TLS and other filters'
    metadata as they came. Refused as a message, such a check would be an error, which `failure_mode_allow`
    lets pass.
    """
    try:
        return _parse(message)
    except DecodeError:
        check = parse_refused(CheckRequest, message)
    http = check.attributes.request.http
    if not http.path.isascii():
        # As escapes they are what no rule may accept: path_not_utf8.
        http.path = quote(original(http.path), safe=printable)
    return check


_ATTRIBUTES: Final = AttributeContext.DESCRIPTOR.full_name
_parse: Final[Callable[[bytes], CheckRequest]] = undecoded(
    CheckRequest,
    {
        f"{_ATTRIBUTES}.{name}"
        for name in ("source", "destination", "metadata_context", "tls_session", "route_metadata_context")
    },
).FromString
"""Reads a CheckRequest, with bytes for the parts that few policies need, or none."""

attributes_of: Callable[[CheckRequest], Attributes] = attrgetter("attributes")
"""What the readers below read: protobuf makes another object for each look at it, so it is kept."""

http_of: Callable[[Attributes], Http] = attrgetter("request.http")
"""The HTTP request that a check is about."""

head_of: Callable[[Http], tuple[str, str, str]] = attrgetter("method", "host", "path")
"""Method, host, and path with query."""

_lines_of: Callable[[Http], Iterable[HeaderLine]] = attrgetter("header_map.headers")

header_map_of: Callable[[Http], Mapping[str, str]] = attrgetter("headers")
"""The headers as a map with one value for each name, in which repeated ones are joined by commas."""

name_of: Callable[[HeaderLine], str] = attrgetter("key")
"""The lower-case name of a header line."""

raw_value_of: Callable[[HeaderLine], bytes] = attrgetter("raw_value")
"""The bytes of a header line, with outer blanks."""

ip_address_of: Callable[[Peer], str] = attrgetter("address.socket_address.address")
"""The IP address of a peer; empty for a unix socket."""

_source_of: Callable[[Attributes], Peer | bytes] = attrgetter("source")


def peer_of(attributes: Attributes) -> Peer:
    """Return the other end of the connection. Raises DecodeError."""
    source = _source_of(attributes)
    return parse(Peer, source) if isinstance(source, bytes) else source


def peer_bytes_of(attributes: Attributes) -> bytes:
    """Return the other end of the connection for `address_of`, without a certificate."""
    source = _source_of(attributes)
    if isinstance(source, bytes) and len(source) <= MAX_PEER_BYTES:
        return source
    return Peer(address=peer_of(attributes).address).SerializeToString()


def address_of(peer: bytes) -> str:
    """Return the IP address of a peer; empty for a unix socket, and for bytes that are not a peer."""
    try:
        return ip_address_of(parse(Peer, peer))
    except DecodeError:
        return ""


MAX_PEER_BYTES: Final = 256
"""The longest peer that is kept as it came; one with a certificate has kilobytes."""

context_extensions_of: Callable[[Attributes], Mapping[str, str]] = attrgetter("context_extensions")
"""The route's `context_extensions` for the ext_authz filter."""

raw_body_of: Callable[[Http], bytes] = attrgetter("raw_body")
"""The body, if Envoy sends it as bytes (`pack_as_bytes`)."""

text_body_of: Callable[[Http], str] = attrgetter("body")
"""The body, if Envoy sends it as text."""


def lines_of(http: Http) -> list[HeaderLine]:
    """Return the header lines; none if Envoy sends headers as a map."""
    # The test costs less than an empty list of protobuf.
    return list(_lines_of(http)) if http.HasField("header_map") else []


def value_of(line: HeaderLine) -> str:
    """Return the value of a header line: each byte as one character (Latin-1), without outer blanks."""
    return line.raw_value.decode("latin-1").strip(BLANKS) or as_bytes_would_read(line.value)


def as_bytes_would_read(value: str) -> str:
    """Return `value` as `value_of` returns it for the same header sent as bytes."""
    return (value if value.isascii() else value.encode().decode("latin-1")).strip(BLANKS)


def first_value(http: Http, name: str) -> str:
    """Return the first value of the header of this lower-case name, as it was sent; empty without one."""
    for header in http.header_map.headers:
        if header.key == name:
            return header.raw_value.decode("latin-1") or header.value
    return http.headers.get(name, "")


def write_request(
    method: str,
    host: str,
    path: str,
    *,
    scheme: str = "",
    client: str = "",
    principal: str = "",
    context_extensions: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    lines: Iterable[tuple[str, bytes]] = (),
    body: bytes = b"",
) -> CheckRequest:
    """Return the CheckRequest that Envoy would send; `lines` are headers sent as with encode_raw_headers."""
    check = CheckRequest()
    attributes = check.attributes
    http = attributes.request.http
    http.method, http.host, http.path, http.scheme, http.raw_body = method, host, path, scheme, body
    attributes.source.address.socket_address.address = client
    attributes.source.principal = principal
    attributes.context_extensions.update(context_extensions or {})
    http.headers.update(headers or {})
    for name, value in lines:
        http.header_map.headers.add(key=name, raw_value=value)
    return check


# Writing a response.


def overwriting(name: str, value: str) -> HeaderValueOption:
    """Return a header that replaces every header of the same name.

    It sets both fields: `append` is deprecated, but Envoy 1.37 reads its absence as "append"
    (envoyproxy/envoy#43310), and versions before 1.25 do not know `append_action`.
    """
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append=BoolValue(value=False),
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def appending(name: str, value: str) -> HeaderValueOption:
    """Return a header that is added to those of the same name, such as Vary. Envoy ignores it in denials."""
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append=BoolValue(value=True),
        append_action=HeaderValueOption.APPEND_IF_EXISTS_OR_ADD,
    )


def denied(
    status: int, headers: Mapping[str, str], body: str, set_cookies: Iterable[str] = ()
) -> DeniedHttpResponse:
    """Return a response that Envoy sends to the client."""
    # Envoy sends each header of a denial on its own line and ignores headers to be appended.
    return DeniedHttpResponse(
        status=HttpStatus(code=StatusCode.Name(status)),
        headers=[
            *(overwriting(name, value) for name, value in headers.items()),
            *(overwriting("set-cookie", line) for line in set_cookies),
        ],
        body=body,
    )


def allow_response(
    metadata: Mapping[str, Any],
    *,
    headers: Mapping[str, str],
    removed_headers: Iterable[str],
    response_headers: Iterable[HeaderValueOption],
    query_set: Mapping[str, str],
) -> bytes:
    """Return the CheckResponse that lets a request through, with changes of it and of its response.

    `query_set` must be escaped: Envoy writes a claim `a&admin=1` into the path as two parameters.
    """
    allowed = OkHttpResponse(
        headers=[overwriting(name, value) for name, value in headers.items()],
        headers_to_remove=removed_headers,
        response_headers_to_add=response_headers,
        query_parameters_to_set=[QueryParameter(key=name, value=value) for name, value in query_set.items()],
    )
    return CheckResponse(ok_response=allowed, dynamic_metadata=_struct(metadata)).SerializeToString()


def refusal_response(
    denied: DeniedHttpResponse, metadata: Mapping[str, Any], *, code: int, reason: str, error: bool
) -> bytes:
    """Return the CheckResponse that refuses a request: a denial, or an error. `code` is a gRPC status."""
    response = CheckResponse(dynamic_metadata=_struct(metadata))
    response.status.code = code
    response.status.message = reason
    (response.error_response if error else response.denied_response).CopyFrom(denied)
    return response.SerializeToString()


def _struct(fields: Mapping[str, Any]) -> Struct:
    struct = Struct()
    struct.update(fields)
    return struct


# Parts that are appended to a response: protobuf reads two messages in a row as one, merged.


def header_set(name: str, value: str) -> bytes:
    """Return the part of an allow that sets a header of the request."""
    return _allow(OkHttpResponse(headers=[overwriting(name, value)]))


def headers_removed(names: Sequence[str]) -> bytes:
    """Return the part of an allow that removes headers of the request."""
    return _allow(OkHttpResponse(headers_to_remove=names))


def parameters_removed(names: Sequence[str]) -> bytes:
    """Return the part of an allow that removes query parameters."""
    return _allow(OkHttpResponse(query_parameters_to_remove=names))


def response_headers_added(headers: Iterable[HeaderValueOption]) -> bytes:
    """Return the part of an allow that adds headers to the response."""
    return _allow(OkHttpResponse(response_headers_to_add=headers))


def refusal_headers_added(headers: Iterable[HeaderValueOption], *, error: bool) -> bytes:
    """Return the part of a denial, or of an error, that adds headers to it."""
    part = DeniedHttpResponse(headers=headers)
    response = CheckResponse(error_response=part) if error else CheckResponse(denied_response=part)
    return response.SerializeToString()


def _allow(part: OkHttpResponse) -> bytes:
    return CheckResponse(ok_response=part).SerializeToString()


# Reading a response, for metrics and for test suites of policies.


def decision_id_of(message: bytes) -> str:
    """Return the id of the decision in the CheckResponse `message`."""
    return str(CheckResponse.FromString(message).dynamic_metadata.fields["decision_id"].string_value)


@dataclass(frozen=True, slots=True)
class ResponseContent:
    """The content of a CheckResponse. What a refusal lacks, an allow has, and the reverse."""

    headers: Mapping[str, str]
    removed_headers: Sequence[str]
    response_headers: Mapping[str, str]
    """The headers that the client gets."""
    query_set: Mapping[str, str]
    query_removed: Sequence[str]
    body: str
    metadata: Mapping[str, Any]


def read_response(message: bytes) -> ResponseContent:
    """Return the content of the CheckResponse in `message`."""
    response = CheckResponse.FromString(message)
    ok = response.ok_response
    refusal = response.error_response if response.HasField("error_response") else response.denied_response
    return ResponseContent(
        _pairs(ok.headers),
        tuple(ok.headers_to_remove),
        _pairs((*ok.response_headers_to_add, *refusal.headers)),
        {one.key: one.value for one in ok.query_parameters_to_set},
        tuple(ok.query_parameters_to_remove),
        refusal.body,
        MessageToDict(response.dynamic_metadata),
    )


def _pairs(options: Iterable[HeaderValueOption]) -> dict[str, str]:
    return {option.header.key: option.header.value for option in options}
