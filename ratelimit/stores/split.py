"""Two stores as one: short windows are counted apart from all others."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final

from common.buckets import SECOND_US, FixedWindow, Taken, TokenBucket
from ratelimit.stores.store import Store, Take

SHORT_US: Final = 60 * SECOND_US
"""Windows below a minute are short."""


class SplitStore:
    """Counts short windows in `short` and the others in `store`.

    A request with both asks the two at the same time. Each is one atomic step by itself; if one of them gives
    no answer, neither does this, and what the other has charged stays charged.
    """

    def __init__(self, store: Store, short: Store) -> None:
        self._store = store
        self._short = short

    def take(
        self, takes: Sequence[Take], budget_seconds: float | None = None, /
    ) -> list[Taken] | Awaitable[list[Taken]]:
        """The outcome of each of `takes`. Raises StoreError."""
        are_short = [_is_short(take.bucket) for take in takes]
        if True not in are_short:
            return self._store.take(takes, budget_seconds)
        if False not in are_short:
            return self._short.take(takes, budget_seconds)
        return self._take_both(takes, are_short, budget_seconds)

    async def close(self) -> None:
        """Close both."""
        await self._store.close()
        await self._short.close()

    async def _take_both(
        self, takes: Sequence[Take], are_short: Sequence[bool], budget_seconds: float | None
    ) -> list[Taken]:
        pairs = list(zip(takes, are_short, strict=True))
        long_takes = [take for take, is_short in pairs if not is_short]
        short_takes = [take for take, is_short in pairs if is_short]
        parts = (
            _asked(self._store, long_takes, budget_seconds),
            _asked(self._short, short_takes, budget_seconds),
        )
        # Both have ended before an error is raised: a call that is left alone could charge later.
        answers = await asyncio.gather(*parts, return_exceptions=True)
        outcomes = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            outcomes.append(iter(answer))
        return [next(outcomes[is_short]) for is_short in are_short]


def _is_short(bucket: TokenBucket | FixedWindow) -> bool:
    window_us = bucket.period_us if isinstance(bucket, TokenBucket) else bucket.window_us
    return window_us < SHORT_US


async def _asked(store: Store, takes: Sequence[Take], budget_seconds: float | None) -> list[Taken]:
    answer = store.take(takes, budget_seconds)
    return answer if isinstance(answer, list) else await answer
