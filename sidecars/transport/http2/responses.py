"""Replies as bytes: response headers and trailers, built once if they are always the same.

Replies use no dynamic table: the common reply has 35 bytes of header blocks, the same for every stream.
"""

from struct import Struct
from typing import Final

from hpack.hpack import encode_integer

from sidecars.transport.api.service import Code, Status
from sidecars.transport.http2.frames import END_HEADERS, END_STREAM, HEADERS, head
from sidecars.transport.http2.messages import PREFIX_BYTES

MAX_STATUS_MESSAGE_BYTES: Final = 4 * 1024
"""The longest grpc-message after percent-encoding. Clients refuse header lists of 8 KB and more."""

TOO_MANY_HELD_BYTES: Final = Status(Code.RESOURCE_EXHAUSTED, "the server holds too many unfinished messages")

NOT_ONE_MESSAGE: Final = Status(Code.UNIMPLEMENTED, "expected exactly one request message")
"""A cardinality violation (grpc/grpc doc/statuscodes.md). grpcio serves the first of several all the same."""

ACCEPT_ENCODING: Final = "identity,gzip"


def _text(value: bytes) -> bytes:
    return bytes(encode_integer(len(value), 7)) + value


def _literal(name: str, value: str) -> bytes:
    """A literal field without indexing, new name (RFC 7541 section 6.2.2)."""
    return b"\x00" + _text(name.encode()) + _text(value.encode())


_STATUS_200: Final = b"\x88"
_CONTENT_TYPE: Final = b"\x0f\x10" + _text(b"application/grpc")  # entry 31 of the static table
_TEXT_PLAIN: Final = b"\x0f\x10" + _text(b"text/plain")
RESPONSE_BLOCK: Final = _STATUS_200 + _CONTENT_TYPE
_TRAILER_BLOCKS: Final = {code: _literal("grpc-status", str(code.value)) for code in Code}
_OK_TRAILER_BLOCK: Final = _TRAILER_BLOCKS[Code.OK]
_ACCEPT_ENCODING_FIELD: Final = _literal("grpc-accept-encoding", ACCEPT_ENCODING)

_RESPONSE: Final = len(RESPONSE_BLOCK) << 8 | HEADERS
_OK_TRAILERS: Final = len(_OK_TRAILER_BLOCK) << 8 | HEADERS
_REPLY: Final = Struct(f">IBI{len(RESPONSE_BLOCK)}sIBIBI")
_TRAILERS: Final = Struct(f">IBI{len(_OK_TRAILER_BLOCK)}s")
_END: Final = END_HEADERS | END_STREAM


def unary_reply(stream_id: int, message: bytes) -> tuple[bytes, bytes, bytes]:
    """A complete successful reply in one DATA frame: bytes before the message, the message, trailers."""
    length = len(message)
    return (
        _REPLY.pack(
            _RESPONSE,
            END_HEADERS,
            stream_id,
            RESPONSE_BLOCK,
            (length + PREFIX_BYTES) << 8,
            0,
            stream_id,
            0,
            length,
        ),
        message,
        _TRAILERS.pack(_OK_TRAILERS, _END, stream_id, _OK_TRAILER_BLOCK),
    )


def ok_trailers(stream_id: int) -> bytes:
    """The trailers after replies that went well."""
    return _TRAILERS.pack(_OK_TRAILERS, _END, stream_id, _OK_TRAILER_BLOCK)


def response_headers(stream_id: int) -> bytes:
    """The headers before the first message of a streamed reply."""
    return head(HEADERS, END_HEADERS, stream_id, len(RESPONSE_BLOCK)) + RESPONSE_BLOCK


def trailers(stream_id: int, status: Status) -> bytes:
    """The end of a reply whose headers are sent."""
    return _end(stream_id, _status_block(status))


def trailers_only(stream_id: int, status: Status) -> bytes:
    """A whole reply without a message. UNIMPLEMENTED tells which encodings there are."""
    block = RESPONSE_BLOCK + _status_block(status)
    if status.code is Code.UNIMPLEMENTED:
        block += _ACCEPT_ENCODING_FIELD
    return _end(stream_id, block)


NO_GRPC_TEXT: Final = b"This is a gRPC server: POST with content-type application/grpc.\n"


def no_grpc_headers(stream_id: int, status: int) -> bytes:
    """The headers before `NO_GRPC_TEXT`, the reply to a request that is not gRPC: 405 or 415."""
    block = b"\x08" + _text(str(status).encode()) + _TEXT_PLAIN  # :status is entry 8 of the static table
    if status == 405:
        block += _literal("allow", "POST")
    return head(HEADERS, END_HEADERS, stream_id, len(block)) + block


def _end(stream_id: int, block: bytes) -> bytes:
    return head(HEADERS, _END, stream_id, len(block)) + block


def _status_block(status: Status) -> bytes:
    block = _TRAILER_BLOCKS[status.code]
    return block + _literal("grpc-message", percent_encoded(status.message)) if status.message else block


def percent_encoded(message: str) -> str:
    """`message` as grpc-message carries it (gRPC over HTTP/2: Percent-Encoded), cut to the limit.

    A space at either edge is encoded as well: a field value has none there (RFC 9113 section 8.2.1).
    """
    raw = message.encode("utf-8", "replace")
    edges = (0, len(raw) - 1)
    parts = []
    size = 0
    for index, byte in enumerate(raw):
        plain = 0x20 <= byte <= 0x7E and byte != 0x25 and not (byte == 0x20 and index in edges)
        part = chr(byte) if plain else f"%{byte:02X}"
        size += len(part)
        if size > MAX_STATUS_MESSAGE_BYTES:
            break
        parts.append(part)
    return "".join(parts)
