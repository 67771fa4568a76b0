"""Decides which records are written, and counts the finished requests: both after redaction."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import orjson

from accesslog.records.columns import Rows
from accesslog.records.fragments import MOST_REMEMBERED, PLACES, fragment_of
from accesslog.records.requests import RequestCounters, RequestSeries, response_class
from accesslog.records.sample import DECISIVE, Sampling, is_chosen, is_request, keeps
from accesslog.wire.record import Record

_PLACES: Final = tuple(PLACES[name] for name in DECISIVE)
_DURATION: Final = PLACES["duration_us"]
_AFTER_DURATION_NAME: Final = len(b',"duration_us":')
_IDS: Final = tuple((PLACES[name], len(f',"{name}":"')) for name in ("request_id", "stream_id"))
_SAMPLE_RATE: Final = PLACES["sample_rate"]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What follows from the decisive fields of a record."""

    rate: float
    sample_rate: bytes
    """The rate as a fragment of the line."""
    route: str
    response_class: str
    """Empty for a record that does not count as a request."""


class Judge:
    """Applies the sampling to records, and counts requests before it. Verdicts are remembered."""

    __slots__ = ("_requests", "_sampling", "_verdicts")

    def __init__(self, sampling: Sampling, requests: RequestCounters | None) -> None:
        self._sampling = sampling
        self._requests = requests
        self._verdicts: dict[tuple[bytes, ...], _Verdict] = {}

    def keeps(self, record: Record, random: Callable[[], float]) -> bool:
        """Whether `record` is written; its `sample_rate` is set, and it is counted."""
        verdict = self._verdict(record)
        duration_us = record.get("duration_us", 0)
        series = self._count(verdict, duration_us)
        if series is not None:
            series.keep(record.get("request_id", ""), duration_us)
        return keeps(self._sampling, record, random)

    def kept(self, rows: Rows, random: Callable[[], float]) -> list[bool] | None:
        """As `keeps` for each row; None where all are written."""
        if self._requests is None and self._sampling.keeps_all:
            return None
        columns = rows.columns
        keys = zip(*[columns.get(place) or repeat(b"", rows.count) for place in _PLACES], strict=False)
        durations = columns.get(_DURATION) or repeat(b"", rows.count)
        kept = [True] * rows.count
        rates: list[bytes] = []
        for row, (key, duration) in enumerate(zip(keys, durations, strict=False)):
            verdict = self._verdicts.get(key) or self._remembered(key)
            duration_us = int(duration[_AFTER_DURATION_NAME:] or 0)
            series = self._count(verdict, duration_us)
            if series is not None:
                series.keep(_request_id(rows, row), duration_us)
            if verdict.rate < 1 and not self._sampling.is_slow(duration_us):
                rates = rates or [b""] * rows.count
                rates[row] = verdict.sample_rate
                kept[row] = is_chosen(_identity(rows, row), verdict.rate, random)
        if rates:
            columns[_SAMPLE_RATE] = rates
        return kept

    def _remembered(self, key: tuple[bytes, ...]) -> _Verdict:
        record = orjson.loads(b"{%b}" % b"".join(key)[1:])
        if len(self._verdicts) >= MOST_REMEMBERED:
            self._verdicts.clear()
        verdict = self._verdicts[key] = self._verdict(record)
        return verdict

    def _verdict(self, record: Record) -> _Verdict:
        rate = self._sampling.rate_of(record)
        return _Verdict(
            rate,
            fragment_of({"sample_rate": rate}),
            record.get("route", ""),
            response_class(record["code"]) if is_request(record) else "",
        )

    def _count(self, verdict: _Verdict, duration_us: int) -> RequestSeries | None:
        if self._requests is None or not verdict.response_class:
            return None
        return self._requests.observe(verdict.route, verdict.response_class, duration_us)


def _request_id(rows: Rows, row: int) -> str:
    place, begin = _IDS[0]
    column: Any = rows.columns.get(place)
    return str(orjson.loads(column[row][begin - 1 :])) if column and column[row] else ""


def _identity(rows: Rows, row: int) -> bytes:
    """The id of a request as JSON has it, without quotes."""
    for place, begin in _IDS:
        column: Any = rows.columns.get(place)
        if column and (fragment := column[row]):
            return bytes(fragment[begin:-1])
    return b""
