"""Two stores as one: short windows are counted apart from all others."""

from collections.abc import Awaitable, Sequence
from typing import Final

from common.buckets import SECOND_US, Bucket, CalendarWindow, Slots, Taken, TokenBucket
from ratelimit.stores.parts import Part, PartedTakes
from ratelimit.stores.store import TIMEOUT_SECONDS, Store, Take

SHORT_US: Final = 60 * SECOND_US
"""Windows below a minute are short."""


class SplitStore:
    """Counts short windows in `short` and the others in `store`.

    A request with both asks the two at the same time, as `PartedTakes` says, and waits `timeout_seconds` at
    most.
    """

    def __init__(self, store: Store, short: Store, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._store = store
        self._short = short
        self._parted = PartedTakes(timeout_seconds)

    def take(
        self, takes: Sequence[Take], budget_seconds: float | None = None, /
    ) -> list[Taken] | Awaitable[list[Taken]]:
        """The outcome of each of `takes`. Raises StoreError."""
        short = [index for index, take in enumerate(takes) if _is_short(take.bucket)]
        if not short:
            return self._store.take(takes, budget_seconds)
        if len(short) == len(takes):
            return self._short.take(takes, budget_seconds)
        others = [index for index in range(len(takes)) if index not in short]
        parts = (Part(self._store.take, others), Part(self._short.take, short))
        return self._parted.take(takes, parts, budget_seconds)

    async def close(self) -> None:
        """Close both, after what is given back."""
        await self._parted.close()
        await self._store.close()
        await self._short.close()


def _is_short(bucket: Bucket) -> bool:
    if isinstance(bucket, CalendarWindow | Slots):
        return False
    window_us = bucket.period_us if isinstance(bucket, TokenBucket) else bucket.window_us
    return window_us < SHORT_US
