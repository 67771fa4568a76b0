"""The script of the rate limits by plain redis-py: `python -m bench.tools.bare_evalsha SOCKET SECONDS`.

Calls it for one key, one call after another, and prints the median time of a call in microseconds.
"""

import sys
import time
from statistics import median
from typing import Any

import uvloop
from redis.asyncio import Redis

from common.buckets import SECOND_US, TokenBucket
from ratelimit.stores.script import encode_takes, script_text
from ratelimit.stores.store import Take

TAKE = Take("bare", TokenBucket(1_000_000_000, 1_000_000_000, 3_600 * SECOND_US), 1)


async def measure(socket: str, seconds: float) -> float:
    """Return the median time of a call in microseconds."""
    client = Redis(unix_socket_path=socket)
    script: Any = await client.script_load(script_text())
    arguments = encode_takes([[TAKE]], [TAKE.key])
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        asked: Any = client.evalsha(script, 1, TAKE.key, arguments)
        await asked
        times.append(time.perf_counter() - begun)
    await client.aclose()
    return median(times) * 1e6


async def main() -> None:
    """Measure as the command line says."""
    print(await measure(sys.argv[1], float(sys.argv[2])), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
