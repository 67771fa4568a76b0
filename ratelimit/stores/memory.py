"""Buckets in this process."""

from collections import deque
from collections.abc import Callable, Sequence
from struct import pack, unpack
from typing import Final

from common.buckets import SECOND_US, Bucket, SlidingWindow, Slots, State, Taken, TokenBucket
from ratelimit.stores.store import Take
from ratelimit.stores.take_all import take_all

MAX_BUCKETS: Final = 200_000
"""About 35 MB. A bound is needed: each client makes as many buckets as it has addresses or identities."""

SWEPT_PER_NEW_BUCKET: Final = 2
"""More than one, so that unneeded buckets go faster than new ones come."""

LOOKED_AT_PER_NEW_BUCKET: Final = 8
"""Bounds what a new bucket costs where the oldest ones are all in use."""

# A bucket is kept as one integer, because a million tuples take twice the room, and a pass of the garbage
# collector over them takes 100 ms. From the lowest bit: whether it was used again, when it is idle (in
# seconds), the last number of its state (a time in microseconds), and the numbers before that.
_USED: Final = 1
_IDLE_SHIFT: Final = 1
_TIME_SHIFT: Final = 36
_TIME_BITS: Final = 53
_COUNTS_SHIFT: Final = _TIME_SHIFT + _TIME_BITS
_IDLE_MASK: Final = (1 << _TIME_SHIFT - _IDLE_SHIFT) - 1
_TIME_MASK: Final = (1 << _TIME_BITS) - 1
_COUNT_BITS: Final = 33
"""The room for the second of three numbers, the hits of a window: at most MAX_TOKENS."""
_COUNT_MASK: Final = (1 << _COUNT_BITS) - 1


class MemoryStore:
    """Keeps buckets in this process: answers at once, and forgets when the process ends.

    Bounded: beyond `max_buckets` one that was not used lately goes, and its client starts afresh with a full
    one. `evicted` counts those that still had something charged. Before that, each new bucket removes up to
    two idle ones (full again, or of a window past).

    The order is that of the CLOCK algorithm: a bucket that was used again since it was last looked at gets a
    second chance. That comes close to the least recently used one, and a use changes no order.
    """

    def __init__(self, now_us: Callable[[], int], max_buckets: int = MAX_BUCKETS) -> None:
        self._now_us = now_us
        self._max_buckets = max_buckets
        self._buckets: dict[str, int] = {}
        self._queue: deque[str] = deque()
        """Every bucket once: new ones at the end, the next to be looked at first."""
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, takes: Sequence[Take], _budget_seconds: float | None = None, /) -> list[Taken]:
        """The outcome of each of the `takes` of a request, at once. Never raises StoreError."""
        now_us = self._now_us()
        if len(takes) == 1:
            key, bucket, hits, _, _ = takes[0]
            return [self.take_one(key, bucket, hits, now_us)]
        taken = self._take_passing(takes, now_us)
        if taken is not None:
            return taken
        buckets = self._buckets
        states = {take.key: _unpack(buckets[take.key], take.bucket) for take in takes if take.key in buckets}
        taken = take_all(takes, states, now_us)
        for key, bucket, _, _, _ in takes:
            state = states.get(key)
            if state is None:
                continue
            packed = _pack(state, -(-bucket.idle_at_us(state) // SECOND_US))
            if key in buckets:
                buckets[key] = packed | _USED
            else:
                self._make_room(now_us // SECOND_US)
                buckets[key] = packed
                self._queue.append(key)
        return taken

    def _take_passing(self, takes: Sequence[Take], now_us: int) -> list[Taken] | None:
        """The outcomes if every take passes, and so all are charged; else None, and nothing is charged."""
        buckets = self._buckets
        tried: list[tuple[str, int | None, State | None, Taken]] = []
        passing: list[Taken] = []
        for key, bucket, hits, _, _ in takes:
            packed = buckets.get(key)
            before = None if packed is None else _unpack(packed, bucket)
            taken, state = bucket.take(before, hits, now_us)
            if not taken[0]:
                return None
            passing.append(taken)
            tried.append((key, packed, None if state is before else state, taken))
        if len({key for key, *_ in tried}) < len(tried):
            return None  # of two takes from one bucket, the second depends on the first
        for key, packed, state, taken in tried:
            self._keep(key, packed, state, taken, now_us)
        return passing

    def take_one(self, key: str, bucket: Bucket, hits: int, now_us: int) -> Taken:
        """The outcome of `hits` to the bucket `key` at `now_us` (since 1970)."""
        packed = self._buckets.get(key)
        before = None if packed is None else _unpack(packed, bucket)
        taken, state = bucket.take(before, hits, now_us)
        self._keep(key, packed, None if state is before else state, taken, now_us)
        return taken

    def _keep(self, key: str, packed: int | None, state: State | None, taken: Taken, now_us: int) -> None:
        """Keep the new `state` of the bucket that was `packed` (None: it is new). None keeps the old."""
        buckets = self._buckets
        # A bucket that was there may have made room for another one of the same request.
        is_new = packed is None or key not in buckets
        if state is not None:
            at_us = state[-1]
            idle_at_seconds = -(-(max(now_us, at_us) + taken[2]) // SECOND_US)
            if is_new:
                self._make_room(now_us // SECOND_US)
                self._queue.append(key)
                buckets[key] = _pack(state, idle_at_seconds)
            else:
                buckets[key] = _pack(state, idle_at_seconds) | _USED
        elif packed is not None and not is_new and not packed & _USED:
            buckets[key] = packed | _USED

    def peek(self, key: str, bucket: Bucket, hits: int, now_us: int) -> Taken:
        """What `take_one` would answer, with nothing charged and nothing kept."""
        packed = self._buckets.get(key)
        return bucket.take(None if packed is None else _unpack(packed, bucket), hits, now_us)[0]

    def forget(self, key: str) -> None:
        """Make the bucket `key` as good as never used. Its costs grow with the number of buckets."""
        if self._buckets.pop(key, None) is not None:
            self._queue.remove(key)

    async def close(self) -> None:
        """Do nothing: nothing is open."""

    def _make_room(self, now_seconds: int) -> None:
        buckets, queue = self._buckets, self._queue
        swept = 0
        for _ in range(min(LOOKED_AT_PER_NEW_BUCKET, len(queue))):
            packed = buckets[queue[0]]
            if packed >> _IDLE_SHIFT & _IDLE_MASK <= now_seconds:
                del buckets[queue.popleft()]
                swept += 1
                if swept == SWEPT_PER_NEW_BUCKET:
                    return
            elif packed & _USED:
                buckets[queue[0]] = packed - _USED
                queue.rotate(-1)
            else:
                break
        if len(buckets) >= self._max_buckets:
            del buckets[queue.popleft()]
            self.evicted += 1


def _pack(state: State, idle_at_seconds: int) -> int:
    if len(state) == 2:
        counts, at_us = state
    elif len(state) == 3:
        count, previous, at_us = state
        counts = count << _COUNT_BITS | previous
    else:
        return _pack_slots(state) << _TIME_SHIFT | idle_at_seconds << _IDLE_SHIFT
    return (counts << _TIME_BITS | at_us) << _TIME_SHIFT | idle_at_seconds << _IDLE_SHIFT


def _unpack(packed: int, bucket: Bucket) -> State:
    counts, at_us = packed >> _COUNTS_SHIFT, packed >> _TIME_SHIFT & _TIME_MASK
    if bucket.__class__ is TokenBucket:
        return counts, at_us
    if bucket.__class__ is SlidingWindow:
        return counts >> _COUNT_BITS, counts & _COUNT_MASK, at_us
    if bucket.__class__ is Slots and counts >> _TIME_BITS:
        return _unpack_slots(packed >> _TIME_SHIFT)
    return counts, at_us


def _pack_slots(state: State) -> int:
    """Return two slots or more as one number: 64 bits for each holder and each time."""
    return int.from_bytes(pack(f">{len(state)}Q", *state))


def _unpack_slots(number: int) -> State:
    count = 2 * -(-number.bit_length() // 128)
    return unpack(f">{count}Q", number.to_bytes(8 * count))
