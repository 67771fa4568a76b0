"""An event loop that is late, which is not a Redis that is late."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from common.buckets import MAX_WINDOW_US, TokenBucket
from common.circuit_breaker import CircuitBreaker, CircuitState
from ratelimit.stores.redis import RedisStore
from ratelimit.stores.store import Failure, StoreError, Take
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

BUCKET = TokenBucket(1_000, 1_000, MAX_WINDOW_US)
TIMEOUT_SECONDS = 0.05


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    async with Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), 0)) as client:
        breaker = CircuitBreaker(time.monotonic, lambda: 0.0, failures=2, open_seconds=0.05)
        made = RedisStore(client, breaker, prefix="t:", timeout_seconds=TIMEOUT_SECONDS)
        await client.ping()
        yield made
        await made.close()


async def sent(store: RedisStore) -> "asyncio.Task[object]":
    """Return a request that is on its way to Redis."""

    async def ask() -> object:
        return await store.take([Take("k", BUCKET, 1)])

    task: asyncio.Task[object] = asyncio.create_task(ask())
    await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert store.waiting == 0
    return task


async def test_an_answer_that_waits_for_the_event_loop_is_no_failure(
    store: RedisStore,
) -> None:
    """On a busy machine, answers would else come from local buckets although Redis is well."""
    await (await sent(store))  # connects
    for _ in range(5):
        task = await sent(store)
        time.sleep(2 * TIMEOUT_SECONDS)  # noqa: ASYNC251 - the event loop is late
        await task
    assert store.breaker.state is CircuitState.CLOSED
    assert not any(store.failures.values())


async def test_a_silent_redis_is_a_failure_even_if_the_event_loop_was_late_too(
    store: RedisStore, redis_server: RedisServer
) -> None:
    await (await sent(store))
    redis_server.pause()
    task = await sent(store)
    time.sleep(2 * TIMEOUT_SECONDS)  # noqa: ASYNC251 - the event loop is late
    with pytest.raises(StoreError) as caught:
        await task
    assert caught.value.failure is Failure.TIMEOUT
    redis_server.resume()
