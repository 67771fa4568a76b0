"""Time windows in which a rule holds: days, hours and dates in a time zone."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from enum import IntEnum
from functools import lru_cache
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from authz.policy.types.names import AT_LEAST_ONE, OneOrMany, PolicyBlock


class Weekday(IntEnum):
    """Days of the week, numbered like `datetime.weekday`."""

    MON = 0
    TUE = 1
    WED = 2
    THU = 3
    FRI = 4
    SAT = 5
    SUN = 6


_CLOCK_TIME: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_DAY_NAMES: Final = tuple(day.name.lower() for day in Weekday)


def _days(value: Any) -> tuple[Weekday, ...]:
    """Parse a day or a range of days, such as `mon-fri`."""
    first, dash, last = value.partition("-") if isinstance(value, str) else ("", "", "")
    if first not in _DAY_NAMES or (dash and last not in _DAY_NAMES):
        raise ValueError(f"{value!r}: expected a day or a range of days: {', '.join(_DAY_NAMES)}, mon-fri")
    start = _DAY_NAMES.index(first)
    length = (_DAY_NAMES.index(last) - start) % 7 if dash else 0
    return tuple(Weekday((start + offset) % 7) for offset in range(length + 1))


def _clock_time(value: Any) -> time:
    if value == "24:00":
        return time.max
    found = _CLOCK_TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f'{value!r}: expected a time between quotes, as in "08:30" or "24:00"')
    return time(int(found[1]), int(found[2]))


def _zone(value: Any) -> ZoneInfo:
    try:
        return _zone_of(str(value))
    except (OSError, ValueError):
        raise ValueError(f"{value!r} is not a time zone; expected one as in Europe/Berlin or UTC") from None


@lru_cache(maxsize=1024)
def _zone_of(key: str) -> ZoneInfo:
    try:
        return ZoneInfo(key)
    except KeyError:
        raise ValueError(key) from None


def _instant(value: Any) -> Any:
    """A date alone begins at midnight of the zone; YAML itself reads 2026-01-31 as a date.

    No number: `after: 2026` would be half an hour after the beginning of 1970.
    """
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{value!r}: expected a date or a moment, as in 2026-01-31 or 2026-01-31T18:00:00+01:00"
        ) from None


ClockTime = Annotated[
    time,
    PlainValidator(_clock_time),
    PlainSerializer(lambda at: "24:00" if at == time.max else f"{at:%H:%M}"),
    WithJsonSchema(
        {"type": "string", "pattern": r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$", "examples": ["08:30", "24:00"]}
    ),
]
Days = Annotated[
    tuple[Weekday, ...],
    PlainValidator(_days),
    WithJsonSchema({"type": "string", "examples": ["mon", "mon-fri"]}),
]
Zone = Annotated[
    ZoneInfo,
    PlainValidator(_zone),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["Europe/Berlin", "UTC"]}),
]
Moment = Annotated[datetime, BeforeValidator(_instant)]


class TimeConfig(PolicyBlock):
    """A time window. Every key that is present must hold."""

    zone: Zone
    """Whose clock is meant. Required: a window without a zone moves twice a year, or with the server."""
    days: Annotated[tuple[Days, ...], AT_LEAST_ONE, OneOrMany] | None = None
    """Days of the week, such as `mon` or `mon-fri`."""
    start: ClockTime | None = Field(None, alias="from")
    """From this time, included."""
    until: ClockTime | None = None
    """To this time, not included. Earlier than `from`: over midnight; the day is that of the beginning."""
    after: Moment | None = None
    """Not before this moment. Without an offset it is meant in the zone."""
    before: Moment | None = None
    """Only before this moment."""

    @model_validator(mode="after")
    def _refuse_empty(self) -> "TimeConfig":
        if self.model_fields_set <= {"zone"}:
            raise ValueError("say when: days, from and until, after, before")
        if (self.start is None) != (self.until is None):
            raise ValueError('from and until belong together; a whole day is from "00:00" until "24:00"')
        if self.start is not None and self.start == self.until:
            raise ValueError("from and until are the same time")
        after, before = _unix(self.after, self.zone), _unix(self.before, self.zone)
        if after is not None and before is not None and after >= before:
            raise ValueError("no moment is after the one and before the other: before must be the later one")
        return self


def window_of(config: TimeConfig) -> Callable[[float], bool]:
    """Return a test whether unix seconds are within the window in its time zone, including summer time."""
    zone = config.zone
    days = frozenset(day for group in config.days for day in group) if config.days else frozenset(Weekday)
    start, until = config.start or time.min, config.until or time.max
    after, before = _unix(config.after, zone), _unix(config.before, zone)
    over_midnight = until < start

    def within(now: float) -> bool:
        if (after is not None and now < after) or (before is not None and now >= before):
            return False
        local = datetime.fromtimestamp(now, zone)
        at = local.time()
        if over_midnight and at < until:
            return (local - timedelta(days=1)).weekday() in days
        if local.weekday() not in days or at < start:
            return False
        return over_midnight or at < until or until == time.max

    return within


def window_text(config: TimeConfig) -> str:
    """Return a description of the window."""
    words = []
    if config.days:
        words.append("on " + ", ".join(_days_text(group) for group in config.days))
    if config.start is not None and config.until is not None:
        until = "24:00" if config.until == time.max else f"{config.until:%H:%M}"
        words.append(f"from {config.start:%H:%M} until {until}")
    if config.after is not None:
        words.append(f"not before {config.after.isoformat(sep=' ')}")
    if config.before is not None:
        words.append(f"before {config.before.isoformat(sep=' ')}")
    return f"time is {' '.join(words)} ({config.zone})"


def local_time(config: TimeConfig, now: float) -> str:
    """Return the local time in the window's time zone."""
    return f"{datetime.fromtimestamp(now, UTC).astimezone(config.zone):%a %Y-%m-%d %H:%M:%S %Z}"


def _unix(moment: datetime | None, zone: ZoneInfo) -> float | None:
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()


def _days_text(group: tuple[Weekday, ...]) -> str:
    first = group[0].name.lower()
    return first if len(group) == 1 else f"{first}-{group[-1].name.lower()}"
