"""The stores of the ratelimit sidecar in Redis, as one part of the process."""

import time
from typing import Any

from sidecars.services.ratelimit_redis import RefusalLog, SharedStores


class Recorder:
    """A store that notes that it is closed."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


async def test_closing_closes_the_store_that_is_asked_so_that_hits_are_given_back_first() -> None:
    """With `redis_per_second` that is the SplitStore, which waits for refunds and closes both parts."""
    parts: list[Any] = [Recorder(), Recorder()]
    asked: Any = Recorder()
    refusals = RefusalLog(time.monotonic, time.time)
    share: Any = None
    await SharedStores(parts[0], parts[1], asked, refusals, None, 1, share).close()
    assert asked.closed
    assert not any(part.closed for part in parts)
