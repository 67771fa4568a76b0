"""Buckets against their rules and, by Hypothesis, against slow arithmetic with fractions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.buckets import (
    MAX_COUNT,
    MAX_TOKENS,
    MAX_WINDOW_US,
    SECOND_US,
    Bucket,
    FixedWindow,
    SlidingWindow,
    State,
    TokenBucket,
)

NOW = 1_790_000_000 * SECOND_US
MINUTE_US = 60 * SECOND_US

TEN_A_MINUTE = TokenBucket(capacity=10, refill_tokens=10, period_us=MINUTE_US)
TEN_PER_WINDOW = FixedWindow(limit=10, window_us=MINUTE_US)
SLIDING = SlidingWindow(limit=10, window_us=MINUTE_US)
ALL = pytest.mark.parametrize(
    "bucket",
    [TEN_A_MINUTE, TEN_PER_WINDOW, SLIDING],
    ids=["token_bucket", "fixed_window", "sliding_window"],
)


def after(bucket: Bucket, hits: int, now_us: int = NOW) -> State | None:
    return bucket.take(None, hits, now_us)[1]


class TestAllKinds:
    @ALL
    def test_admit_exactly_their_size_at_once(self, bucket: Bucket) -> None:
        state: State | None = None
        outcomes = []
        for _ in range(12):
            taken, state = bucket.take(state, 1, NOW)
            outcomes.append((taken.allowed, taken.remaining))
        assert outcomes == [(True, left) for left in range(9, -1, -1)] + [(False, 0)] * 2

    @ALL
    def test_a_check_of_0_hits_passes_at_exactly_0_left(self, bucket: Bucket) -> None:
        """Token-quota.sh of envoyproxy/ratelimit depends on it."""
        taken, _ = bucket.take(after(bucket, 10), 0, NOW)
        assert taken.allowed
        assert taken.remaining == 0

    @pytest.mark.parametrize(
        "bucket",
        [TokenBucket(10, 10, MINUTE_US, charge_rejected=True), TEN_PER_WINDOW],
        ids=["token_bucket", "fixed_window"],
    )
    def test_a_check_of_0_hits_fails_while_something_is_owed(self, bucket: Bucket) -> None:
        assert not bucket.take(after(bucket, 11), 0, NOW)[0].allowed

    @ALL
    def test_a_check_of_0_hits_leaves_no_trace(self, bucket: Bucket) -> None:
        state = after(bucket, 3)
        assert bucket.take(state, 0, NOW + 1)[1] is state
        assert after(bucket, 0) is None

    @ALL
    def test_negative_hits_give_back(self, bucket: Bucket) -> None:
        taken, state = bucket.take(after(bucket, 10), -4, NOW)
        assert (taken.allowed, taken.remaining) == (True, 4)
        assert bucket.take(state, 5, NOW)[0].allowed is False
        assert bucket.take(state, 4, NOW)[0].allowed is True

    @ALL
    def test_negative_hits_never_lift_above_full(self, bucket: Bucket) -> None:
        """The usage never falls below 0, as in envoyproxy/ratelimit#1140."""
        taken, state = bucket.take(after(bucket, 2), -100, NOW)
        assert taken.remaining == 10
        assert bucket.take(state, 11, NOW)[0].allowed is False

    @ALL
    def test_negative_hits_to_an_unused_bucket_leave_no_trace(self, bucket: Bucket) -> None:
        taken, state = bucket.take(None, -1, NOW)
        assert taken.allowed
        assert state is None

    @ALL
    def test_more_hits_than_the_size_never_pass(self, bucket: Bucket) -> None:
        taken, _ = bucket.take(None, 11, NOW)
        assert not taken.allowed

    @ALL
    def test_used_before_tells_what_was_in_use(self, bucket: Bucket) -> None:
        assert bucket.take(after(bucket, 3), 2, NOW)[0].used_before == 3

    @ALL
    def test_a_bucket_is_idle_when_it_is_as_good_as_unused(self, bucket: Bucket) -> None:
        state = after(bucket, 7, NOW + 5)
        assert state is not None
        idle_at_us = bucket.idle_at_us(state)
        assert bucket.take(state, 10, idle_at_us)[0].allowed
        assert not bucket.take(state, 10, idle_at_us - 1)[0].allowed


class TestTokenBucket:
    def test_refills_evenly_and_not_at_the_turn_of_the_minute(self) -> None:
        state = after(TEN_A_MINUTE, 10)
        assert not TEN_A_MINUTE.take(state, 1, NOW + 6 * SECOND_US - 1)[0].allowed
        assert TEN_A_MINUTE.take(state, 1, NOW + 6 * SECOND_US)[0].allowed

    def test_never_holds_more_than_its_capacity(self) -> None:
        state = after(TEN_A_MINUTE, 10)
        assert TEN_A_MINUTE.take(state, 0, NOW + 1000 * MINUTE_US)[0].remaining == 10

    def test_a_third_of_a_token_is_not_lost_to_rounding(self) -> None:
        """3 a second is a token each 333,333.3 µs: with a call every microsecond, all 3 arrive in time."""
        bucket = TokenBucket(3, 3, SECOND_US)
        state = after(bucket, 3)
        for step in range(1, 4):
            due_us = -(-step * SECOND_US // 3)
            assert not bucket.take(state, 1, NOW + due_us - 1)[0].allowed
            taken, state = bucket.take(state, 1, NOW + due_us)
            assert taken.allowed

    def test_burst_is_a_capacity_of_its_own(self) -> None:
        bucket = TokenBucket(capacity=30, refill_tokens=10, period_us=MINUTE_US)
        state = after(bucket, 30)
        assert bucket.take(state, 10, NOW + MINUTE_US)[0].allowed
        assert not bucket.take(state, 11, NOW + MINUTE_US)[0].allowed

    def test_rejected_hits_are_not_charged(self) -> None:
        """envoyproxy/ratelimit#185, #427: a refused large request must not starve small ones."""
        state = after(TEN_A_MINUTE, 8)
        taken, state_after = TEN_A_MINUTE.take(state, 5, NOW)
        assert not taken.allowed
        assert state_after is state
        assert taken.remaining == 2

    def test_charge_rejected_debits_what_is_known_only_afterwards(self) -> None:
        """Envoy's apply_on_stream_done: the cost was incurred, so the hits count in any case."""
        bucket = TokenBucket(10, 10, MINUTE_US, charge_rejected=True)
        taken, state = bucket.take(after(bucket, 8), 5, NOW)
        assert (taken.allowed, taken.remaining) == (False, 0)
        assert not bucket.take(state, 1, NOW + 4 * 6 * SECOND_US - 1)[0].allowed
        assert bucket.take(state, 1, NOW + 4 * 6 * SECOND_US)[0].allowed

    def test_debt_ends_at_one_capacity(self) -> None:
        bucket = TokenBucket(10, 10, MINUTE_US, charge_rejected=True)
        state = after(bucket, 1_000_000)
        assert bucket.take(state, 0, NOW + MINUTE_US)[0].allowed
        assert not bucket.take(state, 0, NOW + MINUTE_US - 1)[0].allowed

    def test_reset_is_when_it_is_full_and_retry_after_when_the_hits_pass(self) -> None:
        taken, state = TEN_A_MINUTE.take(None, 10, NOW)
        assert (taken.reset_seconds, taken.retry_after_seconds) == (60, 0)
        taken, _ = TEN_A_MINUTE.take(state, 2, NOW)
        assert (taken.reset_us, taken.retry_after_us) == (60 * SECOND_US, 12 * SECOND_US)

    def test_seconds_are_rounded_up(self) -> None:
        state = after(TEN_A_MINUTE, 10)
        taken, _ = TEN_A_MINUTE.take(state, 1, NOW + 1)
        assert taken.retry_after_us == 6 * SECOND_US - 1
        assert (taken.retry_after_seconds, taken.reset_seconds) == (6, 60)

    def test_retry_after_of_hits_above_the_capacity_is_when_it_is_full(self) -> None:
        taken, _ = TEN_A_MINUTE.take(after(TEN_A_MINUTE, 1), 11, NOW)
        assert taken.retry_after_us == 6 * SECOND_US

    def test_a_clock_set_back_neither_grants_nor_blocks(self) -> None:
        """A clock set back by an hour adds no token, and the next one is due in 6 seconds, not in an hour."""
        state = after(TEN_A_MINUTE, 10)
        back = NOW - 3600 * SECOND_US
        taken, state = TEN_A_MINUTE.take(state, 1, back)
        assert not taken.allowed
        assert not TEN_A_MINUTE.take(state, 1, back + 6 * SECOND_US - 1)[0].allowed
        assert TEN_A_MINUTE.take(state, 1, back + 6 * SECOND_US)[0].allowed

    def test_another_capacity_after_a_reload_keeps_what_was_used(self) -> None:
        state = after(TEN_A_MINUTE, 1)
        assert TokenBucket(5, 5, MINUTE_US).take(state, 0, NOW)[0].remaining == 4
        assert TokenBucket(50, 50, MINUTE_US).take(state, 0, NOW)[0].remaining == 49

    @pytest.mark.parametrize(
        ("capacity", "refill_tokens", "period_us"),
        [(0, 1, 1), (1, 0, 1), (1, 1, 0), (MAX_TOKENS + 1, 1, 1), (1, 1, MAX_WINDOW_US + 1)],
    )
    def test_refuses_numbers_it_cannot_count_with(
        self, capacity: int, refill_tokens: int, period_us: int
    ) -> None:
        with pytest.raises(ValueError, match="must be"):
            TokenBucket(capacity, refill_tokens, period_us)


class TestFixedWindow:
    def test_windows_are_aligned_to_1970(self) -> None:
        start = NOW - NOW % MINUTE_US
        state = after(TEN_PER_WINDOW, 10, start + MINUTE_US - 1)
        assert not TEN_PER_WINDOW.take(state, 1, start + MINUTE_US - 1)[0].allowed
        assert TEN_PER_WINDOW.take(state, 10, start + MINUTE_US)[0].allowed

    def test_reset_is_1_to_window_seconds(self) -> None:
        """The time until the reset is div - now % div."""
        start = NOW - NOW % MINUTE_US
        assert TEN_PER_WINDOW.take(None, 1, start)[0].reset_seconds == 60
        assert TEN_PER_WINDOW.take(None, 1, start + MINUTE_US - 1)[0].reset_seconds == 1

    def test_hits_over_the_limit_are_counted(self) -> None:
        """Over-limit hits are still added, so refunding one does not make room in the window."""
        state = after(TEN_PER_WINDOW, 12)
        _, state = TEN_PER_WINDOW.take(state, -1, NOW)
        assert not TEN_PER_WINDOW.take(state, 0, NOW)[0].allowed

    def test_without_charge_rejected_they_leave_no_trace(self) -> None:
        """STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT, in one step."""
        bucket = FixedWindow(10, MINUTE_US, charge_rejected=False)
        state = after(bucket, 8)
        taken, state_after = bucket.take(state, 5, NOW)
        assert not taken.allowed
        assert state_after is state

    def test_a_limit_of_0_refuses_and_still_has_a_reset(self) -> None:
        taken, _ = FixedWindow(0, MINUTE_US).take(None, 1, NOW)
        assert not taken.allowed
        assert 1 <= taken.reset_seconds <= 60

    def test_counting_ends_before_doubles_do(self) -> None:
        state: State | None = (MAX_COUNT, NOW - NOW % MINUTE_US)
        assert TEN_PER_WINDOW.take(state, 5, NOW)[1] is state

    def test_a_larger_limit_after_a_reload_counts_on(self) -> None:
        """envoyproxy/ratelimit#808: raise a limit in the middle of its window."""
        state = after(TEN_PER_WINDOW, 10)
        assert FixedWindow(15, MINUTE_US).take(state, 1, NOW)[0].remaining == 4


steps = st.lists(st.tuples(st.integers(0, 3 * SECOND_US), st.integers(0, 40)), max_size=60)
token_buckets = st.builds(
    TokenBucket, st.integers(1, 30), st.integers(1, 30), st.integers(1, 3 * SECOND_US), st.booleans()
)


sliding_windows = st.builds(SlidingWindow, st.integers(0, 30), st.integers(1, 3 * SECOND_US), st.booleans())


class TestClockSetBack:
    """After a failover the clock of Redis can be behind, for a while or from then on."""

    @ALL
    def test_a_bucket_waits_for_a_clock_that_is_a_little_behind(self, bucket: Bucket) -> None:
        """Else a window that has begun would begin again, and what the clock passes twice be freed twice."""
        begin = NOW - NOW % MINUTE_US
        state = after(bucket, 10, begin)
        taken, state = bucket.take(state, 1, begin - 9 * SECOND_US)
        assert not taken.allowed
        assert not bucket.take(state, 1, begin)[0].allowed

    @ALL
    def test_it_does_not_wait_for_a_state_far_in_the_future(self, bucket: Bucket) -> None:
        """A wrong clock wrote it."""
        state = after(bucket, 10, NOW + 365 * 86_400 * SECOND_US)
        _, state = bucket.take(state, 1, NOW)
        assert bucket.take(state, 1, NOW + MINUTE_US)[0].allowed

    @pytest.mark.parametrize(
        "short", [TokenBucket(10, 10, SECOND_US), FixedWindow(10, SECOND_US), SlidingWindow(10, SECOND_US)]
    )
    def test_nor_longer_than_its_window(self, short: Bucket) -> None:
        state = after(short, 10, NOW + 5 * SECOND_US)
        _, state = short.take(state, 1, NOW)
        assert short.take(state, 1, NOW + SECOND_US)[0].allowed

    @given(
        st.builds(TokenBucket, st.integers(1, 30), st.integers(1, 30), st.just(3 * SECOND_US))
        | st.builds(FixedWindow, st.integers(0, 30), st.just(3 * SECOND_US), st.booleans())
        | st.builds(SlidingWindow, st.integers(0, 30), st.just(3 * SECOND_US), st.booleans()),
        st.lists(st.tuples(st.integers(0, 2 * SECOND_US), st.integers(0, 12), st.booleans()), max_size=40),
        st.integers(1, 3 * SECOND_US),
    )
    def test_two_clocks_in_turn_admit_no_more_than_the_one_that_is_ahead(
        self, bucket: Bucket, steps: list[tuple[int, int, bool]], behind_us: int
    ) -> None:
        now_us, latest_us, state, admitted = NOW, NOW, None, 0
        for wait_us, hits, is_behind in steps:
            now_us += wait_us
            clock_us = now_us - behind_us if is_behind else now_us
            latest_us = max(latest_us, clock_us)
            taken, state = bucket.take(state, hits, clock_us)
            admitted += hits * taken.allowed
        first_us = NOW - behind_us
        if isinstance(bucket, TokenBucket):
            refilled = Fraction((latest_us - first_us) * bucket.refill_tokens, bucket.period_us)
            assert admitted <= bucket.capacity + refilled
        else:
            assert isinstance(bucket, FixedWindow | SlidingWindow)
            window_us = bucket.window_us
            assert admitted <= bucket.limit * (latest_us // window_us - first_us // window_us + 1)


class TestProperties:
    @given(token_buckets, steps)
    def test_any_span_admits_at_most_capacity_and_refill(
        self, bucket: TokenBucket, steps: list[tuple[int, int]]
    ) -> None:
        now_us, state = NOW, None
        admitted: list[tuple[int, int]] = []
        for wait_us, hits in steps:
            now_us += wait_us
            taken, state = bucket.take(state, hits, now_us)
            if taken.allowed:
                admitted.append((now_us, hits))
        for first, (begin_us, _) in enumerate(admitted):
            total = 0
            for end_us, hits in admitted[first:]:
                total += hits
                refilled = Fraction((end_us - begin_us) * bucket.refill_tokens, bucket.period_us)
                assert total <= bucket.capacity + refilled

    @given(token_buckets, steps)
    def test_the_level_is_that_of_exact_fractions(
        self, bucket: TokenBucket, steps: list[tuple[int, int]]
    ) -> None:
        now_us, state = NOW, None
        level = Fraction(bucket.capacity)
        for wait_us, hits in steps:
            now_us += wait_us
            level = min(
                Fraction(bucket.capacity), level + Fraction(wait_us * bucket.refill_tokens, bucket.period_us)
            )
            taken, state = bucket.take(state, hits, now_us)
            assert taken.allowed == (level >= hits)
            if taken.allowed or bucket.charge_rejected:
                level = max(Fraction(-bucket.capacity), level - hits)
            assert taken.remaining == max(0, level // 1)

    @given(token_buckets | sliding_windows, steps, st.integers(1, 40))
    def test_retry_after_is_the_first_moment_that_passes(
        self, bucket: TokenBucket | SlidingWindow, steps: list[tuple[int, int]], hits: int
    ) -> None:
        now_us, state = NOW, None
        for wait_us, before in steps:
            now_us += wait_us
            _, state = bucket.take(state, before, now_us)
        taken, state = bucket.take(state, hits, now_us)
        if taken.allowed or hits > bucket.size:
            return
        assert bucket.take(state, hits, now_us + taken.retry_after_us)[0].allowed
        assert not bucket.take(state, hits, now_us + taken.retry_after_us - 1)[0].allowed

    @given(token_buckets | sliding_windows, steps)
    def test_reset_is_the_first_moment_it_is_full(
        self, bucket: TokenBucket | SlidingWindow, steps: list[tuple[int, int]]
    ) -> None:
        now_us, state = NOW, None
        for wait_us, hits in steps:
            now_us += wait_us
            taken, state = bucket.take(state, hits, now_us)
            full = bucket.take(state, 0, now_us + taken.reset_us)[0]
            assert full.remaining == bucket.size
            if taken.reset_us:
                assert bucket.take(state, 0, now_us + taken.reset_us - 1)[0].reset_us > 0

    @given(st.integers(0, 30), st.integers(1, 3 * SECOND_US), steps)
    def test_no_window_admits_more_than_its_limit(
        self, limit: int, window_us: int, steps: list[tuple[int, int]]
    ) -> None:
        bucket = FixedWindow(limit, window_us)
        now_us, state = NOW, None
        admitted: dict[int, int] = {}
        for wait_us, hits in steps:
            now_us += wait_us
            taken, state = bucket.take(state, hits, now_us)
            if taken.allowed:
                window = now_us // window_us
                admitted[window] = admitted.get(window, 0) + hits
        assert max(admitted.values(), default=0) <= limit

    @given(
        token_buckets
        | sliding_windows
        | st.builds(FixedWindow, st.integers(0, 30), st.integers(1, SECOND_US)),
        steps,
    )
    def test_what_was_taken_and_given_back_is_as_if_never_taken(
        self, bucket: Bucket, steps: list[tuple[int, int]]
    ) -> None:
        now_us, state = NOW, None
        for wait_us, hits in steps:
            now_us += wait_us
            _, state = bucket.take(state, hits, now_us)
        before = bucket.take(state, 0, now_us)[0]
        taken, used = bucket.take(state, 1, now_us)
        if taken.allowed:
            back, _ = bucket.take(used, -1, now_us)
            assert back.remaining == before.remaining
