"""Looks for secrets in lines that were written: what redaction with some rules would still change."""

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from accesslog.records.redact import Redaction
from accesslog.records.redact_rules import DIGITS
from accesslog.records.route_rules import RoutesRules
from common.redaction import REDACTED

HASH: Final = re.compile(rb"hmac-[0-9a-f]{%d}" % DIGITS)
_MASK: Final = REDACTED.encode()


def findings(line: bytes, redaction: Redaction, routes: RoutesRules | None = None) -> Iterator[str]:
    """The places of secrets in a line of the format `sidecars`, as in the field `redacted`.

    So is a field that the rules of its route leave out. The rules of `redaction` and `routes` must mask: what
    was hashed is taken as masked. Raises ValueError for a line that is not a record.
    """
    record = orjson.loads(HASH.sub(_MASK, line))
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  # the value of a line, not the type of an argument
    yield from _changed(record, redaction, routes)


def _changed(record: dict[str, Any], redaction: Redaction, routes: RoutesRules | None) -> Iterator[str]:
    before = orjson.loads(orjson.dumps(record))
    record.pop("redacted", None)
    redaction.apply(record)
    if routes is not None:
        routes.apply(record)
    for field, value in before.items():
        if field == "redacted" or record.get(field) == value:
            continue
        if isinstance(value, dict):
            yield from (f"{field}.{key}" for key in value if record.get(field, {}).get(key) != value[key])
        else:
            yield field
