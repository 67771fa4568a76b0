"""Takes that no request waits for."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from common.buckets import Taken
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.store import CallbackStore, Store, StoreError, Take

MAX_WAITING: Final = 1_000
"""Takes that wait for an answer; further ones are counted in this process."""


class DetachedTakes:
    """Takes from `store`, or from `fallback` if it gives no answer, and calls back with the outcome."""

    def __init__(self, store: Store, fallback: MemoryStore, most: int = MAX_WAITING) -> None:
        self._store = store
        self._callback_store = store if isinstance(store, CallbackStore) else None
        self._fallback = fallback
        self._most = most
        self._waiting: set[asyncio.Task[None]] = set()

    def __call__(self, take: Take, then: Callable[[Taken], None]) -> None:
        """Take once, and call `then` with the outcome, at once or later."""
        try:
            if self._callback_store is not None:
                self._callback_store.take_then((take,), None, partial(self._outcome, take, then))
                return
            answer = self._store.take((take,))
        except StoreError as error:
            self._outcome(take, then, error)
            return
        if isinstance(answer, list):
            then(answer[0])
        elif len(self._waiting) < self._most:
            task = asyncio.ensure_future(self._wait(take, then, answer))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
        else:
            with suppress(AttributeError):
                answer.close()  # type: ignore[attr-defined]  # a coroutine that never ran
            then(self._fallback.take((take,))[0])

    async def _wait(self, take: Take, then: Callable[[Taken], None], answer: Awaitable[list[Taken]]) -> None:
        try:
            outcome: list[Taken] | StoreError = await answer
        except StoreError as error:
            outcome = error
        self._outcome(take, then, outcome)

    def _outcome(self, take: Take, then: Callable[[Taken], None], outcome: list[Taken] | StoreError) -> None:
        taken = self._fallback.take((take,)) if isinstance(outcome, StoreError) else outcome
        then(taken[0])
