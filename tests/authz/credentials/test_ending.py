import asyncio

from authz.credentials.ending import end


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
    await end(task)
    assert task.cancelled()
    assert swallowed == 3


async def test_a_task_that_has_ended_is_left_alone() -> None:
    async def done() -> int:
        return 1

    task = asyncio.create_task(done())
    await task
    await end(task)
    assert task.result() == 1
