"""Header blocks that differ from an earlier one only in the values of some metadata.

A tracing header differs in each call. As we announce a dynamic table of no bytes, all else in the block is
the same bytes again: they are compared, and only the values between them are checked. Nothing is decoded
until a handler reads the metadata.
"""

from collections.abc import Iterable
from typing import Final

from sidecars.transport.http2 import huffman
from sidecars.transport.http2.header_block import FIELD_OVERHEAD_BYTES, HeaderBlock, read_string
from sidecars.transport.http2.headers import (
    FIELD_BYTES,
    METADATA_VALUE,
    SPOKEN,
    Field,
    is_binary,
)

MAX_HOLES: Final = 8
"""Values that may differ: a tracer sends up to five. Bounds the work for a block that fits no template."""

_LONG: Final = 0x7F
"""A length from here on takes more than one byte (RFC 7541 section 5.1). Such a value fits no template."""
_HUFFMAN: Final = 0x80
_MAX_VALUE_BYTES: Final = 2 * _LONG
"""A value in a template has no more bytes when decoded: the shortest Huffman code has five bits."""


Kind = tuple[Field | bytes, ...]


def kind_of(fields: Iterable[Field]) -> Kind:
    """What decides how a call is served, and the names of all else: equal in blocks that fit a template."""
    return tuple([field if field[0] in SPOKEN else field[0] for field in fields])


class HeaderTemplate:
    """A header block with holes where a value may differ. Valid until the dynamic table changes."""

    __slots__ = (
        "_before",
        "_block",
        "_holes",
        "_last_bytes",
        "_last_part",
        "memory_bytes",
        "most_list_bytes",
    )

    def __init__(self, encoded: bytes, block: HeaderBlock, holes: frozenset[int]) -> None:
        self._block = block
        self._holes = holes
        """The places of the fields whose values may differ."""
        before: list[tuple[bytes, int, bool]] = []
        pos = 0
        for hole in sorted(holes):
            start, stop = block.values[hole]
            before.append((encoded[pos:start], start - pos, block.fields[hole][0].endswith(b"-bin")))
            pos = stop
        self._before = tuple(before)
        """The bytes before each hole, how many, and whether the value must be base64."""
        self._last_part = encoded[pos:]
        self._last_bytes = len(encoded) - pos
        text_bytes = sum(
            len(name) + (_MAX_VALUE_BYTES if place in holes else len(value))
            for place, (name, value) in enumerate(block.fields)
        )
        count = len(block.fields)
        self.most_list_bytes = text_bytes + FIELD_OVERHEAD_BYTES * count
        """The size of the largest header list that fits."""
        self.memory_bytes = text_bytes + FIELD_BYTES * count
        """The approximate memory for such a list."""

    def fits(self, encoded: bytes) -> bool:
        """Whether a header block differs only in the holes, and with values that are allowed there."""
        if not encoded.endswith(self._last_part):
            return False
        stop = len(encoded) - self._last_bytes
        pos = 0
        for part, size, binary in self._before:
            if not encoded.startswith(part, pos):
                return False
            pos += size
            if pos >= stop:
                return False
            first = encoded[pos]
            length = first & _LONG
            start = pos + 1
            pos = start + length
            if length == _LONG or pos > stop:
                return False
            value = encoded[start:pos]
            if not (huffman.is_field_value(value) if first & _HUFFMAN else METADATA_VALUE.fullmatch(value)):
                return False
            if binary and not is_binary(read_string(encoded, start - 1)[0]):
                return False
        return pos == stop

    def fields_of(self, encoded: bytes) -> list[Field]:
        """The fields of a header block that fits."""
        fields = self._block.fields.copy()
        pos = 0
        for hole, (_, size, _) in zip(sorted(self._holes), self._before, strict=True):
            value, pos = read_string(encoded, pos + size)
            fields[hole] = (fields[hole][0], value)
        return fields

    def holes_for(self, block: HeaderBlock) -> frozenset[int]:
        """The holes of a template that fits `block`, too, which is of the same kind; none if too many."""
        both = enumerate(zip(self._block.fields, block.fields, strict=True))
        holes = self._holes.union(place for place, (mine, other) in both if mine != other)
        return holes if len(holes) <= MAX_HOLES and holes <= block.values.keys() else frozenset()
