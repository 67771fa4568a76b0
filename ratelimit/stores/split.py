"""Two stores as one: short windows are counted apart from all others."""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from common.buckets import SECOND_US, Bucket, CalendarWindow, Taken, TokenBucket
from ratelimit.stores.store import Mode, Store, StoreError, Take
from ratelimit.stores.take_all import is_refused

SHORT_US: Final = 60 * SECOND_US
"""Windows below a minute are short."""


class SplitStore:
    """Counts short windows in `short` and the others in `store`.

    A request with both asks the two at the same time, each in one atomic step. If one of them refuses the
    request, what the other has charged is given back, so for the time of two calls the hits of a refused
    request count. If one of them gives no answer, neither does this, and what the other has charged stays.
    """

    def __init__(self, store: Store, short: Store) -> None:
        self._store = store
        self._short = short
        self._refunds: set[asyncio.Task[None]] = set()

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
        """Close both, after what is given back."""
        if self._refunds:
            await asyncio.wait(self._refunds)
        await self._store.close()
        await self._short.close()

    async def _take_both(
        self, takes: Sequence[Take], are_short: Sequence[bool], budget_seconds: float | None
    ) -> list[Taken]:
        pairs = list(zip(takes, are_short, strict=True))
        parts = [
            _Part(store, [_alone(take) for take, is_short in pairs if is_short is short])
            for store, short in ((self._store, False), (self._short, True))
        ]
        # Both have ended before an error is raised: a call that is left alone could charge later.
        answers = await asyncio.gather(
            *[_asked(part.store, part.takes, budget_seconds) for part in parts], return_exceptions=True
        )
        outcomes: list[list[Taken]] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            outcomes.append(answer)
        found = [iter(part) for part in outcomes]
        joined = [next(found[is_short]) for is_short in are_short]
        if not is_refused(zip(takes, joined, strict=True)):
            return joined
        # The answer is known, so its caller does not wait for this.
        for part, outcome in zip(parts, outcomes, strict=True):
            task = asyncio.create_task(_give_back(part, outcome), name="give back hits")
            self._refunds.add(task)
            task.add_done_callback(self._refunds.discard)
        return [
            outcome._replace(remaining=min(take.bucket.size, outcome.remaining + take.hits))
            if _is_given_back(take, outcome)
            else outcome
            for take, outcome in zip(takes, joined, strict=True)
        ]


class _Part(NamedTuple):
    store: Store
    takes: Sequence[Take]


def _alone(take: Take) -> Take:
    """Return the take as its part of a request sees it: quotas are judged over the whole request."""
    return take._replace(mode=Mode.SHADOW) if take.mode is Mode.QUOTA else take


def _is_given_back(take: Take, outcome: Taken) -> bool:
    return outcome.allowed and take.hits > 0 and not take.charges_in_refused(allowed=True)


async def _give_back(part: _Part, outcomes: Sequence[Taken]) -> None:
    """Give back what a part has charged of a request that is refused as a whole."""
    if is_refused(zip(part.takes, outcomes, strict=True)):
        return
    refunds = [
        take._replace(hits=-take.hits)
        for take, outcome in zip(part.takes, outcomes, strict=True)
        if _is_given_back(take, outcome)
    ]
    if refunds:
        with suppress(StoreError):
            await _asked(part.store, refunds, None)


def _is_short(bucket: Bucket) -> bool:
    if isinstance(bucket, CalendarWindow):
        return False
    window_us = bucket.period_us if isinstance(bucket, TokenBucket) else bucket.window_us
    return window_us < SHORT_US


async def _asked(store: Store, takes: Sequence[Take], budget_seconds: float | None) -> list[Taken]:
    answer = store.take(takes, budget_seconds)
    return answer if isinstance(answer, list) else await answer
