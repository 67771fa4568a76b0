"""Calls to ratelimit, read from records of the access log."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from heapq import heappush, heappushpop
from typing import Any, Final, NamedTuple

from ratelimit.match import Entry
from ratelimit.request import Descriptor, LimitRequest, Override
from ratelimit.rules import Unit

MAX_OUT_OF_ORDER: Final = 100_000
"""Records that a call may be late by: requests are logged when they end, and limited when they start."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LATEST_US: Final = 2**53
"""The year 2255: buckets have as many bits for a time."""

_OVERRIDE: Final = re.compile(
    r"(?:requests_per_unit:(?P<requests>\d{1,10}) )?unit:(?P<unit>[A-Z]+)"
    r"(?: unit_multiplier:\{value:(?P<multiplier>\d{1,10})\})?"
)


class Skipped(StrEnum):
    """Why a record cannot be made a call to ratelimit again."""

    NOT_JSON = "not a line of JSON"
    NO_TIME = "it has no time, or one that cannot be"
    NO_DOMAIN = "ratelimit was not asked: no domain is recorded"
    OTHER_DOMAIN = "of another domain"
    NO_DESCRIPTORS = "no descriptors are recorded, or none of the fields that they are made of"
    UNREADABLE = "the recorded descriptors cannot be read"


class RecordedCall(NamedTuple):
    """A call to ratelimit at a time."""

    at_us: int
    """Microseconds since 1970 at which the request started."""
    request: LimitRequest
    refused: bool | None
    """Whether ratelimit refused the request; None if that is not recorded."""
    duration_us: int | None = None
    """From the start of the request to its end; None if that is not recorded."""


class EntryFrom(NamedTuple):
    """An entry of a descriptor: a text, or the value of a field of the record."""

    key: str
    field: str
    """Empty for a text. `MAP.KEY` is one value of a map."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Mapped:
    """The descriptors that are made of a record which has none."""

    domain: str
    """Empty: the recorded one."""
    descriptors: Sequence[Sequence[EntryFrom]]


def entries_from(text: str) -> tuple[EntryFrom, ...]:
    """Return the descriptor `KEY=FIELD,KEY:=TEXT,...`. Raises ValueError."""
    found = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        is_text = key.endswith(":")
        key = key.removesuffix(":")
        if not key or not equals or not value:
            raise ValueError(f"expected KEY=FIELD or KEY:=TEXT, separated by commas, found {text!r}")
        found.append(EntryFrom(key, "", value) if is_text else EntryFrom(key, value))
    return tuple(found)


def call_in(record: Mapping[str, Any], mapped: Mapped | None = None) -> RecordedCall | Skipped:
    """Return the call that `record` tells of, or why it tells of none.

    With `mapped` its descriptors are made of other fields, as Envoy's actions make them: without one of its
    fields a descriptor is not sent.
    """
    at_us = _microseconds(record.get("time"))
    if at_us is None:
        return Skipped.NO_TIME
    domain = (mapped.domain if mapped is not None else "") or record.get("ratelimit_domain")
    if not isinstance(domain, str) or not domain:
        return Skipped.NO_DOMAIN
    try:
        descriptors = _recorded(record) if mapped is None else _made(record, mapped)
        hits = int(record.get("ratelimit_hits", 0))
    except (ValueError, TypeError, AttributeError, OverflowError):
        return Skipped.UNREADABLE
    if not descriptors:
        return Skipped.NO_DESCRIPTORS
    outcome = record.get("ratelimit_outcome")
    refused = None if outcome is None else outcome == "over_limit"
    duration_us = record.get("duration_us")
    if not isinstance(duration_us, int) or not 0 <= duration_us < _LATEST_US - at_us:
        duration_us = None
    return RecordedCall(at_us, LimitRequest(domain, descriptors, hits), refused, duration_us)


def in_order(calls: Iterable[RecordedCall], most: int = MAX_OUT_OF_ORDER) -> Iterator[RecordedCall]:
    """Yield `calls` by their time, those of one time as they come.

    Each may come up to `most` calls late. One that is later still gets the time of the call before it.
    """
    waiting: list[tuple[int, int, RecordedCall]] = []
    latest = 0
    for number, call in enumerate(calls):
        if len(waiting) < most:
            heappush(waiting, (call.at_us, number, call))
            continue
        first = heappushpop(waiting, (call.at_us, number, call))[2]
        latest = max(latest, first.at_us)
        yield first._replace(at_us=latest)
    for _, _, call in sorted(waiting):
        latest = max(latest, call.at_us)
        yield call._replace(at_us=latest)


def entry_text(entries: Iterable[Entry]) -> str:
    """Return the entries of a descriptor as `key=value,key=value`."""
    return ",".join([f"{key}={value}" for key, value in entries])


def _recorded(record: Mapping[str, Any]) -> list[Descriptor]:
    return [_descriptor(one) for one in record.get("ratelimit_descriptors") or ()]


def _descriptor(recorded: Mapping[str, Any]) -> Descriptor:
    """Return a descriptor as `ratelimit.metadata.explain_request` writes it. Raises ValueError and others."""
    entries: list[Entry] = []
    for text in recorded.get("entries", ()):
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(text)
        entries.append((key, value))
    hits = recorded.get("hitsAddend")
    count = None if hits is None else int(hits)
    override = recorded.get("limit")
    return Descriptor(
        tuple(entries),
        None if count is None else abs(count),
        count is not None and count < 0,
        None if override is None else _override(override),
    )


def _override(text: str) -> Override:
    found = _OVERRIDE.fullmatch(text)
    if found is None or found["unit"] not in Unit.__members__:
        raise ValueError(text)
    return Override(int(found["requests"] or 0), Unit[found["unit"]], int(found["multiplier"] or 1))


def _made(record: Mapping[str, Any], mapped: Mapped) -> list[Descriptor]:
    made = []
    for wanted in mapped.descriptors:
        entries = [(one.key, _value(record, one)) for one in wanted]
        if all(value for _, value in entries):
            made.append(Descriptor(tuple(entries)))
    return made


def _value(record: Mapping[str, Any], entry: EntryFrom) -> str:
    if not entry.field:
        return entry.text
    name, _, key = entry.field.partition(".")
    value = record.get(name)
    if key:
        value = value.get(key) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def _microseconds(text: Any) -> int | None:
    try:
        found = (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
    except (TypeError, ValueError):
        return None
    return found if 0 <= found < _LATEST_US else None
