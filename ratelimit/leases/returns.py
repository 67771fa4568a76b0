"""Returns the tokens of leases to their store: those of idle keys now and then, all of them at the end."""

import asyncio
from collections.abc import Sequence
from typing import Final

from ratelimit.leases.leases import Leases
from ratelimit.stores.store import Store, StoreError, Take

TURN_SECONDS: Final = 0.1
"""The time between two returns."""

RETURNS_PER_CALL: Final = 64
"""Buckets: as many as the store asks Redis about in one call."""


class LeaseReturns:
    """Sends to `store` what `leases` have to return."""

    def __init__(self, leases: Leases, store: Store) -> None:
        self._leases = leases
        self._store = store

    async def run(self) -> None:
        """Return what is idle, until cancelled."""
        while True:
            await asyncio.sleep(TURN_SECONDS)
            await self.send()

    async def send(self) -> None:
        """Return what is due. What the store does not answer is lost: it may have taken it back, or not."""
        returns = self._leases.due()
        for first in range(0, len(returns), RETURNS_PER_CALL):
            some = returns[first : first + RETURNS_PER_CALL]
            self._leases.sent(some, arrived=await self._arrives(some))

    async def close(self) -> None:
        """End all leases, and return their tokens."""
        self._leases.end(for_good=True)
        await self.send()

    async def _arrives(self, returns: Sequence[Take]) -> bool:
        try:
            answer = self._store.take(returns)
            if not isinstance(answer, list):
                await answer
        except StoreError:
            return False
        return True
