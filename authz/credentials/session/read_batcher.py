"""Look-ups of many requests, gathered into few questions to Redis."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from authz.credentials.core.redis_caller import BATCH, RedisCaller
from authz.credentials.core.store_errors import StoreUnavailableError

MAX_WAITING: Final = 10_000
"""Keys asked for while a question is under way; 20 questions more. Beyond, Redis cannot keep up."""


class ReadBatcher:
    """GETs. What is asked for while one is under way waits for it and goes into the next, an MGET.

    So any number of requests needs one connection, and several with one key ask once. With a connection
    each, a few hundred requests at once would wait for connections longer than Redis may take, and
    Redis would count as away (which happened when a lost subscription made all sessions to be asked anew).
    """

    def __init__(self, redis_caller: RedisCaller) -> None:
        self._redis_caller = redis_caller
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._busy = False
        self._task: asyncio.Task[None] | None = None

    async def get(self, name: str) -> Any:
        """The value, or None. Raises StoreUnavailableError, within the wait of the asker."""
        if self._busy:
            return await self._with_others(name)
        self._busy = True
        try:
            return await self._redis_caller.ask(lambda: self._redis_caller.redis.get(name))
        finally:
            if self._waiting:
                self._task = asyncio.create_task(self._ask_for_those_who_wait(), name="session look-ups")
            else:
                self._busy = False

    async def _with_others(self, name: str) -> Any:
        future = self._waiting.get(name)
        if future is None:
            if len(self._waiting) >= MAX_WAITING:
                raise StoreUnavailableError("more look-ups than Redis can answer")
            future = self._waiting[name] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._redis_caller.lookup_timeout_seconds):
                # Others may wait for the same key: a caller that gives up does not end it.
                found = await asyncio.shield(future)
        except TimeoutError:
            raise StoreUnavailableError(
                f"Redis gave no answer within {self._redis_caller.lookup_timeout_seconds:g} s"
            ) from None
        if isinstance(found, StoreUnavailableError):
            raise StoreUnavailableError(str(found))
        return found

    async def _ask_for_those_who_wait(self) -> None:
        try:
            while self._waiting:
                names = list(self._waiting)[:BATCH]
                futures = [self._waiting.pop(name) for name in names]
                try:
                    found = await self._many(names)
                except StoreUnavailableError as error:
                    # A result: an exception that nobody is left to see would be a line in the log.
                    found = [error] * len(futures)
                for future, value in zip(futures, found, strict=True):
                    if not future.done():
                        future.set_result(value)
        finally:
            self._busy = False

    async def _many(self, names: Sequence[str]) -> Sequence[Any]:
        found: Sequence[Any] = await self._redis_caller.ask(lambda: self._redis_caller.redis.mget(names))
        return found
