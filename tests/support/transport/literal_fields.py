"""Header blocks of literal fields, as clients send them that have no dynamic table."""

import os
from collections.abc import Iterable

from hpack.hpack import encode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from tests.support.transport.wire import request_fields

WITH_INDEXING, WITHOUT, NEVER = 0x40, 0x00, 0x10
"""Kinds of literal fields (RFC 7541 section 6.2). Envoy's two codecs send the first and the second when the
table has no bytes, and grpcio sends both."""

HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
Field = tuple[bytes, bytes]
USUAL = [(name.encode(), value.encode()) for name, value in request_fields("/p/Echo")]


def string(text: bytes, *, huffman: bool = True) -> bytes:
    encoded: bytes = HUFFMAN.encode(text) if huffman else text
    length = encode_integer(len(encoded), 7)
    length[0] |= huffman << 7
    return bytes(length) + encoded


def literal(field: Field, kind: int = WITHOUT, *, huffman: bool = True) -> bytes:
    name, value = field
    return bytes([kind]) + string(name, huffman=huffman) + string(value, huffman=huffman)


def literals(fields: Iterable[Field], kind: int = WITHOUT, *, huffman: bool = True) -> bytes:
    return b"".join(literal(field, kind, huffman=huffman) for field in fields)


def trace() -> Field:
    return b"traceparent", f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01".encode()
