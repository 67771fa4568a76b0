"""Ends background tasks."""

import asyncio
from typing import Any, Final

AGAIN_SECONDS: Final = 0.05
"""Between two cancellations of a task that went on after the first."""


async def cancel_and_wait(task: "asyncio.Task[Any]") -> None:
    """Cancel `task` until it has ended; how it ended does not matter.

    Once is not always enough: before Python 3.12 `asyncio.wait_for`, which redis-py uses, hides a
    cancellation that comes in the moment its own wait ends (python/cpython#86296, bpo-42130).
    """
    cancelled = False
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait({task}, timeout=AGAIN_SECONDS)
        except asyncio.CancelledError:
            # A cancellation of ours is raised afterwards: raised now, it would leave `task` running.
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
