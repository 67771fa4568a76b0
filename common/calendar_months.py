"""The windows of the calendar in UTC: months, quarters and years."""

from datetime import date, timedelta
from functools import lru_cache
from typing import Final

DAY_US: Final = 86_400 * 1_000_000
"""Every day in Unix time, which has no leap seconds."""

CALENDAR_MONTHS: Final = (1, 3, 12)
"""The lengths of a calendar window: parts of a year, so that each year begins with a new window."""

_EPOCH: Final = date(1970, 1, 1)


@lru_cache(maxsize=64)
def calendar_window(day: int, months: int) -> tuple[int, int]:
    """The window of `months` that holds `day` (since 1970): its first microsecond, and that of the next.

    Raises OverflowError after the year 9999.
    """
    today = _EPOCH + timedelta(days=day)
    month = today.year * 12 + today.month - 1
    first = month - month % months
    return _month_begins_us(first), _month_begins_us(first + months)


def _month_begins_us(month: int) -> int:
    """When a month begins; 0 is January of the year 0."""
    return (date(month // 12, month % 12 + 1, 1) - _EPOCH).days * DAY_US
