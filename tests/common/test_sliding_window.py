"""The sliding window against its rules and, by Hypothesis, against exact fractions."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from common.buckets import SECOND_US, SlidingWindow
from tests.common.test_buckets import MINUTE_US, NOW, SLIDING, after, sliding_windows

steps_with_refunds = st.lists(st.tuples(st.integers(0, 3 * SECOND_US), st.integers(-20, 40)), max_size=60)


class TestSlidingWindow:
    START = NOW - NOW % MINUTE_US

    def test_the_window_before_counts_by_the_part_of_it_that_is_not_past(self) -> None:
        state = after(SLIDING, 10, self.START)
        for passed_seconds, passes in ((60, 0), (66, 1), (90, 5), (119, 9), (120, 10)):
            now_us = self.START + passed_seconds * SECOND_US
            assert SLIDING.take(state, passes, now_us)[0].allowed
            assert not SLIDING.take(state, passes + 1, now_us)[0].allowed

    def test_a_burst_at_the_end_of_a_window_leaves_nothing_for_the_next(self) -> None:
        """Where a fixed window would admit twice the limit within a second."""
        state = after(SLIDING, 10, self.START + MINUTE_US - 1)
        assert not SLIDING.take(state, 1, self.START + MINUTE_US)[0].allowed

    def test_refused_hits_leave_no_trace_unless_they_are_charged(self) -> None:
        state = after(SLIDING, 8)
        taken, kept = SLIDING.take(state, 5, NOW)
        assert (taken.allowed, taken.remaining, kept is state) == (False, 2, True)
        charged = SlidingWindow(10, MINUTE_US, charge_rejected=True)
        taken, _ = charged.take(state, 5, NOW)
        assert (taken.allowed, taken.remaining) == (False, 0)

    def test_a_refund_takes_hits_of_this_window_back_and_then_those_of_the_one_before(self) -> None:
        state = after(SLIDING, 8, self.START)
        half = self.START + 90 * SECOND_US
        _, state = SLIDING.take(state, 3, half)  # 3 and half of 8
        for back, remaining in ((1, 4), (3, 6), (5, 7), (11, 10), (2**32 - 1, 10)):
            taken, kept = SLIDING.take(state, -back, half)
            assert (taken.allowed, taken.remaining, taken.used_before) == (True, remaining, 7)
            assert SLIDING.take(kept, remaining, half)[0].allowed
            assert not SLIDING.take(kept, remaining + 1, half)[0].allowed

    def test_another_limit_after_a_reload_counts_on(self) -> None:
        state = after(SLIDING, 10)
        assert SlidingWindow(15, MINUTE_US).take(state, 1, NOW)[0].remaining == 4

    def test_the_clock_set_back_begins_again(self) -> None:
        state = after(SLIDING, 10)
        assert SLIDING.take(state, 1, NOW - 10 * MINUTE_US)[0].allowed


class TestProperties:
    @given(sliding_windows, steps_with_refunds)
    def test_a_sliding_window_is_that_of_exact_fractions(
        self, bucket: SlidingWindow, steps: list[tuple[int, int]]
    ) -> None:
        now_us, state = NOW, None
        counts: dict[int, int] = {}
        for wait_us, hits in steps:
            now_us += wait_us
            window, passed_us = divmod(now_us, bucket.window_us)
            count = counts.get(window, 0)
            carried = counts.get(window - 1, 0) * (1 - Fraction(passed_us, bucket.window_us))
            taken, state = bucket.take(state, hits, now_us)
            assert taken.allowed == (hits < 0 or carried + count + hits <= bucket.limit)
            if taken.allowed or bucket.charge_rejected:
                counts[window] = max(0, count + hits)
                if count + hits < 0:
                    counts[window - 1] = max(0, counts.get(window - 1, 0) + count + hits)
            count = counts.get(window, 0)
            carried = counts.get(window - 1, 0) * (1 - Fraction(passed_us, bucket.window_us))
            assert taken.remaining == max(0, (bucket.limit - carried - count) // 1)
