"""The time of a limit as a limits file writes it: `unit` with `unit_multiplier`, or `period`."""

import re
from typing import Final, NamedTuple

from common.buckets import MAX_WINDOW_US, SECOND_US
from ratelimit.map_reader import MapReader
from ratelimit.rules import CALENDAR_PERIODS, UNIT_SECONDS, Unit

_PERIOD: Final = re.compile("([0-9]{1,12})([smhdw])")
_PERIOD_UNITS: Final = {"s": Unit.SECOND, "m": Unit.MINUTE, "h": Unit.HOUR, "d": Unit.DAY, "w": Unit.WEEK}


class Period(NamedTuple):
    """So many of a unit, or a calendar window."""

    unit: Unit
    multiplier: int
    calendar_months: int = 0
    """0: a fixed span of time."""


def read_unit(limit: MapReader) -> Period:
    """The unit and its multiplier of `unit` and `unit_multiplier`."""
    text = limit.text("unit")
    unit = Unit.__members__.get(text.upper())
    if unit is None:
        expected = ", ".join(name.lower() for name in Unit.__members__)
        limit.problem(f"invalid rate limit unit '{text}'; expected one of {expected}", "unit")
        unit = Unit.SECOND
    return Period(unit, limit.number("unit_multiplier", 1, 1, _most(unit)))


def read_period(limit: MapReader) -> Period:
    """The unit and its multiplier of `period`, such as `30s`, or a calendar window."""
    for key in ("unit", "unit_multiplier"):
        if key in limit.data:
            limit.problem(f"should not specify {key} next to period", key)
    text = limit.text("period")
    months = CALENDAR_PERIODS.get(text, 0)
    if months:
        return Period(Unit.YEAR, 1, months) if months == 12 else Period(Unit.MONTH, months, months)
    found = _PERIOD.fullmatch(text)
    if found is None:
        expected = (
            f"expected a number and s, m, h, d or w, as in 30s, or one of {', '.join(CALENDAR_PERIODS)}"
        )
        limit.problem(f"{expected}; found '{text}'", "period")
        return Period(Unit.SECOND, 1)
    unit, multiplier = _PERIOD_UNITS[found[2]], int(found[1])
    if not 1 <= multiplier <= _most(unit):
        limit.problem(f"expected 1{found[2]} to {_most(unit)}{found[2]}, found '{text}'", "period")
        return Period(unit, 1)
    return Period(unit, multiplier)


def _most(unit: Unit) -> int:
    return MAX_WINDOW_US // (UNIT_SECONDS[unit] * SECOND_US)
