"""Buckets: how much is left, as pure arithmetic on whole microseconds.

No clock, no storage and no rounding: a bucket gets its former state, the hits and the time, and returns its
new state. The Redis script does the same steps with the same numbers.

Two rules hold for all kinds:
- A check with 0 hits passes while nothing is owed: at exactly 0 left, too (envoyproxy/ratelimit counts
  so, and its token-quota check depends on it).
- Negative hits give back. They always pass and never lift a bucket above full.
"""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from common.calendar_months import CALENDAR_MONTHS, DAY_US, calendar_window

SECOND_US: Final = 1_000_000

MAX_WINDOW_US: Final = 10 * 365 * DAY_US
"""Ten years. Below 2^49, so that the Redis script's doubles (53 bits) have room to work exactly."""

MAX_TOKENS: Final = 2**32 - 1
"""The largest limit or burst: requests_per_unit is a uint32 on the wire."""

MAX_HITS: Final = 2**32 - 1
"""The most hits of one request: `hits_addend` is a uint64; hits above the largest limit change nothing."""

MAX_COUNT: Final = 2**50
"""Where a fixed window stops counting: exact in a double, and beyond every limit."""

MAX_STEP_BACK_US: Final = 10 * SECOND_US
"""How far a clock may be behind a bucket that then waits for it, and at most a whole window."""

MAX_SLOTS: Final = 1_000
"""The largest concurrency limit: a store reads and writes all requests in flight of a key at each request."""

State = tuple[int, ...]
"""What a bucket remembers. Token bucket: what is used, in parts of a token, and the time of that.
Fixed window and calendar window: its count and the start of the window. Sliding window: its count, that of
the window before, and the start of the window. Slots: the holder of each slot and the time it was taken,
oldest first. So a limit that is raised keeps what was used."""


class Taken(NamedTuple):
    """The outcome of one request to a bucket."""

    allowed: bool
    remaining: int
    """Whole hits left after this request, never below 0."""
    reset_us: int
    """Until the bucket is full again, or the window ends."""
    retry_after_us: int
    """Until the same request would pass; 0 when it passed. Hits above the capacity never pass: for
    them it is the time until the bucket is full, 0 where it is."""
    used_before: int
    """Hits in use before this request; above the limit where more was charged than there was."""

    @property
    def reset_seconds(self) -> int:
        """`reset_us` in seconds, rounded up: a client that waits so long finds the quota restored."""
        return -(-self.reset_us // SECOND_US)

    @property
    def retry_after_seconds(self) -> int:
        """`retry_after_us` in seconds, rounded up."""
        return -(-self.retry_after_us // SECOND_US)


_new: Final = tuple.__new__
"""Makes a named tuple of all its fields, for half of what its own constructor costs."""


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """`capacity` tokens, refilled evenly at `refill_tokens` in `period_us`: GCRA, counted in tokens.

    In any time t it admits at most `capacity + refill_tokens * t / period_us` hits. What is used is kept
    in parts of a token, one part being 1/`period_us`: then a microsecond frees exactly `refill_tokens`
    parts and nothing is ever rounded.

    `charge_rejected`: hits that do not pass are charged all the same, down to a debt of one capacity.
    For costs known only afterwards (Envoy's apply_on_stream_done), which would vanish otherwise.
    """

    capacity: int
    refill_tokens: int
    period_us: int
    charge_rejected: bool = False

    @property
    def size(self) -> int:
        """Hits that fit at most."""
        return self.capacity

    def __post_init__(self) -> None:
        if not 1 <= self.capacity <= MAX_TOKENS:
            raise ValueError(f"capacity must be 1 to {MAX_TOKENS}, not {self.capacity}")
        if not 1 <= self.refill_tokens <= MAX_TOKENS:
            raise ValueError(f"refill_tokens must be 1 to {MAX_TOKENS}, not {self.refill_tokens}")
        _check_window(self.period_us)

    def take(self, state: State | None, hits: int, now_us: int) -> tuple[Taken, State | None]:
        """The outcome of `hits` at `now_us` (since 1970), and the state to keep.

        `state` None is a bucket never used. The state returned is the very object given when there is
        nothing new to keep.
        """
        period, refill = self.period_us, self.refill_tokens
        full = self.capacity * period
        used = 0
        stepped_back = False
        if state is not None:
            used, at_us = state
            elapsed_us = now_us - at_us
            if elapsed_us > 0:
                used -= elapsed_us * refill
                if used < 0:  # noqa: PLR1730 - a call of max() costs more than the comparison
                    used = 0
            elif elapsed_us < 0:
                now_us = _waited(now_us, at_us, period)
                stepped_back = now_us < at_us
        before = used
        cost = hits * period
        after = used + cost
        allowed = hits < 0 or after <= full
        if allowed or self.charge_rejected:
            used = after if 0 <= after <= full else max(0, min(2 * full, after))
        left = full - used
        remaining = left // period if left > 0 else 0
        retry_us = 0 if allowed else -(-(used + min(cost, full) - full) // refill)
        taken = _new(Taken, (allowed, remaining, -(-used // refill), retry_us, -(-before // period)))
        # Where the clock was set back by more than it may be, time starts again from here: waiting until it
        # has caught up would keep an empty bucket empty for as long as the step was wide.
        return taken, (used, now_us) if used != before or stepped_back else state

    def idle_at_us(self, state: State) -> int:
        """When the bucket is full again: from then on its state may be forgotten."""
        used, at_us = state
        return at_us - -used // self.refill_tokens


@dataclass(frozen=True, slots=True)
class FixedWindow:
    """`limit` hits in each window of `window_us`, windows aligned to 1970: as envoyproxy/ratelimit counts.

    `charge_rejected` (on, as there): hits over the limit are counted, too. Off, they leave no trace, so a
    small request still passes after a large one did not (envoyproxy/ratelimit#185).
    """

    limit: int
    window_us: int
    charge_rejected: bool = True

    @property
    def size(self) -> int:
        """Hits that fit at most."""
        return self.limit

    def __post_init__(self) -> None:
        _check_limit(self.limit)
        _check_window(self.window_us)

    def take(self, state: State | None, hits: int, now_us: int) -> tuple[Taken, State | None]:
        """The outcome of `hits` at `now_us` (since 1970), and the state to keep.

        `state` None is a bucket never used. The state returned is the very object given when there is
        nothing new to keep.
        """
        if state is not None and state[-1] > now_us:
            now_us = _waited(now_us, state[-1], self.window_us)
        start_us = now_us - now_us % self.window_us
        return _count(self, state, hits, now_us, (start_us, start_us + self.window_us))

    def idle_at_us(self, state: State) -> int:
        """When the window ends: from then on its state may be forgotten."""
        return state[1] + self.window_us


@dataclass(frozen=True, slots=True)
class CalendarWindow:
    """`limit` hits in each calendar window of `months` (a month, a quarter, a year), in UTC.

    It counts as a fixed window does, and starts again at 00:00 on the first day of the next window.

    `charge_rejected` (on, as in a fixed window): hits over the limit are counted, too.
    """

    limit: int
    months: int
    charge_rejected: bool = True

    @property
    def size(self) -> int:
        """Hits that fit at most."""
        return self.limit

    def __post_init__(self) -> None:
        _check_limit(self.limit)
        if self.months not in CALENDAR_MONTHS:
            raise ValueError(f"months must be one of {CALENDAR_MONTHS}, not {self.months}")

    def take(self, state: State | None, hits: int, now_us: int) -> tuple[Taken, State | None]:
        """The outcome of `hits` at `now_us` (since 1970), and the state to keep.

        `state` None is a bucket never used. The state returned is the very object given when there is
        nothing new to keep.
        """
        if state is not None and state[-1] > now_us:
            now_us = _waited(now_us, state[-1], MAX_STEP_BACK_US)
        return _count(self, state, hits, now_us, calendar_window(now_us // DAY_US, self.months))

    def idle_at_us(self, state: State) -> int:
        """When the window ends: from then on its state may be forgotten."""
        return calendar_window(state[1] // DAY_US, self.months)[1]


def _count(
    bucket: FixedWindow | CalendarWindow,
    state: State | None,
    hits: int,
    now_us: int,
    window: tuple[int, int],
) -> tuple[Taken, State | None]:
    """The outcome of `hits` in a window: its first microsecond, and that of the next."""
    limit = bucket.limit
    start_us, end_us = window
    before = state[0] if state is not None and state[1] == start_us else 0
    after = min(MAX_COUNT, max(0, before + hits))
    allowed = hits < 0 or after <= limit
    count = after if allowed or bucket.charge_rejected else before
    reset_us = end_us - now_us
    taken = Taken(allowed, max(0, limit - count), reset_us, 0 if allowed else reset_us, before)
    return taken, (count, start_us) if count != before else state


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """`limit` hits in the last `window_us`, by the sliding window counter: two fixed windows, weighted.

    The hits of the window before count in proportion to the part of it that is within the last `window_us`,
    as if they had come evenly, so nothing jumps at the end of a window. In the worst case, where all of them
    came at its end, almost twice `limit` pass in one `window_us`.

    A refund takes hits of this window back, and then those of the window before.

    `charge_rejected`: hits that do not pass are counted all the same.
    """

    limit: int
    window_us: int
    charge_rejected: bool = False

    @property
    def size(self) -> int:
        """Hits that fit at most."""
        return self.limit

    def __post_init__(self) -> None:
        _check_limit(self.limit)
        _check_window(self.window_us)

    def take(self, state: State | None, hits: int, now_us: int) -> tuple[Taken, State | None]:
        """The outcome of `hits` at `now_us` (since 1970), and the state to keep.

        `state` None is a bucket never used. The state returned is the very object given when there is
        nothing new to keep.
        """
        if state is not None and state[-1] > now_us:
            now_us = _waited(now_us, state[-1], self.window_us)
        window_us = self.window_us
        start_us = now_us - now_us % window_us
        before, previous = self._counts(state, start_us)
        left_us = start_us + window_us - now_us
        used = before + -(-previous * left_us // window_us)
        allowed = hits < 0 or used + hits <= self.limit
        if hits < 0:
            count, kept = max(0, before + hits), max(0, previous + min(0, before + hits))
        else:
            count, kept = before, previous
            if allowed or self.charge_rejected:
                count = min(MAX_TOKENS, before + hits)
        reset_us = left_us + window_us if count else left_us if kept else 0
        retry_us = 0 if allowed else self._retry_us(count, kept, hits, left_us)
        remaining = max(0, self.limit - count + -kept * left_us // window_us)
        taken = Taken(allowed, remaining, reset_us, min(retry_us, reset_us), used)
        return taken, state if count == before and kept == previous else (count, kept, start_us)

    def _counts(self, state: State | None, start_us: int) -> tuple[int, int]:
        """The counts of this window and of the one before."""
        if state is not None:
            count, previous, since_us = state
            if since_us == start_us:
                return count, previous
            if since_us == start_us - self.window_us:
                return 0, count
        return 0, 0

    def _retry_us(self, count: int, previous: int, hits: int, left_us: int) -> int:
        """Until `hits` pass: in this window if its own count leaves room, else in the next."""
        room = self.limit - hits
        if room < 0:
            return left_us + self.window_us
        if room >= count:
            return left_us - (room - count) * self.window_us // previous
        return left_us + self.window_us - room * self.window_us // count

    def idle_at_us(self, state: State) -> int:
        """When nothing of it counts any more: from then on its state may be forgotten."""
        count, _, start_us = state
        return start_us + (2 if count else 1) * self.window_us


@dataclass(frozen=True, slots=True)
class Slots:
    """`limit` requests at once: a request holds a slot from its start to its end.

    Positive hits take one slot for `holder` (1 to 2^52 - 1, made from the id of the request), negative hits
    give one slot of `holder` back, or do nothing if it holds none. So the release of a refused request frees
    nothing, and neither does a second release. A slot that is not given back is free again after `lease_us`.
    A holder that takes twice holds two slots.
    """

    limit: int
    lease_us: int
    holder: int = 0

    @property
    def size(self) -> int:
        """Requests that run at once at most."""
        return self.limit

    @property
    def charge_rejected(self) -> bool:
        """Whether hits that do not pass are charged: a refused request never holds a slot."""
        return False

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_SLOTS:
            raise ValueError(f"concurrency must be 1 to {MAX_SLOTS}, not {self.limit}")
        _check_window(self.lease_us)

    def held_by(self, holder: int) -> "Slots":
        """Return the slots for a request of `holder`."""
        return replace(self, holder=holder)

    def take(self, state: State | None, hits: int, now_us: int) -> tuple[Taken, State | None]:
        """The outcome of `hits` at `now_us` (since 1970), and the state to keep.

        `state` None: none was taken yet. The state returned is the very object given when there is nothing
        new to keep. `retry_after_us` is always 0: when a slot is given back is not known.
        """
        held = self._not_expired(state, now_us)
        before = len(held) // 2
        now_us = max(now_us, held[-1]) if held else now_us
        allowed, changed = hits < 0 or before + (hits > 0) <= self.limit, False
        if hits > 0 and allowed:
            held, changed = (*held, self.holder, now_us), True
        elif hits < 0 and self.holder in (holders := held[::2]):
            index = 2 * holders.index(self.holder)
            held, changed = held[:index] + held[index + 2 :], True
        reset_us = held[-1] + self.lease_us - now_us if held else 0
        taken = Taken(allowed, max(0, self.limit - len(held) // 2), reset_us, 0, before)
        return taken, (held or (0, now_us)) if changed else state

    def _not_expired(self, state: State | None, now_us: int) -> State:
        """Return the slots that are still held. Those of the future were written by a wrong clock."""
        if state is None or state[0] == 0:
            return ()
        first = 0
        while first < len(state) and not -MAX_STEP_BACK_US <= now_us - state[first + 1] < self.lease_us:
            first += 2
        return state[first:]

    def idle_at_us(self, state: State) -> int:
        """When the last slot expires: from then on its state may be forgotten."""
        return state[-1] + self.lease_us if state[0] else state[-1]


RateBucket = TokenBucket | FixedWindow | CalendarWindow | SlidingWindow
Bucket = RateBucket | Slots


def _waited(now_us: int, at_us: int, window_us: int) -> int:
    """Return the time of a bucket whose state is of `at_us`, where the clock says less.

    After a failover the clock may be behind. If the bucket went back with it, what is freed until the clock
    has caught up would be freed twice, and a window that has begun would begin again. A state far in the
    future was written by a wrong clock: waiting for that would keep an empty bucket empty.
    """
    return at_us if at_us - now_us <= min(MAX_STEP_BACK_US, window_us) else now_us


def _check_limit(limit: int) -> None:
    if not 0 <= limit <= MAX_TOKENS:
        raise ValueError(f"limit must be 0 to {MAX_TOKENS}, not {limit}")


def _check_window(window_us: int) -> None:
    if not 1 <= window_us <= MAX_WINDOW_US:
        raise ValueError(f"a window must be 1 µs to {MAX_WINDOW_US} µs (ten years), not {window_us}")
