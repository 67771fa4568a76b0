"""Ends background tasks."""

import asyncio
from typing import Any, Final

AGAIN_SECONDS: Final = 0.05
"""Between two cancellations of a task that went on after the first."""


async def end(task: "asyncio.Task[Any]") -> None:
    """Cancel `task` until it has ended; how it ended does not matter.

    Once is not always enough: up to Python 3.11 `asyncio.wait_for`, which redis-py uses, swallows a
    cancellation that comes in the moment its own wait ends (python/cpython#86296).
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_SECONDS)
