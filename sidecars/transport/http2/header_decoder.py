"""Header blocks: decoded once, then known by their bytes (RFC 7541).

A block that puts nothing into the dynamic table is a pure function of its bytes and of the table. Clients
send the same block call after call, so what it asks for is remembered until the table changes.

A tracing header differs in each call, enters the table, and so makes a block that was never seen. That is why
the walk over a block is our own: hpack's table and integers, but each field cut out in place.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from typing import Final, TypeVar

from hpack.exceptions import HPACKError
from hpack.hpack import decode_integer
from hpack.table import HeaderTable

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Code, Method, Status
from sidecars.transport.http2 import huffman
from sidecars.transport.http2.errors import GoAwayError, Reason
from sidecars.transport.http2.frames import ErrorCode
from sidecars.transport.http2.headers import (
    SPOKEN,
    Field,
    HeaderListTooLargeError,
    MalformedRequestError,
    RequestHead,
    check_field,
    check_trailers,
    is_binary,
    read_request,
    routing_fields,
)

MAX_KNOWN_BLOCKS: Final = 32
"""Blocks remembered for a connection. Envoy needs one for each method; a client that never repeats a block
gains nothing."""

MAX_KNOWN_BLOCK_BYTES: Final = 1024
"""A longer block is decoded each time, so that the memory of a connection stays small."""

MAX_REPEATED_STRINGS: Final = 128
"""Huffman strings of fields without indexing, remembered for the process: clients send them whole each time,
as Envoy does `:path`. Fields never to be indexed are left out: they may hold secrets (RFC 7541 section
7.1.3)."""

_STATIC: Final = HeaderTable.STATIC_TABLE
_FIRST_DYNAMIC: Final = len(_STATIC) + 1
_FIELD_OVERHEAD_BYTES: Final = 32
_MAX_INTEGER_BYTES: Final = 8
_PREFIXES: Final = {bits: (1 << bits) - 1 for bits in (4, 5, 6, 7)}
"""The largest number that a prefix of so many bits holds: it says that more bytes follow."""
_TABLE_BYTES: Final = HeaderTable.DEFAULT_SIZE
"""SETTINGS_HEADER_TABLE_SIZE, which we leave at its default."""


class HeaderDecoder:
    """The header blocks of one connection, in the order they came."""

    __slots__ = ("_kinds", "_max_list_bytes", "_methods", "_most_bytes", "_table", "_trusted", "known")

    def __init__(self, methods: Mapping[bytes, Method], limits: Limits) -> None:
        self._methods = methods
        self._max_list_bytes = limits.max_header_list_bytes
        self._most_bytes = limits.absolute_max_header_list_bytes
        self._table: HeaderTable | None = None
        self._kinds: dict[tuple[Field, ...], RequestHead] | None = None
        """Requests by the fields that decide, for requests whose other metadata differs each time."""
        self._trusted = True
        """Whether every entry of the table came in a request that was well-formed, metadata included."""
        self.known: dict[bytes, RequestHead] = {}
        """Requests by their block, true of the table as it is. Read on the hot path; written here only."""

    def request(self, block: bytes) -> RequestHead:
        """The request of a block that is not in `known`.

        A block that is too large gives a request with a refusal. Raises GoAwayError, or MalformedRequestError
        with the table still in step.
        """
        try:
            fields, literals, changed = self._decode(block)
            if changed:
                return self._like_another(fields, literals)
            request = read_request(fields, self._methods)
        except MalformedRequestError:
            self._trusted = False
            raise
        except HeaderListTooLargeError as error:
            self._trusted = False
            return RequestHead.refused(Status(Code.RESOURCE_EXHAUSTED, str(error)))
        if len(block) <= MAX_KNOWN_BLOCK_BYTES:
            _remember(self.known, block, request)
        return request

    def trailers(self, block: bytes) -> None:
        """Decode trailers, which hold nothing for us. Raises as `request` does."""
        self._trusted = False  # the speed of clients that send trailers does not matter
        try:
            check_trailers(self._decode(block)[0])
        except HeaderListTooLargeError as error:
            raise MalformedRequestError(str(error)) from None

    def discard(self, block: bytes) -> None:
        """Keep the table in step with a block whose request is not served. Raises GoAwayError."""
        self._trusted = False
        with suppress(HeaderListTooLargeError):
            self._decode(block)

    def _like_another(self, fields: list[Field], literals: list[Field]) -> RequestHead:
        """A request that put fields into the table: mostly one as before with another trace id.

        Fields taken from the table were checked when they entered it, so only literal ones are checked, and
        of these only the ones that are not the same as before.
        """
        if not self._trusted:
            return self._read(fields)
        if self._kinds is None:
            self._kinds = {}
        key = routing_fields(fields)
        kind = self._kinds.get(key)
        if kind is None or fields[kind.pseudo_count - 1] is not key[kind.pseudo_count - 1]:
            request = self._read(fields)
            _remember(self._kinds, key, request.with_fields(()))  # what all of a kind share, and no more
            return request
        for name, value in literals:
            if name not in SPOKEN:
                check_field(name, value)
                if name.endswith(b"-bin") and not is_binary(value):
                    return self._read(fields)
        return kind.with_fields(fields)

    def _read(self, fields: list[Field]) -> RequestHead:
        """The request of fields, some of which are now in the table."""
        request = read_request(fields, self._methods)
        if request.metadata_refused:
            self._trusted = False
        return request

    def _decode(self, block: bytes) -> tuple[list[Field], list[Field], bool]:
        """The fields of a block, the literal ones among them, and whether it changed the table."""
        table = self._table
        if table is None:
            table = self._table = HeaderTable()
        try:
            fields, literals, changed = _decode(block, table, self._most_bytes // _FIELD_OVERHEAD_BYTES)
        except (IndexError, HPACKError) as error:
            raise GoAwayError(
                ErrorCode.COMPRESSION_ERROR, Reason.HEADER_BLOCK, f"cannot decode a header block: {error}"
            ) from None
        if changed:
            self.known.clear()
        list_bytes = sum(map(len, chain.from_iterable(fields))) + _FIELD_OVERHEAD_BYTES * len(fields)
        if list_bytes > self._max_list_bytes:
            if list_bytes > self._most_bytes:
                raise _too_large(self._most_bytes)
            raise HeaderListTooLargeError(list_bytes, self._max_list_bytes)
        return fields, literals, changed


_decode_repeated = lru_cache(MAX_REPEATED_STRINGS)(huffman.decode)

_Key = TypeVar("_Key")


def _remember(requests: dict[_Key, RequestHead], key: _Key, request: RequestHead) -> None:
    if len(requests) >= MAX_KNOWN_BLOCKS:
        requests.clear()
    requests[key] = request


def _too_large(most_bytes: int) -> GoAwayError:
    return GoAwayError(
        ErrorCode.ENHANCE_YOUR_CALM,
        Reason.HEADER_LIST_SIZE,
        f"a header list of more than {most_bytes} bytes",
    )


def _decode(block: bytes, table: HeaderTable, most: int) -> tuple[list[Field], list[Field], bool]:
    """The fields, the literal ones among them, and whether the table changed.

    Raises IndexError where a block is cut short or an entry is not there, GoAwayError for more than `most`
    fields, HPACKError for the rest.
    """
    entries = table.dynamic_entries
    fields: list[Field] = []
    literals: list[Field] = []
    changed = False
    pos, end = 0, len(block)
    repeated = _decode_repeated if end <= MAX_KNOWN_BLOCK_BYTES else huffman.decode
    while pos < end:
        stop = min(end, pos + most)  # each field takes a byte or more
        while pos < stop:
            first = block[pos]
            if 0x80 < first < 0xFF:  # indexed field, one byte (section 6.1): most of what there is
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
                pos = _resize(block, pos, table, most)
                changed = True
            else:  # literal field, with indexing or without (section 6.2)
                index, pos = _integer(block, pos, 6 if first & 0x40 else 4)
                decode = huffman.decode if first & 0xF0 else repeated
                if index:
                    name = _entry(entries, index)[0]
                else:
                    name, pos = _string(block, pos, decode)
                value, pos = _string(block, pos, decode)
                field = (name, value)
                fields.append(field)
                literals.append(field)
                if first & 0x40:
                    table.add(name, value)
                    changed = True
        if len(fields) > most:
            raise _too_large(most * _FIELD_OVERHEAD_BYTES)
    return fields, literals, changed


def _resize(block: bytes, pos: int, table: HeaderTable, most: int) -> int:
    """Change the size of the table as often as the block says, `most` times at most; returns its end."""
    for _ in range(most):
        size, pos = _integer(block, pos, 5)
        if size > _TABLE_BYTES:
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


def _string(block: bytes, pos: int, decode: Callable[[bytes], bytes | None]) -> tuple[bytes, int]:
    """A string and where it ends (section 5.2)."""
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
    decoded = decode(raw)
    if decoded is None:
        raise HPACKError("a string that is not Huffman code")
    return decoded, stop
