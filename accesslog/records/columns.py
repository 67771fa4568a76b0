"""Fields of several entries as columns, each made in few steps for all of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import orjson

from accesslog.records.fragments import BEGIN, PLACES, RedactedFragment, fragment_of

Render = Callable[[Any], bytes]
Column = Iterable[bytes]

_REDACTED: Final = PLACES["redacted"]


_SECONDS, _NANOSECONDS = attrgetter("seconds"), attrgetter("nanos")


@dataclass(slots=True)
class Rows:
    """Entries of one type as fragments: a column for each place that has one."""

    count: int
    columns: dict[int, Column]
    redacted: int = 0
    """Entries in which something was redacted."""

    def lines(self) -> list[bytes]:
        """The line of each entry."""
        columns = self.columns
        return list(map(b"".join, zip(*[columns[place] for place in sorted(columns)], strict=False)))


def fill_each(render: Render, rows: Rows, place: int, values: Sequence[Any]) -> None:
    """The column of what `render` makes of each value."""
    rows.columns[place] = list(map(render, values))


def seconds_and_nanos(values: Sequence[Any]) -> tuple[list[int], list[int]]:
    """The seconds and the nanoseconds of times."""
    return list(map(_SECONDS, values)), list(map(_NANOSECONDS, values))


def fill_microseconds(rows: Rows, place: int, values: Sequence[Any]) -> None:
    """Durations, as `accesslog.wire.record` has them."""
    seconds, nanos = seconds_and_nanos(values)
    if not any(nanos) and not any(seconds):
        return
    if not all(nanos):
        rows.columns[place] = [
            b"%b%d" % (BEGIN[place], second * 1_000_000 + nano // 1000) if second or nano else b""
            for second, nano in zip(seconds, nanos, strict=True)
        ]
    elif any(seconds):
        numbers = [second * 1_000_000 + nano // 1000 for second, nano in zip(seconds, nanos, strict=True)]
        _write_numbers(rows, place, numbers)
    else:
        _write_numbers(rows, place, [nano // 1000 for nano in nanos])


def fill_numbers(rows: Rows, place: int, values: Sequence[int]) -> None:
    """The column of numbers, without those that are 0."""
    if all(values):
        _write_numbers(rows, place, values)
    else:
        rows.columns[place] = [b"%b%d" % (BEGIN[place], value) if value else b"" for value in values]


def _write_numbers(rows: Rows, place: int, numbers: Sequence[int]) -> None:
    """All numbers are written at once. Raises orjson.JSONEncodeError, a TypeError, beyond 64 bits."""
    begin = BEGIN[place]
    rows.columns[place] = (begin + orjson.dumps(numbers)[1:-1].replace(b",", b"\n" + begin)).split(b"\n")


def add_redacted(rows: Rows) -> None:
    """The column of the places where something was redacted."""
    found: list[set[str]] = [set() for _ in range(rows.count)]
    for column in rows.columns.values():
        if isinstance(column, list):
            for row, fragment in enumerate(column):
                if isinstance(fragment, RedactedFragment):
                    found[row].update(fragment.places)
    rows.columns[_REDACTED] = [
        fragment_of({"redacted": sorted(places)}) if places else b"" for places in found
    ]
    rows.redacted = sum(map(bool, found))
