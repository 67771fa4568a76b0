"""A bounded wait for something to become true."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

POLL_SECONDS: Final = 0.05
WAIT_SECONDS: Final = 20.0
"""The longest wait; it only ends a wait for something that never happens."""


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Return once `condition` is true. Raises TimeoutError, which names `what`."""
    for _ in range(max(1, round(seconds / POLL_SECONDS))):
        if await condition():
            return
        await asyncio.sleep(POLL_SECONDS)
    raise TimeoutError(f"not after {seconds:g} seconds: {what}")
