"""Turns entries into lines, field by field for all entries of a message, in few steps of the interpreter.

A line is made of fragments (`,"code":200`), one for each place in `FIELDS`. What fragment a content has is
remembered, and comes from the same readers and the same redaction as whole records: a line is byte for byte
that of the record (`accesslog.wire.entry`). Only entries of the usual shape are read here, with fields once
each, as serialisers of protobuf write them; for others one of `UNUSUAL` is raised.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat
from operator import attrgetter
from typing import Any, Final

from accesslog.records.columns import (
    Column,
    Rows,
    add_redacted,
    fill_each,
    fill_microseconds,
    fill_numbers,
    seconds_and_nanos,
)
from accesslog.records.fragments import (
    BEGIN,
    END,
    LONGEST_REMEMBERED,
    MOST_REMEMBERED,
    PLACES,
    RedactedFragment,
    Remembered,
    begin_of,
    fragment_of,
    join_fragments,
    like,
    marked,
)
from accesslog.records.redact import Redaction
from accesslog.wire.layout import PARTS, READ_ERRORS, Kind, Part
from accesslog.wire.metadata import JOINED, other_metadata, struct_item
from accesslog.wire.record import QUERY_OF, Record, add_target, second_text
from accesslog.wire.scan import UnusualError, content
from accesslog.wire.shallow import ENTRIES

UNUSUAL: Final = (UnusualError, IndexError, ValueError, TypeError, *READ_ERRORS)
"""What is raised for an entry that only protobuf can read or refuse."""

Blank = Mapping[int, bytes]
"""Fragments by place that all entries of a stream share."""

_METADATA: Final = PLACES["metadata"]
_DECISION: Final = PLACES["authz_decision_id"]
_DECISION_ID: Final = b"\x0a\x0bdecision_id\x12"
"""The key of the decision id in a Struct, and the tag of its value."""

_VALUE_HEAD: Final = 3
"""Then follow the length of the value, the tag of a text, and its length."""

_NANOS: Final = 1_000_000_000
_VALUES: Final = dict.values
_ITEM: Final = 0x0A
"""The tag of an item of a map, and that of its key."""

_VALUE: Final = 0x12
_UUIDS: Final = re.compile(rb"[0-9a-f-]{36}(?:\n[0-9a-f-]{36})*")
_PLAIN_TARGETS: Final = re.compile(
    rb"^((?:/[A-Za-z0-9_.~-]{0,19})+)(?:\?([A-Za-z0-9_.~&=-]{1,256}))?$", re.MULTILINE
)
"""A path of short segments without a character that may need JSON's escapes or hide a secret, and a query."""

_Fill = Callable[["Rows", int, Sequence[Any]], None]
"""Adds the columns that come from the values of a field in all entries."""

_Read = Callable[[Iterable[Any]], Iterable[Sequence[Any]]]
"""Returns the values of each field in some messages."""

_Message = tuple[Callable[[Any], Any] | None, _Read, Sequence[tuple[int, _Fill]]]
"""How to get an inner message of an entry, how to read its fields, and for each its place and its fill."""

_Item = tuple[int, str, bytes, bytes]
"""An item of a map: its place, its key, its fragment, and that of the whole map if it has no other item."""


class LineMaker:
    """Makes lines by one set of redaction rules. One serves all streams: it remembers."""

    __slots__ = ("_joined", "_known_metadata", "_readers", "_redaction", "_seconds", "_secrets_found")

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._secrets_found = False
        self._seconds = Remembered(lambda seconds: (second_text(seconds).encode(), True))
        self._joined = {
            namespace.encode(): Remembered(partial(self._joined_field, names))
            for namespace, names in JOINED.items()
        }
        self._known_metadata: dict[bytes, dict[int, bytes]] = {}
        self._readers = {kind: tuple(self._plan(kind, parts)) for kind, parts in PARTS.items()}

    @staticmethod
    def blank(kind: str, origin: Mapping[str, str]) -> Blank:
        """The fragments that all entries of a type on one stream share."""
        fields = {"type": kind, **origin, **({"code": 0} if kind == "http" else {})}
        return {END: b"}\n", **{PLACES[name]: fragment_of({name: value}) for name, value in fields.items()}}

    def rows(self, kind: str, blank: Blank, entries: Sequence[bytes]) -> Rows:
        """The fragments of some entries. Raises one of `UNUSUAL` where one of them has to be read alone."""
        parse = ENTRIES[kind]
        parsed = list(map(parse.FromString, entries))
        # A field that comes twice, or as no serialiser writes it, takes more bytes than it would need.
        if list(map(len, entries)) != list(map(parse.ByteSize, parsed)):
            raise UnusualError
        self._secrets_found = False
        columns: dict[int, Column] = {place: repeat(fragment) for place, fragment in blank.items()}
        rows = Rows(len(entries), columns)
        for inner, read, parts in self._readers[kind]:
            fields = read(map(inner, parsed) if inner else parsed)
            for values, (place, fill) in zip(fields, parts, strict=True):
                if any(values):
                    fill(rows, place, values)
        if self._secrets_found:
            add_redacted(rows)
        return rows

    def _plan(self, kind: str, messages: Mapping[str, Mapping[int, Part]]) -> Iterator[_Message]:
        for name, parts in messages.items():
            descriptor = ENTRIES[kind].DESCRIPTOR
            if name:
                descriptor = descriptor.fields_by_name[name].message_type
            fields = descriptor.fields_by_number
            read = _reader([fields[number].name for number in parts])
            fills = tuple((PLACES[part.field], self._fill(part)) for part in parts.values())
            yield attrgetter(name) if name else None, read, fills

    def _fill(self, part: Part) -> _Fill:
        """What makes the column of a field from its values."""
        if part.kind is Kind.MAP:
            return partial(self._fill_map, Remembered(partial(self._item, part)))
        if part.kind is Kind.TARGET:
            queries = Remembered(lambda query: self._redacted({QUERY_OF[part.field]: query.decode()}))
            return partial(self._fill_targets, part.field, queries)
        if part.kind is Kind.ID:
            return partial(self._fill_ids, part)
        fills: dict[Kind, _Fill] = {
            Kind.METADATA: self._fill_metadata,
            Kind.START_TIME: self._fill_time,
            Kind.COUNT: fill_numbers,
            Kind.MICROSECONDS: fill_microseconds,
        }
        render = Remembered(lambda value: self._redacted(part.read(value))).__getitem__
        return fills.get(part.kind) or partial(fill_each, render)

    def _redacted(self, record: Record) -> tuple[bytes, bool]:
        """The fragment of some fields without their secrets, and whether there were none."""
        if self._redaction.knows.isdisjoint(record):
            return fragment_of(record), True
        self._redaction.apply(record)
        places = record.pop("redacted", None)
        if places is None:
            return fragment_of(record), True
        self._secrets_found = True
        return marked(fragment_of(record), places), False

    def _fill_time(self, rows: Rows, place: int, values: Sequence[Any]) -> None:
        texts = self._seconds
        seconds, nanos = seconds_and_nanos(values)
        if min(nanos) < 0 or max(nanos) >= _NANOS or not all(map(any, zip(seconds, nanos, strict=True))):
            raise UnusualError
        rows.columns[place] = [
            b'{"time":"%b.%06dZ"' % (texts[second], nano // 1000)
            for second, nano in zip(seconds, nanos, strict=True)
        ]

    def _fill_ids(self, part: Part, rows: Rows, place: int, values: Sequence[bytes]) -> None:
        if _UUIDS.fullmatch(b"\n".join(values)) is not None:
            # Texts that need no escapes, nor hold a separator.
            begin = BEGIN[place] + b'"'
            rows.columns[place] = (begin + (b'"\n' + begin).join(values) + b'"').split(b"\n")
        else:
            rows.columns[place] = [self._id(part, value) for value in values]

    def _id(self, part: Part, value: bytes) -> bytes:
        return self._redacted(part.read(value))[0]

    def _fill_targets(
        self, field: str, queries: Remembered, rows: Rows, place: int, values: Sequence[bytes]
    ) -> None:
        text = b"\n".join(values)
        plain = _PLAIN_TARGETS.findall(text)
        if self._redaction.reads_paths or len(plain) != rows.count or text.count(b"\n") >= rows.count:
            rows.columns[place] = [self._target(field, value) for value in values]
            return
        begin = BEGIN[place]
        paths = [b'%b"%b"' % (begin, path) for path, _ in plain]
        rows.columns[place] = paths
        found = [query for _, query in plain]
        if any(found):
            rows.columns[PLACES[QUERY_OF[field]]] = [queries[query] if query else b"" for query in found]

    def _target(self, field: str, value: bytes) -> bytes:
        record: Record = {}
        if value:
            add_target(record, field, value.decode())
        return self._redacted(record)[0]

    def _fill_map(self, items: Remembered, rows: Rows, place: int, values: Sequence[Any]) -> None:
        """The column of a map from the items of each entry, and that of a field that is made of an item."""
        more: dict[int, list[bytes]] = {}
        column: list[bytes] = []
        for row, contents in enumerate(values):
            found = [items[item] for item in contents]
            if len(found) == 1 and found[0][0] == place:
                column.append(found[0][3])
                continue
            if len({key for _, key, _, _ in found}) < len(found):
                raise UnusualError
            found.sort()
            for own, _, _, whole in found:
                if own != place:
                    more.setdefault(own, [b""] * rows.count)[row] = whole
            fragments = [fragment for own, _, fragment, _ in found if own == place]
            column.append(_whole_map(place, fragments))
        rows.columns[place] = column
        rows.columns.update(more)

    def _item(self, part: Part, data: bytes) -> tuple[_Item, bool]:
        record = part.read(data)
        [(name, value)] = record.items()
        key = next(iter(value)) if isinstance(value, dict) else name
        whole, again = self._redacted(record)
        fragment = b""
        if isinstance(value, dict):
            fragment = like(whole, whole[len(begin_of(name)) + 1 : -1])
        return (PLACES[name], key, fragment, whole), again

    def _fill_metadata(self, rows: Rows, _place: int, values: Sequence[bytes]) -> None:
        """The columns of the fields that are joined, and that of the rest."""
        found = list(map(self._metadata, values))
        places = list(map(tuple, found))
        if places.count(places[0]) == rows.count:
            # All have the same fields, as those of one listener mostly do.
            rows.columns.update(
                zip(places[0], map(list, zip(*map(_VALUES, found), strict=True)), strict=True)
            )
            return
        columns: dict[int, list[bytes]] = {}
        for row, fragments in enumerate(found):
            for place, fragment in fragments.items():
                column = columns.get(place)
                if column is None:
                    column = columns[place] = [b""] * rows.count
                column[row] = fragment
        rows.columns.update(columns)

    def _metadata(self, data: bytes) -> dict[int, bytes]:
        """The fragments of a Metadata. All of it but the decision id comes again with the next request."""
        start = data.find(_DECISION_ID) + len(_DECISION_ID) + _VALUE_HEAD
        if start < len(_DECISION_ID) + _VALUE_HEAD:
            start = stop = 0
        else:
            stop = start + data[start - 1]
        text, rest = data[start:stop], data[:start] + data[stop:]
        fragment = b'%b"%b"' % (BEGIN[_DECISION], text) if text else b""
        known = self._known_metadata.get(rest)
        if known is not None and text.isalnum() == bool(text):
            return known | {_DECISION: fragment}
        fragments = self._metadata_in_full(data)
        if (
            len(rest) <= LONGEST_REMEMBERED
            # What is remembered must not depend on the id: it has one place, and needs no escapes.
            and (not text or (rest.count(_DECISION_ID) == 1 and text.isalnum() and text not in rest))
            and fragments.get(_DECISION, b"") == fragment
            and not any(isinstance(part, RedactedFragment) for part in fragments.values())
        ):
            if len(self._known_metadata) >= MOST_REMEMBERED:
                self._known_metadata.clear()
            self._known_metadata[rest] = fragments
        return fragments

    def _metadata_in_full(self, data: bytes) -> dict[int, bytes]:
        fragments: dict[int, bytes] = {}
        others = False
        at, end = 0, len(data)
        seen: list[bytes] = []
        while at < end:
            tag = data[at]
            start, at = content(data, at + 1, end)
            if tag != _ITEM:
                others = True
                continue
            namespace, struct, stop = _namespace(data, start, at)
            if namespace in seen:
                raise UnusualError
            seen.append(namespace)
            joined = self._joined.get(namespace)
            others = joined is None or _join(data, struct, stop, joined, fragments) or others
        if others:
            fragments[_METADATA] = self._redacted(other_metadata(data))[0]
        else:
            fragments.pop(_METADATA, None)
        return fragments

    def _joined_field(self, names: Mapping[str, str], data: bytes) -> tuple[tuple[int, bytes], bool]:
        key, value = struct_item(data)
        name = names.get(key)
        if not name:
            # Left out, or shown as metadata.
            return (_METADATA, b"" if name == "" else b"other"), True
        fragment, again = self._redacted({name: value})
        return (PLACES[name], fragment), again


def _reader(names: Sequence[str]) -> _Read:
    """What reads the fields `names` of a message in one call: for a lone entry, each call counts."""
    read = attrgetter(*names)
    if len(names) == 1:
        return lambda messages: (tuple(map(read, messages)),)
    return lambda messages: zip(*map(read, messages), strict=True)


def _join(data: bytes, at: int, end: int, joined: Remembered, fragments: dict[int, bytes]) -> bool:
    """Whether the Struct has other fields than those that are joined, which go into `fragments`."""
    others = False
    while at < end:
        if data[at] != _ITEM:
            raise UnusualError
        start, at = content(data, at + 1, end)
        place, fragment = joined[data[start:at]]
        if place == _METADATA:
            others = others or bool(fragment)
        elif place in fragments:
            raise UnusualError
        else:
            fragments[place] = fragment
    return others


def _whole_map(place: int, fragments: Iterable[bytes]) -> bytes:
    items = join_fragments(fragments, b",")
    return like(items, b"%b{%b}" % (BEGIN[place], items) if items else b"")


def _namespace(data: bytes, at: int, end: int) -> tuple[bytes, int, int]:
    """The name of an item of filter_metadata, and where its Struct begins and ends."""
    if data[at] != _ITEM:
        raise UnusualError
    start, stop = content(data, at + 1, end)
    if data[stop] != _VALUE:
        raise UnusualError
    struct, struct_end = content(data, stop + 1, end)
    if struct_end != end:
        raise UnusualError
    return data[start:stop], struct, struct_end
