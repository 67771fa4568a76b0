"""The Redis script counts calendar windows as memory does, at any time of the Gregorian calendar."""

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from common.buckets import SECOND_US, CalendarWindow, State
from common.calendar_months import CALENDAR_MONTHS
from ratelimit.stores.script import encode_takes, read_state
from ratelimit.stores.store import Take
from ratelimit.stores.take_all import take_all
from tests.common.test_calendar_window import any_time, us
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

SCRIPT = files("ratelimit.stores").joinpath("scripts/take.lua").read_text()
CLOCK = "call('TIME')"
AT_A_TIME = SCRIPT.replace(CLOCK, "{ARGV[2], ARGV[3]}")
"""The script with the time as an argument, since nothing sets the clock of a Redis."""


@pytest.fixture(scope="module")
def plain(_session_redis: RedisServer) -> Iterator["redis.Redis"]:
    with _session_redis.client() as client:
        yield client


def test_the_clock_is_replaced() -> None:
    assert SCRIPT.count(CLOCK) == 1


@settings(max_examples=300)
@given(
    st.lists(st.tuples(any_time, st.integers(-3, 12)), min_size=1, max_size=8),
    st.sampled_from(CALENDAR_MONTHS),
    st.booleans(),
)
def test_it_counts_as_memory_does(
    plain: "redis.Redis", steps: list[tuple[Any, int]], months: int, charge_rejected: bool
) -> None:
    bucket = CalendarWindow(10, months, charge_rejected)
    plain.flushall()
    state: State | None = None
    for at, hits in steps:
        seconds, microseconds = divmod(us(at), SECOND_US)
        encoded = encode_takes([[Take("k", bucket, hits)]], ["k"])
        plain.eval(AT_A_TIME, 1, "k", encoded, seconds, microseconds)
        taken, after = bucket.take(state, hits, us(at))
        stored: Any = plain.get("k")
        assert read_state(bucket, stored) == after
        if after is not state:
            left_ms: Any = plain.pttl("k")
            assert abs(left_ms - taken.reset_us / 1_000 - 1_000) < 1_000
        state = after


def test_several_buckets_of_a_request_are_charged_or_spared_together(plain: "redis.Redis") -> None:
    plain.flushall()
    seconds = us(datetime(2028, 2, 29, 23, 59, tzinfo=UTC)) // SECOND_US
    month, year = (CalendarWindow(10, months, charge_rejected=False) for months in (1, 12))
    states: dict[str, State] = {}
    for hits in (6, 6, 4):
        takes = [Take("month", month, hits), Take("year", year, 1)]
        plain.eval(AT_A_TIME, 2, "month", "year", encode_takes([takes], ["month", "year"]), seconds, 0)
        take_all(takes, states, seconds * SECOND_US)
    stored: Any = plain.mget("month", "year")
    assert [read_state(month, text) for text in stored] == [states["month"], states["year"]]
    assert (states["month"][0], states["year"][0]) == (10, 2)
