"""Takes from one bucket in Redis as fast as it can, in a process of its own.

`python -m tests.support.limit_taker URL KIND SIZE SECONDS`, where KIND is token_bucket, fixed_window or
sliding_window: SIZE hits in a second. Prints a JSON list with an entry for each hit that passed: when it was
asked and when it was answered, in seconds since 1970.
"""

import asyncio
import json
import sys
import time
from typing import Final

from redis.asyncio import Redis

from common.buckets import SECOND_US, Bucket, FixedWindow, SlidingWindow, TokenBucket
from common.circuit_breaker import CircuitBreaker
from ratelimit.stores.redis import RedisStore
from ratelimit.stores.store import Take

KINDS: Final[dict[str, type[FixedWindow] | type[SlidingWindow]]] = {
    "fixed_window": FixedWindow,
    "sliding_window": SlidingWindow,
}
IN_FLIGHT: Final = 8


def bucket_of(kind: str, size: int) -> Bucket:
    """Return the bucket of that kind: `size` hits in a second."""
    return TokenBucket(size, size, SECOND_US) if kind == "token_bucket" else KINDS[kind](size, SECOND_US)


async def take(url: str, bucket: Bucket, seconds: float) -> list[tuple[float, float]]:
    """Take until the time is over."""
    passed: list[tuple[float, float]] = []
    async with Redis.from_url(url) as client:
        breaker = CircuitBreaker(time.monotonic, lambda: 0.0)
        store = RedisStore(client, breaker, prefix="t:", timeout_seconds=10.0)
        until = time.time() + seconds

        async def ask() -> None:
            while (asked := time.time()) < until:
                [taken] = await store.take([Take("shared", bucket, 1)])
                if taken.allowed:
                    passed.append((asked, time.time()))

        await asyncio.gather(*[ask() for _ in range(IN_FLIGHT)])
        await store.close()
    return passed


if __name__ == "__main__":
    _, url, kind, size, seconds = sys.argv
    sys.stdout.write(json.dumps(asyncio.run(take(url, bucket_of(kind, int(size)), float(seconds)))))
