"""Ends background tasks."""

import asyncio
from typing import Any, Final

AGAIN_SECONDS: Final = 0.05
"""Between two cancellations of a task that went on after the first."""


async def cancel_and_wait(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel all `tasks` until each has ended; how they ended does not matter.

    Once is not always enough: before Python 3.12 `asyncio.wait_for`, which redis-py uses, hides a
    cancellation that comes in the moment its own wait ends (python/cpython#86296, bpo-42130).
    """
    cancelled = False
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running, timeout=AGAIN_SECONDS)
        except asyncio.CancelledError:
            # A cancellation of ours is raised afterwards: raised now, it would leave tasks running.
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
