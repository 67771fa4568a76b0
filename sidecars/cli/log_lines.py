"""Access log records for the terminal: one line each, and the filters that choose them."""

import operator
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import typer
from rich.text import Text

from accesslog.records.fields import FIELDS
from accesslog.records.sample import is_notable
from sidecars.cli.printable import printable

_CONDITION: Final = re.compile(r"([A-Za-z0-9_.\-]+)(>=|<=|!=|=|>|<)(.*)", re.DOTALL)
_ORDERS: Final = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le}
_CLASS: Final = re.compile(r"[1-5]xx")

Filter = Callable[[Mapping[str, Any]], bool]


def filter_of(text: str) -> Filter:
    """Return the filter `FIELD=VALUE`, `!=`, `>`, `<`, `>=` or `<=`. Raises BadParameter.

    A value may have `*` as a wildcard; `code` may be a class such as `5xx`. `request_headers.NAME` is one
    value of a map; a list matches if one of its items does.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"expected FIELD=VALUE, FIELD!=VALUE or FIELD>NUMBER, found {text!r}")
    field, sign, value = found.groups()
    name, _, key = field.partition(".")
    if name not in FIELDS:
        raise typer.BadParameter(f"a record has no field {name!r}; docs/accesslog.md has all")
    if sign in _ORDERS:
        return _ordered(name, key, sign, value)
    return lambda record: _matches(_value(record, name, key), value) is (sign == "=")


def _ordered(name: str, key: str, sign: str, value: str) -> Filter:
    try:
        number = float(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is not a number") from None
    compare = _ORDERS[sign]

    def holds(record: Mapping[str, Any]) -> bool:
        held = _value(record, name, key)
        return isinstance(held, int | float) and bool(compare(held, number))

    return holds


def is_error(record: Mapping[str, Any]) -> bool:
    """Whether the request failed or was refused."""
    return is_notable(record)


def is_denied(record: Mapping[str, Any]) -> bool:
    """Whether authz refused the request, or could not decide."""
    return record.get("authz_outcome") in ("deny", "error") or "UAEX" in record.get("response_flags", ())


def is_limited(record: Mapping[str, Any]) -> bool:
    """Whether a rate limit refused the request."""
    return record.get("ratelimit_outcome") == "over_limit" or "RL" in record.get("response_flags", ())


def line_of(record: Mapping[str, Any]) -> Text:
    """Return one coloured line: time, status, request, duration, client, and what was decided."""
    line = Text(no_wrap=False)
    line.append(printable(record.get("time", ""))[11:23] + " ", "dim")
    if record.get("type") == "tcp":
        sizes = f"{record.get('received_bytes', 0)} in, {record.get('sent_bytes', 0)} out"
        line.append(f"tcp {printable(record.get('cluster', '-'))} {sizes}")
    else:
        code = record.get("code", 0)
        line.append(f"{code} ", colour_of(code))
        line.append(f"{printable(record.get('method', '-')):<4} ", "bold")
        line.append(f"{printable(record.get('authority', ''))}{printable(record.get('path', ''))}")
    if "duration_us" in record:
        line.append(f" {milliseconds(record['duration_us'])}", "cyan")
    if client := record.get("authz_subject") or record.get("client_ip"):
        line.append(f" {printable(client)}", "dim")
    for field, colour in (("authz", "magenta"), ("ratelimit", "yellow")):
        outcome = record.get(f"{field}_outcome")
        if outcome and outcome not in ("allow", "ok", "preflight"):
            rule = record.get(f"{field}_rule") or record.get(f"{field}_reason") or ""
            line.append(f" {field}: {printable(outcome)} {printable(rule)}".rstrip(), colour)
    if flags := record.get("response_flags"):
        line.append(f" {printable(','.join(map(str, flags)))}", "red")
    details, code = record.get("code_details"), record.get("code", 0)
    if details and (code >= 400 or not code):
        line.append(f" {printable(details)}", "dim")
    return line


def colour_of(code: int) -> str:
    """Return the colour of a status."""
    if code == 0 or code >= 500:
        return "bold red"
    if code >= 400:
        return "yellow"
    return "green" if code < 300 else "blue"


def milliseconds(microseconds: Any) -> str:
    """Return a duration for people."""
    return f"{microseconds / 1000:.1f} ms" if isinstance(microseconds, int | float) else "-"


def _value(record: Mapping[str, Any], name: str, key: str) -> Any:
    value = record.get(name)
    return value.get(key) if key and isinstance(value, dict) else value


def _matches(held: Any, wanted: str) -> bool:
    if isinstance(held, list):
        return any(_matches(one, wanted) for one in held)
    if held is None:
        return wanted == ""
    if isinstance(held, bool):
        return wanted == str(held).lower()
    if isinstance(held, int) and _CLASS.fullmatch(wanted):
        return held // 100 == int(wanted[0])
    return fnmatchcase(str(held), wanted.replace("[", "[[]"))
