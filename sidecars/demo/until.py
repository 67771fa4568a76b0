"""A bounded wait for something to become true."""

import asyncio
from collections.abc import Awaitable, Callable

POLL_SECONDS = 0.05
WAIT_SECONDS = 20.0
"""Generous: it only ends a wait for what never comes."""


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Return once `condition` holds. Raises TimeoutError that says `what` did not come true."""
    for _ in range(max(1, round(seconds / POLL_SECONDS))):
        if await condition():
            return
        await asyncio.sleep(POLL_SECONDS)
    raise TimeoutError(f"not after {seconds:g} seconds: {what}")
