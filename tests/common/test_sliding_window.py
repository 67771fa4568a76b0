"""The sliding window against its rules and, by Hypothesis, against exact fractions."""

from fractions import Fraction

from hypothesis import given

from common.buckets import SECOND_US, SlidingWindow
from tests.common.test_buckets import MINUTE_US, NOW, SLIDING, after, sliding_windows, steps


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

    def test_another_limit_after_a_reload_counts_on(self) -> None:
        state = after(SLIDING, 10)
        assert SlidingWindow(15, MINUTE_US).take(state, 1, NOW)[0].remaining == 4

    def test_the_clock_set_back_begins_again(self) -> None:
        state = after(SLIDING, 10)
        assert SLIDING.take(state, 1, NOW - 10 * MINUTE_US)[0].allowed


class TestProperties:
    @given(sliding_windows, steps)
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
            assert taken.allowed == (carried + count + hits <= bucket.limit)
            if taken.allowed or bucket.charge_rejected:
                counts[window] = count = count + hits
            assert taken.remaining == max(0, (bucket.limit - carried - count) // 1)
