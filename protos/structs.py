"""Writes google.protobuf.Struct, without making one: its classes cost several times as much."""

from collections.abc import Mapping, Sequence
from struct import Struct as Packing
from typing import Any, Final

from protos.wire import varint

_FIELD: Final = b"\x0a"  # 1 of a Struct: an entry of its map
_KEY: Final = b"\x0a"  # 1 of an entry
_VALUE: Final = b"\x12"  # 2 of an entry
_NULL: Final = b"\x08\x00"  # 1 of a Value, an enum
_NUMBER: Final = Packing("<Bd")  # 2 of a Value, a double
_NUMBER_TAG: Final = 0x11
_STRING: Final = b"\x1a"  # 3
_FALSE, _TRUE = b"\x20\x00", b"\x20\x01"  # 4
_STRUCT: Final = b"\x2a"  # 5
_LIST: Final = b"\x32"  # 6
_ITEM: Final = b"\x0a"  # 1 of a ListValue


def encode_struct(fields: Mapping[str, Any]) -> bytes:
    """The Struct with these fields: texts, numbers, booleans, None, and lists and maps of such.

    Two of them with different fields, one after the other, are the Struct with the fields of both. Raises
    TypeError for any other value.
    """
    parts: list[bytes] = []
    for name, value in fields.items():
        key, encoded = name.encode(), _value(value)
        entry = b"".join((_KEY, varint(len(key)), key, _VALUE, varint(len(encoded)), encoded))
        parts += (_FIELD, varint(len(entry)), entry)
    return b"".join(parts)


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return _STRING + varint(len(text)) + text
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if isinstance(value, int | float):
        return _NUMBER.pack(_NUMBER_TAG, value)
    if isinstance(value, Mapping):
        fields = encode_struct(value)
        return _STRUCT + varint(len(fields)) + fields
    if isinstance(value, Sequence):
        items = b"".join([_ITEM + varint(len(item)) + item for item in map(_value, value)])
        return _LIST + varint(len(items)) + items
    raise TypeError(f"a Struct carries no {type(value).__name__}")
