"""Questions to Redis, each with a bound."""

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
"""Keys in one command: Redis serves nobody else meanwhile, and 500 take it half a millisecond."""


class RedisCaller:
    """Asks Redis with a bound on the wait, and not at all while it does not answer."""

    def __init__(self, redis: Redis, lookup_timeout_seconds: float, breaker: CircuitBreaker) -> None:
        self.redis = redis
        self.lookup_timeout_seconds = lookup_timeout_seconds
        self._breaker = breaker

    async def ask(self, command: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer to `command`. Raises StoreUnavailableError."""
        if not self._breaker.allows():
            cause = self._breaker.cause or "Redis did not answer"
            raise StoreUnavailableError(f"{cause}; it is asked again soon")
        task = asyncio.current_task()
        cancellations = 0 if task is None else task.cancelling()
        try:
            async with asyncio.timeout(self.lookup_timeout_seconds):
                answer = await command()
                if task is not None and task.cancelling() > cancellations:
                    # Before Python 3.12 `asyncio.wait_for`, which redis-py uses, hides one that comes in the
                    # moment its own wait ends (python/cpython#86296).
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
        """The members of a sorted set with their scores, some perhaps twice. Raises StoreUnavailableError.

        By ZSCAN, which promises every member that is there from beginning to end: pages counted from the
        start pass over one member for each that leaves the pages before (another sidecar's logout).
        """
        cursor = 0
        while True:
            cursor, page = await self.ask(
                lambda cursor=cursor: self.redis.zscan(name, cursor, count=BATCH)  # type: ignore[misc]
            )
            if page:
                yield [(member, float(score)) for member, score in page]
            if not cursor:
                return
