"""The types of names, rates and times that intent files share."""

import re
from datetime import date, datetime
from ipaddress import ip_address
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from accesslog.records.fields import FIELDS
from common.buckets import MAX_WINDOW_US, SECOND_US
from common.configfile import Spelled

_PORT: Final = range(1, 65_536)
_NUMERIC: Final = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$")
"""A host that ends in a number: an IP address, in one of many spellings (WHATWG URL section 3.5)."""
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PERIOD_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
CALENDAR_SECONDS: Final = {"month": 30 * 86_400, "quarter": 91 * 86_400, "year": 365 * 86_400}
_PERCENT: Final = r"([0-9]{1,2}(\.[0-9]{1,4})?|100)%"
_WRITTEN_PERCENT: Final = re.compile(_PERCENT)


def period_seconds(period: str) -> int:
    """Return the seconds of a period such as `30s`; a month has 30 days, a quarter 91, a year 365."""
    return CALENDAR_SECONDS.get(period) or int(period[:-1]) * _PERIOD_SECONDS[period[-1]]


def latency_seconds(latency: str) -> float:
    """Return the seconds of a latency such as `300ms` or `2s`."""
    return int(latency[:-2]) / 1_000 if latency.endswith("ms") else float(latency[:-1])


def host_of(address: str) -> str:
    """Return the host of HOST:PORT in lower case, without the brackets of an IPv6 address."""
    return address.rpartition(":")[0].strip("[]").lower().removesuffix(".")


def _address(value: str) -> str:
    if int(value.rpartition(":")[2]) not in _PORT:
        raise ValueError(f"{value!r}: a port is a number from 1 to 65535")
    host = host_of(value)
    if _NUMERIC.search(host) or ":" in host:
        # Resolvers read 127.1, 0x7f000001 and 2130706433 as 127.0.0.1 (inet_aton).
        try:
            ip_address(host)
        except ValueError:
            raise ValueError(f"{value!r}: write an IP address in full, as in 192.0.2.7:8080") from None
    return value


def _period(value: str) -> str:
    if period_seconds(value) > MAX_WINDOW_US // SECOND_US:
        raise ValueError(f"{value!r}: a period is ten years at most")
    return value


MAX_TIMEOUT_SECONDS: Final = 300
"""Envoy ends a stream without a byte in either direction after that time (`stream_idle_timeout`)."""


def _timeout(value: str) -> str:
    if latency_seconds(value) > MAX_TIMEOUT_SECONDS:
        raise ValueError(f"{value!r}: a timeout is {MAX_TIMEOUT_SECONDS} s at most")
    return value


def _day(value: Any) -> date:
    """Return the date in `value`, as YAML reads it or as text."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise ValueError(f"{value!r}: expected a date, as in 2026-12-31")


def _percent(value: Any) -> float:
    if isinstance(value, str) and _WRITTEN_PERCENT.fullmatch(value) and float(value[:-1]) > 0:
        return float(value[:-1])
    raise ValueError(f"{value!r}: expected a percentage above 0, as in 25%")


def _field(value: str) -> str:
    if value not in FIELDS:
        raise ValueError(f"{value!r} is not a field of the access log; docs/accesslog.md lists them")
    return value


Label = Annotated[str, Spelled(r"[a-z][a-z0-9-]{0,62}", "checkout")]
"""The name of a service, team, tier or route: it becomes part of rule, limit and cluster names."""
Address = Annotated[
    str,
    Spelled(
        r"([A-Za-z0-9]([A-Za-z0-9._-]{0,250}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}", "orders:8080"
    ),
    AfterValidator(_address),
]
Period = Annotated[str, Spelled(r"[1-9][0-9]{0,8}[smhdw]|month|quarter|year", "30s"), AfterValidator(_period)]
"""A span of time, or a calendar window."""
Latency = Annotated[str, Spelled(r"[1-9][0-9]{0,5}(ms|s)", "300ms")]
Timeout = Annotated[str, Spelled(r"[1-9][0-9]{0,5}(ms|s)", "30s"), AfterValidator(_timeout)]
"""How long Envoy waits for a whole response."""
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A part of all, from 0 to 1."""
Percent = Annotated[
    float,
    PlainValidator(_percent),
    PlainSerializer(lambda percent: f"{percent:g}%"),
    WithJsonSchema({"type": "string", "pattern": f"^{_PERCENT}$", "examples": ["25%"]}),
]
"""A percentage above 0, as a number."""
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Day = Annotated[
    date,
    PlainValidator(_day),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "format": "date", "examples": ["2026-12-31"]}),
]
LogField = Annotated[str, AfterValidator(_field), WithJsonSchema({"enum": sorted(FIELDS)})]
