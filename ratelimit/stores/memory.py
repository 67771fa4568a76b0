"""Buckets in this process."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from common.buckets import Bucket, State, Taken
from ratelimit.stores.store import Take
from ratelimit.stores.take_all import take_all

MAX_BUCKETS: Final = 200_000
"""About 80 MB. A bound is needed: each client makes as many buckets as it has addresses or identities."""

SWEPT_PER_NEW_BUCKET: Final = 2
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
        self._buckets: OrderedDict[str, tuple[Bucket, State]] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, takes: Sequence[Take], _budget_seconds: float | None = None, /) -> list[Taken]:
        """The outcome of each of the `takes` of a request, at once. Never raises StoreError."""
        now_us = self._now_us()
        if len(takes) == 1:
            key, bucket, hits, _, _ = takes[0]
            return [self.take_one(key, bucket, hits, now_us)]
        buckets = self._buckets
        states = {take.key: buckets[take.key][1] for take in takes if take.key in buckets}
        taken = take_all(takes, states, now_us)
        for take in takes:
            self._keep(take.key, take.bucket, states.get(take.key), now_us)
        return taken

    def take_one(self, key: str, bucket: Bucket, hits: int, now_us: int) -> Taken:
        """The outcome of `hits` to the bucket `key` at `now_us` (since 1970)."""
        kept = self._buckets.get(key)
        taken, state = bucket.take(None if kept is None else kept[1], hits, now_us)
        self._keep(key, bucket, state, now_us)
        return taken

    def _keep(self, key: str, bucket: Bucket, state: State | None, now_us: int) -> None:
        """Keep `state` as that of the bucket used last."""
        if state is None:
            return
        buckets = self._buckets
        kept = buckets.get(key)
        if kept is None:
            self._make_room(now_us)
            buckets[key] = (bucket, state)
            return
        if state is not kept[1]:
            buckets[key] = (bucket, state)
        buckets.move_to_end(key)

    def peek(self, key: str, bucket: Bucket, hits: int, now_us: int) -> Taken:
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
