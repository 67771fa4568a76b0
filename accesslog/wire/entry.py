r"""Makes whole records of entries with bytes that are not UTF-8; the record lists where they are.

A client chooses such bytes, for instance in `x-request-id`, so they must not keep its request out of the log.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from accesslog.wire.metadata import NotUtf8Error
from accesslog.wire.record import Record, http_record, tcp_record
from protos.accesslog_data_pb2 import HTTPAccessLogEntry, TCPAccessLogEntry
from protos.lenient import is_marked, parse_refused, shown

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True)
class EntryKind(Generic[_M]):
    """A type of entries, and how one becomes a record."""

    name: str
    message: type[_M]
    to_record: Callable[[_M, Mapping[str, str], float], Record]


HTTP: Final = EntryKind("http", HTTPAccessLogEntry, http_record)
TCP: Final = EntryKind("tcp", TCPAccessLogEntry, tcp_record)


def record_of(kind: EntryKind[_M], entry: bytes, origin: Mapping[str, str], received_at: float) -> Record:
    r"""The record of an entry, read by protobuf itself.

    A text with bytes that are not UTF-8 has `\xff` for such a byte and `\\` for a backslash; the field
    `not_utf8` lists these texts. Raises DecodeError for bytes that are not an entry, ValueError as
    `http_record`.
    """
    to_record = kind.to_record  # a local name: calls of attributes are slower
    try:
        return to_record(kind.message.FromString(entry), origin, received_at)
    except (DecodeError, NotUtf8Error):
        record = to_record(parse_refused(kind.message, entry), origin, received_at)
    places: list[str] = []
    for field, value in record.items():
        record[field] = _shown(value, field, places)
    if places:
        record["not_utf8"] = list(dict.fromkeys(places))
    return record


def _shown(value: Any, where: str, places: list[str]) -> Any:
    if isinstance(value, str):
        if is_marked(value):
            places.append(where)
        return shown(value)
    if isinstance(value, dict):
        # Keys of one map are all written the same way, or two of them might be one.
        odd = any(map(is_marked, value))
        return dict(_shown_item(key, inner, where, places, odd=odd) for key, inner in value.items())
    if isinstance(value, list):
        return [_shown(inner, where, places) for inner in value]
    return value


def _shown_item(key: str, value: Any, where: str, places: list[str], *, odd: bool) -> tuple[str, Any]:
    marked = is_marked(key)
    escaped = odd and not marked and "\\" in key
    name = shown(key).replace("\\", "\\\\") if escaped else shown(key)
    place = f"{where}.{name}"
    if isinstance(value, str) and (marked or escaped) and not is_marked(value):
        # One place names both, so both are written the same way.
        value = value.replace("\\", "\\\\")
    if marked or escaped:
        places.append(place)
    return name, _shown(value, place, places)
