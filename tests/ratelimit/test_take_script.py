"""The script of the Redis store changes buckets exactly as Python does."""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from common.buckets import (
    MAX_HITS,
    MAX_TOKENS,
    MAX_WINDOW_US,
    SECOND_US,
    Bucket,
    FixedWindow,
    SlidingWindow,
    State,
    TokenBucket,
)
from ratelimit.stores.script import encode_takes, read_state
from ratelimit.stores.store import Mode, Take
from ratelimit.stores.take_all import take_all
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

SLOW = TokenBucket(10, 10, MAX_WINDOW_US)
SCRIPT = files("ratelimit.stores").joinpath("scripts/take.lua").read_text()

windows_us = st.sampled_from(
    [1, 7, SECOND_US, 60 * SECOND_US, 86_400 * SECOND_US, MAX_WINDOW_US]
) | st.integers(1, MAX_WINDOW_US)
sizes = st.integers(1, 20) | st.integers(1, MAX_TOKENS)
buckets = (
    st.builds(TokenBucket, sizes, sizes, windows_us, st.booleans())
    | st.builds(FixedWindow, st.integers(0, 20) | sizes, windows_us, st.booleans())
    | st.builds(SlidingWindow, st.integers(0, 20) | sizes, windows_us, st.booleans())
)
hits_choices = st.integers(-3, 12) | st.integers(-MAX_HITS, MAX_HITS)
steps_back_us = [-seconds * SECOND_US for seconds in (1, 7, 11, 60)]
ages_us = st.sampled_from([0, 0, 0, 1, SECOND_US, *steps_back_us]) | st.integers(0, MAX_WINDOW_US)
modes = st.sampled_from([*[Mode.ENFORCE] * 2, *Mode])

calls = st.lists(
    st.lists(
        st.tuples(st.integers(0, 2), hits_choices, modes, st.booleans()),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def partly_full(draw: st.DrawFn) -> tuple[TokenBucket, int, int]:
    """A token bucket, what is used of it, and a time in which a good part of that is free again."""
    period_us = draw(st.integers(1, MAX_WINDOW_US) | st.integers(MAX_WINDOW_US // 2, MAX_WINDOW_US))
    refill = draw(st.integers(1, MAX_TOKENS) | st.integers(1, 1_000))
    capacity = draw(st.integers(1, MAX_TOKENS) | st.integers(refill, MAX_TOKENS))
    bucket = TokenBucket(capacity, refill, period_us, draw(st.booleans()))
    full = capacity * period_us
    used = draw(st.integers(0, 2 * full))
    way = draw(st.integers(0, 1_100))
    return bucket, used, used * way // refill // 1_000


@pytest.fixture(scope="module")
def plain(_session_redis: RedisServer) -> Iterator["redis.Redis"]:
    with _session_redis.client() as client:
        yield client


class TestScript:
    @settings(max_examples=150)
    @given(
        st.lists(buckets, min_size=1, max_size=3),
        st.lists(st.tuples(st.integers(0, 2), hits_choices, ages_us), min_size=1, max_size=12),
    )
    def test_changes_every_bucket_just_as_memory_does(
        self, plain: "redis.Redis", choices: list[Bucket], steps: list[tuple[int, int, int]]
    ) -> None:
        """Any buckets, hits and leaps of time: what is stored is to the last part what Python computes."""
        plain.flushall()
        states: dict[str, State | None] = {}
        for chosen, hits, age_us in steps:
            bucket = choices[chosen % len(choices)]
            key = f"{chosen % len(choices)}"
            self._age(plain, states, key, bucket, age_us)
            answer: Any = plain.eval(SCRIPT, 1, key, encode_takes([[Take(key, bucket, hits)]], [key]))
            now_us = int(answer[0]) * SECOND_US + int(answer[1])
            before = states.get(key)
            if answer[2][0] is None and before is not None:
                assert bucket.idle_at_us(before) <= now_us
                before = None
            assert read_state(bucket, answer[2][0]) == before
            _, after = bucket.take(before, hits, now_us)
            stored = plain.get(key)
            assert isinstance(stored, bytes | None)
            assert read_state(bucket, stored) == after
            states[key] = after

    @settings(max_examples=400)
    @given(partly_full(), hits_choices)
    def test_refills_exactly_where_doubles_alone_could_not(
        self, plain: "redis.Redis", case: tuple[TokenBucket, int, int], hits: int
    ) -> None:
        """A bucket on its way from any use to none; the product of time and refill passes 2^53."""
        bucket, used, age_us = case
        seconds, microseconds = plain.time()
        at_us = max(0, seconds * SECOND_US + microseconds - age_us)
        plain.set("k", f"{used // bucket.period_us} {used % bucket.period_us} {at_us}")
        answer: Any = plain.eval(SCRIPT, 1, "k", encode_takes([[Take("k", bucket, hits)]], ["k"]))
        now_us = int(answer[0]) * SECOND_US + int(answer[1])
        stored: Any = plain.get("k")
        assert read_state(bucket, stored) == bucket.take((used, at_us), hits, now_us)[1]

    @staticmethod
    def _age(
        plain: "redis.Redis", states: dict[str, State | None], key: str, bucket: Bucket, age_us: int
    ) -> None:
        state = states.get(key)
        if state is None or age_us == 0:
            return
        *counted, at_us = state
        at_us = max(0, at_us - age_us)
        states[key] = (*counted, at_us)
        if isinstance(bucket, TokenBucket):
            counted = [*divmod(counted[0], bucket.period_us)]
        plain.set(key, " ".join(map(str, [*counted, at_us])), keepttl=True)

    @settings(max_examples=200)
    @given(st.lists(buckets, min_size=1, max_size=3), st.lists(calls, min_size=1, max_size=4))
    def test_requests_with_several_buckets_change_them_as_take_all_does(
        self,
        plain: "redis.Redis",
        choices: list[Bucket],
        sequence: list[list[list[tuple[int, int, Mode, bool]]]],
    ) -> None:
        plain.flushall()
        states: dict[str, State] = {}
        for requests in sequence:
            called = [
                [
                    Take(str(chosen % len(choices)), choices[chosen % len(choices)], hits, mode, spare)
                    for chosen, hits, mode, spare in takes
                ]
                for takes in requests
            ]
            used = {take.key: take.bucket for takes in called for take in takes}
            answer: Any = plain.eval(SCRIPT, len(used), *used, encode_takes(called, list(used)))
            now_us = int(answer[0]) * SECOND_US + int(answer[1])
            for (key, bucket), text in zip(used.items(), answer[2], strict=True):
                if text is None and key in states:
                    assert bucket.idle_at_us(states.pop(key)) <= now_us
            for takes in called:
                take_all(takes, states, now_us)
            for key, bucket in used.items():
                stored: Any = plain.get(key)
                state = read_state(bucket, stored)
                assert state == states.get(key) or (
                    state is None and bucket.idle_at_us(states[key]) <= now_us
                )

    def test_what_it_stores_ends_by_itself(self, plain: "redis.Redis") -> None:
        plain.flushall()
        bucket = TokenBucket(10, 10, 100 * SECOND_US)
        for key, hits in (("k", 5), ("debt", 10)):
            plain.eval(SCRIPT, 1, key, encode_takes([[Take(key, bucket, hits)]], [key]))
        left_ms: Any = [plain.pttl("k"), plain.pttl("debt")]
        assert 50_000 < left_ms[0] <= 51_000
        assert 100_000 < left_ms[1] <= 101_000

    def test_what_somebody_else_stored_is_not_counted_with(self, plain: "redis.Redis") -> None:
        plain.flushall()
        plain.set("k", "-1 nonsense")
        answer: Any = plain.eval(SCRIPT, 1, "k", encode_takes([[Take("k", SLOW, 1)]], ["k"]))
        assert read_state(SLOW, answer[2][0]) is None
        stored: Any = plain.get("k")
        assert stored.startswith(b"1 0 ")
