"""Waits for what happens soon."""

import asyncio
from collections.abc import Callable

WAIT_SECONDS = 10.0


"""Bounds every wait of a test for something that should happen at once."""


async def until(condition: Callable[[], object]) -> None:
    """Returns once `condition` holds; fails after WAIT_SECONDS."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - what the test waits for knows no event
            await asyncio.sleep(0.001)
