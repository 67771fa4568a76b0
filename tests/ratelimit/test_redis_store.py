"""What only Redis can do wrong: its script, its restarts, its silences."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from common.buckets import (
    MAX_WINDOW_US,
    Taken,
    TokenBucket,
)
from common.circuit_breaker import CircuitBreaker, CircuitState
from ratelimit.stores.redis import MAX_CALLS, MAX_KEYS_PER_CALL, RedisStore
from ratelimit.stores.store import Failure, StoreError, Take
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

SLOW = TokenBucket(10, 10, MAX_WINDOW_US)


def make_store(
    server: RedisServer, *, timeout_seconds: float = 5.0, failures: int = 2
) -> tuple[RedisStore, Redis]:
    client = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
    breaker = CircuitBreaker(time.monotonic, lambda: 0.0, failures=failures, open_seconds=0.05)
    return RedisStore(client, breaker, prefix="t:", timeout_seconds=timeout_seconds), client


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    made, client = make_store(redis_server)
    yield made
    await made.close()
    await client.aclose()


async def take(store: RedisStore, *takes: Take) -> list[Taken]:
    return await store.take(takes)


async def failure_of(answer: Awaitable[list[Taken]]) -> Failure:
    with pytest.raises(StoreError) as caught:
        await answer
    return caught.value.failure


async def recovered(store: RedisStore) -> list[Taken]:
    """The first answer after failures; the breaker lets a try through every 50 ms to 0.4 s."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await store.take([Take("recovered", SLOW, 1)])
            except StoreError:
                await asyncio.sleep(0.01)


class TestTogether:
    async def test_simultaneous_requests_never_share_a_token(self, store: RedisStore) -> None:
        answers = await asyncio.gather(*[take(store, Take("k", SLOW, 1)) for _ in range(50)])
        assert sum(taken.allowed for [taken] in answers) == 10

    async def test_two_sidecars_share_one_limit(self, redis_server: RedisServer, store: RedisStore) -> None:
        other, client = make_store(redis_server)
        answers = await asyncio.gather(
            *[take(one, Take("k", SLOW, 1)) for one in (store, other) for _ in range(20)]
        )
        await other.close()
        await client.aclose()
        assert sum(taken.allowed for [taken] in answers) == 10

    async def test_each_gets_its_own_answers_out_of_a_shared_call(self, store: RedisStore) -> None:
        requests = [[Take(f"{n}-{m}", SLOW, m) for m in range(1, n % 5 + 2)] for n in range(100)]
        answers = await asyncio.gather(*[take(store, *request) for request in requests])
        for request, answer in zip(requests, answers, strict=True):
            assert [taken.remaining for taken in answer] == [10 - asked.hits for asked in request]

    async def test_requests_of_one_moment_share_calls(
        self, redis_server: RedisServer, store: RedisStore
    ) -> None:
        await asyncio.gather(*[take(store, Take(f"{n}", SLOW, 1)) for n in range(MAX_KEYS_PER_CALL)])
        with redis_server.client() as plain:
            commands: Any = plain.info("commandstats")
        calls = commands["cmdstat_evalsha"]["calls"] + commands.get("cmdstat_eval", {}).get("calls", 0)
        assert calls <= 4

    async def test_a_request_larger_than_a_call_is_still_one_step(self, store: RedisStore) -> None:
        takes = [Take(f"{n}", SLOW, 1) for n in range(MAX_KEYS_PER_CALL * 2)]
        assert len(await take(store, *takes)) == MAX_KEYS_PER_CALL * 2


class TestRestart:
    async def test_a_restarted_redis_learns_the_script_anew(
        self, redis_server: RedisServer, store: RedisStore
    ) -> None:
        """NOSCRIPT after a restart, a promotion or SCRIPT FLUSH."""
        await take(store, Take("k", SLOW, 1))
        redis_server.restart()
        assert (await recovered(store))[0].allowed
        assert store.breaker.state is CircuitState.CLOSED

    async def test_script_flush_is_not_noticed_by_anyone(
        self, redis_server: RedisServer, store: RedisStore
    ) -> None:
        await take(store, Take("k", SLOW, 4))
        with redis_server.client() as plain:
            plain.script_flush()
        assert (await take(store, Take("k", SLOW, 1)))[0].remaining == 5
        assert not any(store.failures.values())

    async def test_away_at_the_start_and_there_later(self, redis_server: RedisServer) -> None:
        redis_server.stop()
        store, client = make_store(redis_server)
        assert await failure_of(store.take([Take("k", SLOW, 1)])) is Failure.UNREACHABLE
        redis_server.start()
        assert (await recovered(store))[0].allowed
        await store.close()
        await client.aclose()


class TestSilence:
    async def test_a_silent_redis_costs_no_more_than_the_timeout(self, redis_server: RedisServer) -> None:
        store, client = make_store(redis_server, timeout_seconds=0.05)
        await recovered(store)
        redis_server.pause()
        assert await failure_of(store.take([Take("k", SLOW, 1)])) is Failure.TIMEOUT
        redis_server.resume()
        await recovered(store)
        await store.close()
        await client.aclose()

    async def test_answers_that_always_come_too_late_open_the_breaker(
        self, redis_server: RedisServer
    ) -> None:
        """Each request would else wait its whole timeout in vain."""
        store, client = make_store(redis_server, timeout_seconds=0.02, failures=2)
        await recovered(store)
        store.breaker._open_seconds = 1000.0
        with redis_server.client() as plain:
            async with asyncio.timeout(20):
                while store.breaker.state is not CircuitState.OPEN:
                    plain.client_pause(60)
                    assert await failure_of(store.take([Take("k", SLOW, 1)])) is Failure.TIMEOUT
        await store.close()
        await client.aclose()

    async def test_a_connection_slower_than_the_timeout_comes_about_all_the_same(
        self, redis_server: RedisServer
    ) -> None:
        """Given up with the request that asked for it, it would be started again for each, forever."""
        store, client = make_store(redis_server, timeout_seconds=0.02, failures=100)
        redis_server.pause()
        for _ in range(12):
            assert await failure_of(store.take([Take("k", SLOW, 1)])) is Failure.TIMEOUT
        redis_server.resume()
        await recovered(store)
        with redis_server.client() as plain:
            seen: Any = plain.info("stats")
        # The server's own start, this look, and what the store opened.
        assert seen["total_connections_received"] <= 2 + MAX_CALLS
        await store.close()
        await client.aclose()

    async def test_the_callers_budget_ends_the_wait_earlier(
        self, redis_server: RedisServer, store: RedisStore
    ) -> None:
        """The timeout of this store is 5 s; the test's own is the proof."""
        await take(store, Take("k", SLOW, 1))
        redis_server.pause()
        async with asyncio.timeout(4):
            assert await failure_of(store.take([Take("k", SLOW, 1)], 0.05)) is Failure.TIMEOUT
        redis_server.resume()

    async def test_no_budget_is_no_question(self, store: RedisStore) -> None:
        with pytest.raises(StoreError) as caught:
            store.take([Take("k", SLOW, 1)], 0.0)
        assert caught.value.failure is Failure.NO_TIME

    async def test_the_breaker_opens_and_answers_at_once(self, redis_server: RedisServer) -> None:
        store, client = make_store(redis_server, timeout_seconds=0.05, failures=2)
        store.breaker._open_seconds = 1000.0
        redis_server.stop()
        for _ in range(2):
            await failure_of(store.take([Take("k", SLOW, 1)]))
        with pytest.raises(StoreError) as caught:
            store.take([Take("k", SLOW, 1)])
        assert caught.value.failure is Failure.BREAKER_OPEN
        assert store.breaker.state is CircuitState.OPEN
        await client.aclose()

    async def test_more_than_may_wait_are_refused_at_once(self, redis_server: RedisServer) -> None:
        client = Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), 0))
        breaker = CircuitBreaker(time.monotonic, lambda: 0.0)
        store = RedisStore(client, breaker, timeout_seconds=5.0, max_waiting=3)
        waiting = [store.take([Take("k", SLOW, 1)]) for _ in range(3)]
        with pytest.raises(StoreError) as caught:
            store.take([Take("k", SLOW, 1)])
        assert caught.value.failure is Failure.BUSY
        assert [taken.allowed for [taken] in await asyncio.gather(*waiting)] == [True] * 3
        await client.aclose()

    async def test_an_error_answer_is_a_failure_and_no_crash(self, redis_server: RedisServer) -> None:
        store, client = make_store(redis_server)
        with redis_server.client() as plain:
            plain.lpush("t:k", "a list")
        assert await failure_of(store.take([Take("k", SLOW, 1)])) is Failure.REFUSED
        assert (await store.take([Take("good", SLOW, 1)]))[0].allowed
        assert store.failures[Failure.REFUSED] == 1
        await store.close()
        await client.aclose()

    async def test_a_caller_that_goes_away_harms_nobody(self, store: RedisStore) -> None:
        gone = asyncio.ensure_future(store.take([Take("k", SLOW, 1)]))
        stays = asyncio.ensure_future(store.take([Take("k2", SLOW, 1)]))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays)[0].allowed

    async def test_closing_ends_every_wait(self, redis_server: RedisServer) -> None:
        store, client = make_store(redis_server)
        await recovered(store)
        redis_server.pause()
        waiting = asyncio.ensure_future(store.take([Take("k", SLOW, 1)]))
        await asyncio.sleep(0.05)
        await store.close()
        assert await failure_of(waiting) is Failure.UNREACHABLE
        redis_server.resume()
        await client.aclose()

    async def test_a_closed_store_opens_no_connection(self, redis_server: RedisServer) -> None:
        store, client = make_store(redis_server)
        await recovered(store)
        await store.close()
        assert await failure_of(store.take([Take("k", SLOW, 1)])) is Failure.UNREACHABLE
        assert store._link.ready() is None
        await client.aclose()


class TestWithoutTasks:
    """Over a connection that is open, a call needs no task."""

    async def test_a_call_over_an_open_connection_makes_no_task(self, redis_server: RedisServer) -> None:
        async with timed_store(redis_server) as store:
            await take(store, Take("k", SLOW, 1))
            before = asyncio.all_tasks()
            answers = [store.take_then([Take("k", SLOW, 1)], None, remaining) for _ in range(3)]
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == before
            assert await asyncio.gather(*answers) == [8, 7, 6]

    async def test_a_store_that_closes_answers_the_calls_that_are_out(
        self, redis_server: RedisServer
    ) -> None:
        async with timed_store(redis_server) as store:
            await take(store, Take("k", SLOW, 1))
            redis_server.pause()
            answer = asyncio.create_task(failure_of(store.take([Take("k", SLOW, 1)])))
            for _ in range(3):
                await asyncio.sleep(0)
            await store.close()
            redis_server.resume()
            assert await answer is Failure.UNREACHABLE

    async def test_an_error_of_redis_is_handled_as_with_a_task(self, redis_server: RedisServer) -> None:
        async with timed_store(redis_server) as store:
            await take(store, Take("k", SLOW, 1))
            with redis_server.client() as plain:
                plain.script_flush()
                plain.lpush("t:list", "a")
            answers = [
                asyncio.create_task(failure_of(store.take([Take("list", SLOW, 1)]))),
                asyncio.create_task(take(store, Take("k", SLOW, 1))),
            ]
            refused, taken = await asyncio.gather(*answers)
            assert refused is Failure.REFUSED
            assert isinstance(taken, list)
            assert taken[0].remaining == 8
            assert store.breaker.state is CircuitState.CLOSED


def remaining(outcome: list[Taken] | StoreError) -> int:
    assert isinstance(outcome, list)
    return outcome[0].remaining


@asynccontextmanager
async def timed_store(server: RedisServer) -> AsyncIterator[RedisStore]:
    """A store whose connection gives up by itself, as that of the process does."""
    retry = Retry(NoBackoff(), 0)
    async with Redis.from_url(server.url, retry=retry, socket_timeout=10.0) as client:
        breaker = CircuitBreaker(time.monotonic, lambda: 0.0)
        store = RedisStore(client, breaker, prefix="t:", timeout_seconds=10.0)
        yield store
        await store.close()
