"""Decoded header lists as requests: checked once, then looked up."""

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, Protocol

from sidecars.transport.api.service import Code, Metadata, Method, Status, Unary, UnaryHandler

Field = tuple[bytes, bytes]

_NAME: Final = re.compile(rb"[^\x00-\x20A-Z\x7f-\xff:]+")
_VALUE: Final = re.compile(rb"(?:[^\x00\r\n \t](?:[^\x00\r\n]*[^\x00\r\n \t])?)?")
METADATA_VALUE: Final = re.compile(rb"[^\x00\r\n]*")
"""A value of a field that is only carried."""
_BLANKS: Final = b" \t"
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_TIMEOUT_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_CONTENT_TYPE: Final = re.compile(rb"application/grpc(?:\+[^;]*)?(?:[; ].*)?", re.DOTALL)

_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_CONNECTION_SPECIFIC: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
"""Fields of HTTP/1; a request with one of them is malformed (RFC 9113 section 8.2.2)."""

SPOKEN: Final = (
    _PSEUDO
    | {b":status"}
    | _CONNECTION_SPECIFIC
    | {b"te", b"content-type", b"content-length", b"grpc-timeout", b"grpc-encoding"}
)
"""Fields that decide whether and how a call is served; all others are only carried. No request may have a
`:status`, but it is in the static table, so it can come without being spelt out (RFC 7541 appendix A)."""

FIELD_BYTES: Final = 320
"""Memory for a field of a header list in addition to its text: three or four objects, and as many again once
a handler has read the metadata. HPACK counts 32 (RFC 7541 section 4.1)."""

_NO_METADATA: Final = frozenset(
    {
        *(b"te", b"content-type", b"content-length", b"host"),
        *(b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"grpc-message-type"),
    }
)
"""Fields of the protocol itself, which handlers do not see as metadata."""

ANY_LENGTH: Final = -1


class MalformedRequestError(Exception):
    """A header list that HTTP/2 forbids (RFC 9113 section 8.1.1)."""


class HeaderListTooLargeError(Exception):
    """A header list that is decoded, and larger than a call may have."""

    def __init__(self, size: int, most: int) -> None:
        super().__init__(f"metadata of {size} bytes with 32 for each field: at most {most}")


class Template(Protocol):
    """What header blocks have in common that differ in their metadata only."""

    def fields_of(self, encoded: bytes) -> Sequence[Field]:
        """The header list of such a block."""


class RequestHead:
    """What one header list asks for. Shared by all calls with the same header block, so never changed."""

    __slots__ = (
        "_metadata",
        "content_length",
        "fields",
        "gzip",
        "http_status",
        "memory_bytes",
        "metadata_refused",
        "method",
        "path",
        "refusal",
        "template",
        "timeout_seconds",
        "unary",
    )

    def __init__(self, path: str, fields: Sequence[Field]) -> None:
        self.path = path
        self.fields = fields
        self.method: Method | None = None
        self.unary: UnaryHandler | None = None
        """The handler, if the method is unary and the request may be served."""
        self.timeout_seconds: float | None = None
        self.content_length = ANY_LENGTH
        self.gzip = False
        self.http_status = 0
        """The HTTP status for a request that is not gRPC: 405 or 415; else 0."""
        self.refusal: Status | None = None
        """The answer to a request that no handler sees."""
        self.metadata_refused = False
        """Whether it is refused for metadata that has no value."""
        self._metadata: Metadata | None = None
        self.template: Template | None = None
        """What reads the metadata of each call, if it differs; `fields` are then those of the first."""
        self.memory_bytes = 0
        """The approximate memory for `fields`; 0 until it is known or `estimate_memory` is called."""

    @classmethod
    def refused(cls, status: Status) -> "RequestHead":
        """A request that keeps only its answer."""
        request = cls("", ())
        request.refusal = status
        return request

    def estimate_memory(self) -> int:
        """Set and return `memory_bytes`."""
        self.memory_bytes = sum(map(len, chain.from_iterable(self.fields))) + FIELD_BYTES * len(self.fields)
        return self.memory_bytes

    def metadata_of(self, block: bytes) -> Metadata:
        """The metadata of a call whose header block is `block`, decoded when asked for."""
        if self.template is not None:
            return read_metadata(self.template.fields_of(block))
        if self._metadata is None:
            self._metadata = read_metadata(self.fields)
        return self._metadata


def read_metadata(fields: Iterable[Field]) -> Metadata:
    """Text as str, binary (`-bin`) as bytes, no fields of the protocol; the last of a name counts.

    Blanks around a text are not part of it (gRPC over HTTP/2: they may be stripped).
    """
    metadata: dict[str, str | bytes] = {}
    for name, value in fields:
        if name.startswith(b":") or name in _NO_METADATA:
            continue
        if name.endswith(b"-bin"):
            metadata[name.decode()] = _binary(value)
        else:
            metadata[name.decode()] = value.strip(_BLANKS).decode("utf-8", "replace")
    return metadata


def _binary(value: bytes) -> bytes:
    """Base64, padded or not; of several values joined by commas the last one. Raises ValueError."""
    last = value.rpartition(b",")[2].strip().rstrip(b"=")
    return b64decode(last + b"=" * (-len(last) % 4), validate=True)


def is_binary(value: bytes) -> bool:
    """Whether a value of a `-bin` field is base64."""
    try:
        _binary(value)
    except ValueError:
        return False
    return True


def read_request(fields: Sequence[Field], methods: Mapping[bytes, Method]) -> RequestHead:
    """The request in a decoded header list. Raises MalformedRequestError for what HTTP/2 forbids.

    What HTTP/2 allows and gRPC does not is a request with a refusal.
    """
    pseudo = _read_pseudo(fields)
    try:
        request = RequestHead(pseudo[b":path"].decode("ascii"), fields)
    except UnicodeDecodeError:
        raise MalformedRequestError(":path is not ASCII") from None
    content_type = b""
    for name, value in fields[len(pseudo) :]:
        match name:
            case b"content-type":
                content_type = value
            case b"content-length":
                request.content_length = _content_length(value, request.content_length)
            case b"grpc-timeout":
                _read_timeout(request, value)
            case b"grpc-encoding":
                _read_encoding(request, value)
            case _ if name.endswith(b"-bin") and not is_binary(value):
                request.metadata_refused = True
                request.refusal = Status(Code.INTERNAL, f"metadata {name.decode()}: the value is not base64")
    if pseudo[b":method"] != b"POST":
        request.http_status = 405
    elif not _CONTENT_TYPE.fullmatch(content_type):
        request.http_status = 415
    request.method = methods.get(pseudo[b":path"])
    if request.method is None:
        request.refusal = Status(Code.UNIMPLEMENTED, f"unknown method {request.path}")
    elif isinstance(request.method, Unary) and not request.http_status and request.refusal is None:
        request.unary = request.method.handler
    return request


def _read_pseudo(fields: Sequence[Field]) -> dict[bytes, bytes]:
    pseudo: dict[bytes, bytes] = {}
    for index, (name, value) in enumerate(fields):
        if not name.startswith(b":"):
            for field in fields[index:]:
                check_field(*field)
            break
        if name not in _PSEUDO or name in pseudo:
            raise MalformedRequestError(f"pseudo-header {name!r} is unknown or comes twice")
        if not _VALUE.fullmatch(value):
            raise MalformedRequestError(f"forbidden character in {name!r}")
        pseudo[name] = value
    for name in (b":method", b":scheme", b":path"):
        if not pseudo.get(name):
            raise MalformedRequestError(f"pseudo-header {name!r} is missing or empty")
    return pseudo


def check_field(name: bytes, value: bytes) -> None:
    """Raises MalformedRequestError for a regular field that HTTP/2 forbids (RFC 9113 section 8.2).

    Metadata may have blanks around its value all the same: gRPC lets an application send them, and a reset
    would end the call without a reason.
    """
    if not _NAME.fullmatch(name):
        raise MalformedRequestError(f"forbidden field name {name!r}")
    if not (_VALUE if name in SPOKEN else METADATA_VALUE).fullmatch(value):
        raise MalformedRequestError(f"forbidden character in the value of {name!r}")
    if name in _CONNECTION_SPECIFIC:
        raise MalformedRequestError(f"connection-specific field {name!r}")
    if name == b"te" and value != b"trailers":
        raise MalformedRequestError("te with other than trailers")


def check_trailers(fields: Iterable[Field]) -> None:
    """Raises MalformedRequestError where trailers hold a forbidden field; a pseudo-header is one."""
    for name, value in fields:
        check_field(name, value)


def _content_length(value: bytes, earlier: int) -> int:
    if not value.isdigit() or len(value) > 19:
        raise MalformedRequestError("content-length is not a number")
    length = int(value)
    if earlier not in {ANY_LENGTH, length}:
        raise MalformedRequestError("two values of content-length")
    return length


def _read_timeout(request: RequestHead, value: bytes) -> None:
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        request.refusal = Status(Code.INTERNAL, "grpc-timeout: expected at most 8 digits and a unit")
        return
    request.timeout_seconds = int(match[1]) * _TIMEOUT_SECONDS[match[2]]
    if not request.timeout_seconds:
        request.refusal = Status(Code.DEADLINE_EXCEEDED, "the deadline had passed on arrival")


def _read_encoding(request: RequestHead, value: bytes) -> None:
    request.gzip = value == b"gzip"
    if value not in {b"gzip", b"identity"}:
        request.refusal = Status(
            Code.UNIMPLEMENTED,
            f"grpc-encoding {value.decode('ascii', 'replace')!r} is not supported: use gzip or identity",
        )
