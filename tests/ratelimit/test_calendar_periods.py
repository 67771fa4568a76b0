"""`period: month`, `quarter` and `year` of a limits file."""

import pytest

from common.buckets import SECOND_US, CalendarWindow, FixedWindow
from ratelimit.rules import Unit, share_of
from tests.ratelimit.test_config import problems_of, rule_of


@pytest.mark.parametrize(
    ("period", "unit", "months"),
    [("month", Unit.MONTH, 1), ("quarter", Unit.MONTH, 3), ("year", Unit.YEAR, 12)],
)
def test_a_calendar_period_is_counted_in_windows(period: str, unit: Unit, months: int) -> None:
    """With any default algorithm, because a token bucket has nothing to refill evenly in."""
    rule = rule_of(f"{{period: {period}, requests_per_unit: 7}}")
    assert rule.bucket == CalendarWindow(7, months)
    assert share_of(rule.bucket, 3) == CalendarWindow(3, months)
    assert (rule.unit, rule.calendar_period) == (unit, period)
    spared = rule_of(f"{{period: {period}, requests_per_unit: 7, charge_rejected: false}}").bucket
    assert spared == CalendarWindow(7, months, charge_rejected=False)


@pytest.mark.parametrize("algorithm", ["token_bucket", "sliding_window"])
def test_a_calendar_period_fits_fixed_windows_only(algorithm: str) -> None:
    limit = f"{{period: month, requests_per_unit: 7, algorithm: {algorithm}}}"
    [problem] = problems_of(f"domain: d\ndescriptors: [{{key: k, rate_limit: {limit}}}]")
    assert problem.partition("algorithm: ")[2] == (
        f"a calendar month has no constant length, which {algorithm} needs: "
        "leave algorithm out, or write a period of days"
    )


def test_a_unit_of_month_stays_30_days() -> None:
    """As envoyproxy/ratelimit has it; only `period` means the calendar."""
    rule = rule_of("{unit: month, requests_per_unit: 7, algorithm: fixed_window}")
    assert rule.bucket == FixedWindow(7, 30 * 86_400 * SECOND_US)
