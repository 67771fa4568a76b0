"""What the records of single routes have: fewer fields, and further redaction, after that of all records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from accesslog.records.columns import Rows
from accesslog.records.fields import FIELDS
from accesslog.records.fragments import PLACES, fragment_of
from accesslog.records.redact_rules import RedactRules

ALWAYS_KEPT: Final = frozenset({
    "time", "type", "request_id", "route", "code", "authz_decision_id", "authz_policy_revision",
    "ratelimit_revision", "sample_rate", "redacted", "not_utf8", "truncated",
})  # fmt: skip
"""The fields that a record always has: without them it could not be found, counted or trusted."""

_ROUTE: Final = PLACES["route"]
_PATHS: Final = ("path", "original_path")
_REDACTED: Final = PLACES["redacted"]
_READ: Final = (
    "path", "original_path", "query", "original_query", "referer", "ratelimit_descriptors", "request_headers",
    "response_headers", "response_trailers", "tags", "filter_state", "metadata", "ratelimit_metadata",
)  # fmt: skip
"""The fields that redaction rules may change."""
_READ_PLACES: Final = tuple(sorted(PLACES[name] for name in _READ))


@dataclass(frozen=True, slots=True)
class RouteRule:
    """What is done to the records of one route."""

    redact: RedactRules | None = None
    fields: frozenset[str] | None = None
    """The fields that are kept; None: all."""

    def apply(self, record: dict[str, Any]) -> None:
        """Change a record that was redacted before."""
        if self.redact is not None:
            self._redact(record)
        if self.fields is not None:
            for name in record.keys() - self.fields - ALWAYS_KEPT:
                del record[name]

    def _redact(self, record: dict[str, Any]) -> bool:
        """Return whether something was redacted."""
        rules, found = self.redact, list[str]()
        if rules is None:
            return False
        rules.apply(record, found)
        for name in _PATHS:
            if name in record:
                record[name] = rules.path(record[name], name, found)
        if found:
            record["redacted"] = sorted({*record.get("redacted", ()), *found})
        return bool(found)

    def apply_to_row(self, rows: Rows, row: int) -> None:
        """Change one of several entries. Only the fields that rules may change are read."""
        columns: dict[int, Any] = rows.columns
        if self.redact is not None:
            found = {place: columns[place][row] for place in _READ_PLACES if _has(columns, place, row)}
            before = _fragment(columns, _REDACTED, row)
            record = orjson.loads(b"{%b}" % (b"".join(found.values()) + before)[1:]) if found else {}
            if found and self._redact(record):
                for name in (*_READ, "redacted"):
                    _set(rows, PLACES[name], row, fragment_of({name: record[name]} if name in record else {}))
                rows.redacted += not before
        if self.fields is not None:
            for place, name in _DROPPABLE:
                if name not in self.fields and place in columns:
                    _set(rows, place, row, b"")


_DROPPABLE: Final = tuple((PLACES[name], name) for name in FIELDS if name not in ALWAYS_KEPT)


class RoutesRules:
    """The rules of all routes that have some."""

    __slots__ = ("_by_fragment", "_by_name")

    def __init__(self, rules: Mapping[str, RouteRule]) -> None:
        self._by_name = rules
        self._by_fragment = {fragment_of({"route": name}): rule for name, rule in rules.items()}

    def apply(self, record: dict[str, Any]) -> None:
        """Change a record as its route says."""
        rule = self._by_name.get(record.get("route", ""))
        if rule is not None:
            rule.apply(record)

    def apply_to_rows(self, rows: Rows) -> None:
        """Change each entry as its route says."""
        column = rows.columns.get(_ROUTE)
        if isinstance(column, list):
            for row, fragment in enumerate(column):
                rule = self._by_fragment.get(fragment)
                if rule is not None:
                    rule.apply_to_row(rows, row)


def _has(columns: Mapping[int, Any], place: int, row: int) -> bool:
    return bool(_fragment(columns, place, row))


def _fragment(columns: Mapping[int, Any], place: int, row: int) -> bytes:
    column: Sequence[bytes] = columns.get(place, ())
    return column[row] if isinstance(column, list) else b""


def _set(rows: Rows, place: int, row: int, fragment: bytes) -> None:
    column = rows.columns.get(place)
    if not isinstance(column, list):
        if not fragment and column is None:
            return
        # A fragment that all entries share.
        column = [b""] * rows.count if column is None else [next(iter(column)) for _ in range(rows.count)]
        rows.columns[place] = column
    column[row] = fragment
