import asyncio
import contextlib

import pytest

from authz.credentials.core.redis_caller import RedisCaller
from common.circuit_breaker import CircuitBreaker
from common.tasks import cancel_and_wait


async def test_a_task_that_swallows_a_cancellation_ends_all_the_same() -> None:
    """python/cpython#86296: a cancellation may be lost inside `asyncio.wait_for`."""
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await cancel_and_wait(task)
    assert task.cancelled()
    assert swallowed == 3


async def test_a_task_that_has_ended_is_left_alone() -> None:
    async def done() -> int:
        return 1

    task = asyncio.create_task(done())
    await task
    await cancel_and_wait(task)
    assert task.result() == 1


async def test_no_task_is_left_behind_by_one_that_is_ended_itself() -> None:
    """A subscription that is cancelled while it cancels another task."""
    rounds = 0

    async def stubborn() -> None:
        nonlocal rounds
        while rounds < 3:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                rounds += 1

    inner = [asyncio.create_task(stubborn()) for _ in range(3)]
    await asyncio.sleep(0)
    outer = asyncio.create_task(cancel_and_wait(*inner))
    await asyncio.sleep(0)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert all(task.done() for task in inner)


async def test_a_cancellation_that_a_command_hides_counts_all_the_same() -> None:
    """python/cpython#86296: redis-py's commands lose a cancellation that arrives with their reply."""

    async def hides() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        return "answer"

    caller = RedisCaller(None, 10, CircuitBreaker(lambda: 0.0, lambda: 0.0))  # type: ignore[arg-type]  # never asked
    asking = asyncio.create_task(caller.call(hides))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
