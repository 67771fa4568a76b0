"""Calls to Redis, each with a timeout."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from authz.credentials.core.store_errors import StoreUnavailableError
from common.circuit_breaker import CircuitBreaker
from common.redis_errors import answer_in, error_text

Answer = TypeVar("Answer")

BATCH: Final = 500
"""The most keys in one command. Redis runs commands one by one, and 500 keys take half a millisecond."""


class RedisCaller:
    """Calls Redis with a timeout, and not at all while the circuit breaker is open."""

    def __init__(self, redis: Redis, lookup_timeout_seconds: float, breaker: CircuitBreaker) -> None:
        self.redis = redis
        self.lookup_timeout_seconds = lookup_timeout_seconds
        self._breaker = breaker

    async def call(self, command: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the answer to `command`. Raises StoreUnavailableError."""
        if not self._breaker.allows():
            cause = self._breaker.cause or "Redis did not answer"
            raise StoreUnavailableError(f"{cause}; it is called again soon")
        task = asyncio.current_task()
        cancellations = 0 if task is None else task.cancelling()
        try:
            async with asyncio.timeout(self.lookup_timeout_seconds):
                answer = await command()
                if task is not None and task.cancelling() > cancellations:
                    # Before Python 3.12, `asyncio.wait_for`, which redis-py uses, hides a cancellation that
                    # arrives just as its own wait ends (python/cpython#86296).
                    raise asyncio.CancelledError
        except TimeoutError as error:
            problem = f"Redis gave no answer within {self.lookup_timeout_seconds:g} s"
            self._breaker.failed(problem)
            raise StoreUnavailableError(problem) from error
        except (RedisError, OSError) as error:
            verb = "refuses" if answer_in(error) is not None else "is away"
            problem = f"Redis {verb}: {error_text(error)}"
            self._breaker.failed(problem)
            raise StoreUnavailableError(problem) from error
        self._breaker.succeeded()
        return answer

    async def pages(self, name: str) -> AsyncIterator[list[tuple[Any, float]]]:
        """Yield the members of a sorted set with their scores, some perhaps twice.

        ZSCAN returns every member that is present from start to end. Pages by index would skip a member for
        each one that is removed from an earlier page (another sidecar's logout).
        Raises StoreUnavailableError.
        """
        cursor = 0
        while True:
            cursor, page = await self.call(
                lambda cursor=cursor: self.redis.zscan(name, cursor, count=BATCH)  # type: ignore[misc]
            )
            if page:
                yield [(member, float(score)) for member, score in page]
            if not cursor:
                return
