"""Combines the look-ups of many requests into few Redis commands."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from authz.credentials.core.redis_caller import BATCH, RedisCaller
from authz.credentials.core.store_errors import StoreUnavailableError

MAX_WAITING: Final = 10_000
"""The most keys that wait, enough for 20 further commands. Beyond that, Redis cannot keep up."""


class ReadBatcher:
    """Reads keys from Redis. Look-ups that arrive while one is running share the next command, an MGET.

    So any number of requests needs one connection, and several for one key read it once. With one connection
    each, a few hundred concurrent requests would wait for connections longer than the timeout, and Redis
    would count as unavailable (as happened when a lost subscription voided all cached sessions).
    """

    def __init__(self, redis_caller: RedisCaller) -> None:
        self._redis_caller = redis_caller
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._busy = False
        self._task: asyncio.Task[None] | None = None

    async def get(self, name: str) -> Any:
        """Return the value, or None. Raises StoreUnavailableError within the timeout of the caller."""
        if self._busy:
            return await self._with_others(name)
        self._busy = True
        try:
            return await self._redis_caller.call(lambda: self._redis_caller.redis.get(name))
        finally:
            if self._waiting:
                self._task = asyncio.create_task(self._read_waiting(), name="session look-ups")
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
                # Others may wait for the same key, so a caller that gives up must not cancel it.
                found = await asyncio.shield(future)
        except TimeoutError:
            raise StoreUnavailableError(
                f"Redis gave no answer within {self._redis_caller.lookup_timeout_seconds:g} s"
            ) from None
        if isinstance(found, StoreUnavailableError):
            raise StoreUnavailableError(str(found))
        return found

    async def _read_waiting(self) -> None:
        try:
            while self._waiting:
                names = list(self._waiting)[:BATCH]
                futures = [self._waiting.pop(name) for name in names]
                try:
                    found = await self._many(names)
                except StoreUnavailableError as error:
                    # Set as a result: an exception that no caller retrieves would be logged.
                    found = [error] * len(futures)
                for future, value in zip(futures, found, strict=True):
                    if not future.done():
                        future.set_result(value)
        finally:
            self._busy = False

    async def _many(self, names: Sequence[str]) -> Sequence[Any]:
        found: Sequence[Any] = await self._redis_caller.call(lambda: self._redis_caller.redis.mget(names))
        return found
