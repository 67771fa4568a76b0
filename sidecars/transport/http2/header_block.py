"""Reads the fields of a header block (RFC 7541).

The table and the integers are those of hpack, but the walk over the block is our own: it cuts each field out
in place, and remembers where the values are.
"""

from collections import deque
from typing import Final, NamedTuple

from hpack.exceptions import HPACKError
from hpack.hpack import decode_integer
from hpack.table import HeaderTable

from sidecars.transport.http2 import huffman
from sidecars.transport.http2.errors import GoAwayError, Reason
from sidecars.transport.http2.frames import ErrorCode
from sidecars.transport.http2.headers import Field

FIELD_OVERHEAD_BYTES: Final = 32
"""What each field counts in addition to its text (RFC 7541 section 4.1, RFC 9113 section 6.5.2)."""

MAX_KNOWN_BLOCK_BYTES: Final = 1024
"""A longer block is decoded each time, so that the memory of a connection stays small."""

_STATIC: Final = HeaderTable.STATIC_TABLE
_FIRST_DYNAMIC: Final = len(_STATIC) + 1
_MAX_INTEGER_BYTES: Final = 8
_PREFIXES: Final = {bits: (1 << bits) - 1 for bits in (4, 5, 6, 7)}
"""The largest number that a prefix of so many bits holds: it says that more bytes follow."""

Span = tuple[int, int]
"""Where an encoded string begins, with its length, and where it ends."""


class HeaderBlock(NamedTuple):
    """A header block that has been read."""

    fields: list[Field]
    values: dict[int, Span]
    """Where the value of a literal field is, by the field's place in `fields`; empty for a long block."""
    changed: bool
    """Whether the block changed the dynamic table."""


def read_block(block: bytes, table: HeaderTable, max_table_bytes: int, most: int) -> HeaderBlock:
    """Return the fields of `block`, and put those with indexing into `table`.

    Raises IndexError where the block is cut short or an entry is not there, GoAwayError for more than `most`
    fields, HPACKError for anything else that RFC 7541 forbids.
    """
    entries = table.dynamic_entries
    fields: list[Field] = []
    values: dict[int, Span] = {}
    changed = False
    pos, end = 0, len(block)
    short = end <= MAX_KNOWN_BLOCK_BYTES
    while pos < end:
        stop = min(end, pos + most)  # each field takes a byte or more
        while pos < stop:
            first = block[pos]
            if 0x80 < first < 0xFF:  # indexed field, one byte (section 6.1)
                index = first - 0x80
                pos += 1
                fields.append(
                    entries[index - _FIRST_DYNAMIC] if index >= _FIRST_DYNAMIC else _STATIC[index - 1]
                )
            elif first & 0x80:
                index, pos = _integer(block, pos, 7)
                fields.append(_entry(entries, index))
            elif first & 0xE0 == 0x20:  # size of the table (section 6.3)
                if fields:
                    raise HPACKError("a size update behind a field")
                pos = _resize(block, pos, table, max_table_bytes, most)
                changed = True
            else:  # literal field, with indexing or without (section 6.2)
                index, pos = _integer(block, pos, 6 if first & 0x40 else 4)
                if index:
                    name = _entry(entries, index)[0]
                else:
                    name, pos = read_string(block, pos)
                start = pos
                value, pos = read_string(block, pos)
                if short:
                    values[len(fields)] = (start, pos)
                fields.append((name, value))
                if first & 0x40 and table.maxsize:  # a table of no bytes holds nothing (section 4.4)
                    table.add(name, value)
                    changed = True
        if len(fields) > most:
            raise header_list_too_large(most * FIELD_OVERHEAD_BYTES)
    return HeaderBlock(fields, values, changed)


def header_list_too_large(most_bytes: int) -> GoAwayError:
    """The error for a header list that is not even decoded to its end."""
    return GoAwayError(
        ErrorCode.ENHANCE_YOUR_CALM,
        Reason.HEADER_LIST_SIZE,
        f"a header list of more than {most_bytes} bytes",
    )


def read_string(block: bytes, pos: int) -> tuple[bytes, int]:
    """A string and where it ends (section 5.2). Raises IndexError or HPACKError."""
    first = block[pos]
    length = first & 0x7F
    pos += 1
    if length == 0x7F:
        length, pos = _integer(block, pos - 1, 7)
    stop = pos + length
    if stop > len(block):
        raise HPACKError("a string that is cut short")
    raw = block[pos:stop]
    if first < 0x80:
        return raw, stop
    decoded = huffman.decode(raw)
    if decoded is None:
        raise HPACKError("a string that is not Huffman code")
    return decoded, stop


def _resize(block: bytes, pos: int, table: HeaderTable, max_table_bytes: int, most: int) -> int:
    """Change the size of the table as often as the block says, `most` times at most; returns its end."""
    for _ in range(most):
        size, pos = _integer(block, pos, 5)
        if size > max_table_bytes:
            raise HPACKError("a size update to more than we allow")
        table.maxsize = size
        if pos == len(block) or block[pos] & 0xE0 != 0x20:
            return pos
    raise HPACKError(f"more than {most} size updates")


def _entry(entries: deque[Field], index: int) -> Field:
    if index >= _FIRST_DYNAMIC:
        return entries[index - _FIRST_DYNAMIC]
    if not index:
        raise HPACKError("index 0")
    return _STATIC[index - 1]


def _integer(block: bytes, pos: int, prefix_bits: int) -> tuple[int, int]:
    """A number and where it ends (section 5.1)."""
    largest = _PREFIXES[prefix_bits]
    number = block[pos] & largest
    if number < largest:
        return number, pos + 1
    number, size = decode_integer(block[pos : pos + _MAX_INTEGER_BYTES], prefix_bits)
    return number, pos + size
