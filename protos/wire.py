"""The bytes of a message, field by field, without its descriptor (protobuf.dev, "Encoding")."""

from collections.abc import Iterator
from typing import Final

from google.protobuf.message import DecodeError

_VARINT, _FIXED64, _LENGTH_DELIMITED, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
_BYTES_AFTER_TAG: Final = {_FIXED64: 8, _FIXED32: 4, _START_GROUP: 0, _END_GROUP: 0}
_MOST_VARINT_BYTES: Final = 10


class WireError(DecodeError):
    """Bytes that cannot even be split into fields."""


def fields(data: bytes) -> Iterator[tuple[int, bytes | None, bytes]]:
    """Each field of `data`: its number, its content if that has a length, and all its bytes.

    Texts, bytes and submessages have a content; numbers have None. The start and the end of a group, which
    no message of proto3 has, are told like numbers, and its fields between them. Raises WireError.
    """
    position = 0
    while position < len(data):
        start = position
        tag, position = read_varint(data, position)
        wire_type = tag & 7
        content = None
        if wire_type == _LENGTH_DELIMITED:
            length, position = read_varint(data, position)
            content = data[position : position + length]
            position += length
        elif wire_type == _VARINT:
            _, position = read_varint(data, position)
        elif wire_type in _BYTES_AFTER_TAG:
            position += _BYTES_AFTER_TAG[wire_type]
        else:
            raise WireError(f"wire type {wire_type} is not in use")
        if position > len(data):
            raise WireError("a field is longer than the message")
        yield tag >> 3, content, data[start:position]


def field_with(number: int, content: bytes) -> bytes:
    """The bytes of the field `number` that holds `content`."""
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(len(content)) + content


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and the position after it. Raises WireError."""
    value = 0
    for shift in range(0, 7 * _MOST_VARINT_BYTES, 7):
        if position >= len(data):
            raise WireError("the message ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise WireError("a number is longer than ten bytes")


def varint(number: int) -> bytes:
    """`number` as protobuf writes integers: seven bits a byte, the lowest first."""
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number < 0x200000:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_SHORT: Final = tuple(bytes((number,)) for number in range(0x80))
