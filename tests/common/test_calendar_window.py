"""Calendar windows against the calendar of the standard library."""

import calendar
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.buckets import SECOND_US, CalendarWindow, State
from common.calendar_months import CALENDAR_MONTHS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

# To 2250: later, microseconds since 1970 are not exact in a double, which Lua counts with.
times = st.datetimes(datetime(1970, 1, 1), datetime(2250, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
month_begins = st.builds(
    datetime, st.integers(1971, 2250), st.integers(1, 12), st.just(1), tzinfo=st.just(UTC)
)
near_a_month_end = st.builds(
    lambda begin, microseconds: begin + microseconds * MICROSECOND, month_begins, st.integers(-2, 2)
)
any_time = times | near_a_month_end
all_months = st.sampled_from(CALENDAR_MONTHS)


def us(at: datetime) -> int:
    return (at - EPOCH) // MICROSECOND


def days_left(at: datetime, months: int) -> timedelta:
    """Until the end of the window that holds `at`, month by month: the plain model."""
    left = timedelta(0)
    month, year = at.month, at.year
    while True:
        left += timedelta(days=calendar.monthrange(year, month)[1])
        if month % months == 0:
            break
        month += 1
    begin_of_month = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return left - (at - begin_of_month)


@given(any_time, all_months)
def test_it_resets_at_the_first_of_the_next_window(at: datetime, months: int) -> None:
    taken, _ = CalendarWindow(5, months).take(None, 1, us(at))
    assert timedelta(microseconds=taken.reset_us) == days_left(at, months)


@given(st.lists(st.tuples(any_time, st.integers(-3, 9)), max_size=30), all_months, st.booleans())
def test_each_window_admits_its_limit(
    steps: list[tuple[datetime, int]], months: int, charge_rejected: bool
) -> None:
    bucket = CalendarWindow(10, months, charge_rejected)
    counts: dict[tuple[int, int], int] = {}
    state: State | None = None
    for at, hits in sorted(steps, key=lambda step: step[0]):
        window = at.year, (at.month - 1) // months
        count = counts.get(window, 0)
        taken, state = bucket.take(state, hits, us(at))
        assert taken.allowed == (hits < 0 or count + hits <= 10)
        if taken.allowed or charge_rejected:
            counts[window] = count = max(0, count + hits)
        assert taken.remaining == max(0, 10 - count)
        assert taken.retry_after_us == (0 if taken.allowed else taken.reset_us)
        if state is not None:
            assert not bucket.take(state, 0, bucket.idle_at_us(state))[0].used_before


@pytest.mark.parametrize(
    ("at", "months", "reset_days"),
    [
        (datetime(2028, 2, 1, tzinfo=UTC), 1, 29),
        (datetime(2100, 2, 1, tzinfo=UTC), 1, 28),
        (datetime(2000, 2, 28, tzinfo=UTC), 1, 2),
        (datetime(2027, 12, 31, tzinfo=UTC), 1, 1),
        (datetime(2028, 1, 1, tzinfo=UTC), 3, 91),
        (datetime(2028, 1, 1, tzinfo=UTC), 12, 366),
    ],
)
def test_leap_years_and_year_ends(at: datetime, months: int, reset_days: int) -> None:
    assert CalendarWindow(1, months).take(None, 1, us(at))[0].reset_seconds == reset_days * 86_400


def test_the_last_microsecond_of_a_month_is_of_that_month() -> None:
    march = datetime(2027, 3, 1, tzinfo=UTC)
    bucket = CalendarWindow(1, 1)
    _, state = bucket.take(None, 1, us(march - MICROSECOND))
    assert not bucket.take(state, 1, us(march - MICROSECOND))[0].allowed
    assert bucket.take(state, 1, us(march))[0].allowed


def test_a_larger_limit_after_a_reload_counts_on() -> None:
    now_us = 1_790_000_000 * SECOND_US
    _, state = CalendarWindow(10, 1).take(None, 10, now_us)
    assert CalendarWindow(15, 1).take(state, 1, now_us)[0].remaining == 4


@pytest.mark.parametrize("months", [0, 2, 24])
def test_windows_that_do_not_fit_a_year_are_refused(months: int) -> None:
    with pytest.raises(ValueError, match="months must be one of"):
        CalendarWindow(1, months)
