"""Looks for secrets in lines that were written: what redaction with some rules would still change."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from accesslog.records.redact import Redaction
from accesslog.records.redact_rules import DIGITS
from common.redaction import REDACTED

HASH: Final = re.compile(rb"hmac-[0-9a-f]{%d}" % DIGITS)
_MASK: Final = REDACTED.encode()


@dataclass(frozen=True, slots=True)
class Finding:
    """A value that should not be in a file. The value itself is not repeated."""

    line: int
    place: str
    """As in the field `redacted`; empty for a line that is not a record."""


def findings(lines: Iterable[bytes], redaction: Redaction) -> Iterator[Finding]:
    """The secrets in lines of the format `sidecars`, by the line's number from 1.

    The rules of `redaction` must mask: what was hashed is taken as masked.
    """
    for number, line in enumerate(lines, 1):
        try:
            record = orjson.loads(HASH.sub(_MASK, line))
        except orjson.JSONDecodeError:
            yield Finding(number, "")
            continue
        if not isinstance(record, dict):
            yield Finding(number, "")
            continue
        for place in _changed(record, redaction):
            yield Finding(number, place)


def _changed(record: dict[str, Any], redaction: Redaction) -> Iterator[str]:
    before = orjson.loads(orjson.dumps(record))
    record.pop("redacted", None)
    redaction.apply(record)
    for field, value in before.items():
        if field == "redacted" or record.get(field) == value:
            continue
        if isinstance(value, dict):
            yield from (f"{field}.{key}" for key in value if record.get(field, {}).get(key) != value[key])
        else:
            yield field
