"""Buckets in this process."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from common.buckets import FixedWindow, State, Taken, TokenBucket
from ratelimit.stores.store import Take

MAX_BUCKETS = 200_000
"""About 80 MB. A bound is needed: each client makes as many buckets as it has addresses or identities."""

SWEPT_PER_NEW_BUCKET = 2
"""More than one, so that unneeded buckets go faster than new ones come."""


class MemoryStore:
    """Keeps buckets in this process: answers at once, and forgets when the process ends.

    Bounded: beyond `max_buckets` the bucket unused for longest goes, and its client starts afresh with a
    full one. `evicted` counts those that still had something charged. Before that, each new bucket removes
    up to two idle ones (full again, or of a window past) from the same end.
    """

    def __init__(self, now_us: Callable[[], int], max_buckets: int = MAX_BUCKETS) -> None:
        self._now_us = now_us
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[str, tuple[TokenBucket | FixedWindow, State]] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, takes: Sequence[Take], _budget_seconds: float | None = None, /) -> list[Taken]:
        """The outcome of each of `takes`, at once. Never raises StoreError."""
        now_us = self._now_us()
        return [self.take_one(key, bucket, hits, now_us) for key, bucket, hits in takes]

    def take_one(self, key: str, bucket: TokenBucket | FixedWindow, hits: int, now_us: int) -> Taken:
        """The outcome of `hits` to the bucket `key` at `now_us` (since 1970)."""
        buckets = self._buckets
        kept = buckets.get(key)
        state = None if kept is None else kept[1]
        taken, new_state = bucket.take(state, hits, now_us)
        if new_state is not state and new_state is not None:
            if kept is None:
                self._make_room(now_us)
            buckets[key] = (bucket, new_state)
        if kept is not None:
            buckets.move_to_end(key)
        return taken

    def peek(self, key: str, bucket: TokenBucket | FixedWindow, hits: int, now_us: int) -> Taken:
        """What `take_one` would answer, with nothing charged and nothing kept."""
        kept = self._buckets.get(key)
        return bucket.take(None if kept is None else kept[1], hits, now_us)[0]

    def forget(self, key: str) -> None:
        """Make the bucket `key` as good as never used."""
        self._buckets.pop(key, None)

    async def close(self) -> None:
        """Do nothing: nothing is open."""

    def _make_room(self, now_us: int) -> None:
        buckets = self._buckets
        for _ in range(SWEPT_PER_NEW_BUCKET):
            if not buckets:
                return
            oldest = next(iter(buckets))
            bucket, state = buckets[oldest]
            idle = bucket.idle_at_us(state) <= now_us
            if not idle and len(buckets) < self._max_buckets:
                return
            del buckets[oldest]
            self.evicted += not idle
