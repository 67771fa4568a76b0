"""Asks a limiter with leases on a Redis as fast as it can, in a process of its own.

`python -m tests.support.lease_taker URL SIZE SHARE REPLICAS SECONDS`: SIZE hits in a second. Writes a line
for each hit that passed, `ASKED ANSWERED` in seconds since 1970, and at the end, with its leases returned,
`# ANSWERED_BY_LEASES TOKENS_OUT`.
"""

import asyncio
import sys
import time
from typing import Final

from redis.asyncio import Redis

from common.circuit_breaker import CircuitBreaker
from common.configfile import parse
from ratelimit.config import compile_limits
from ratelimit.decision import LimitDecision
from ratelimit.leases.leases import Leases
from ratelimit.leases.returns import LeaseReturns
from ratelimit.limiter import Limiter
from ratelimit.request import Descriptor, LimitRequest
from ratelimit.rules import OnFailure, Options
from ratelimit.stats import Stats
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.redis import RedisStore

IN_FLIGHT: Final = 4
PAUSE_SECONDS: Final = 0.004
REQUEST: Final = LimitRequest("d", (Descriptor((("hot", "1"),)),), 1)


async def ask_all(url: str, size: int, share: float, replicas: int, seconds: float) -> None:
    """Ask until the time is over, then return what is leased."""
    text = f"""
domain: d
descriptors:
  - {{key: hot, rate_limit: {{unit: second, requests_per_unit: {size}, lease: true}}}}
"""
    limits = compile_limits([parse(text, "limits.yaml")], Options(on_failure=OnFailure.CLOSED), "r1")
    leases = Leases(time.monotonic, seconds=1.0, share=share, replicas=lambda: replicas)
    async with Redis.from_url(url) as client:
        breaker = CircuitBreaker(time.monotonic, lambda: 0.0)
        store = RedisStore(client, breaker, prefix="t:", timeout_seconds=10.0)
        memory = MemoryStore(lambda: int(time.time() * 1e6))
        limiter = Limiter(limits, store, memory, Stats(), leases=leases)
        returns = LeaseReturns(leases, store)
        running = asyncio.create_task(returns.run())
        until = time.time() + seconds

        async def ask() -> None:
            while (asked := time.time()) < until:
                decision = limiter.decide(limiter.plan(REQUEST))
                if not isinstance(decision, LimitDecision):
                    decision = await decision
                if not decision.over_limit:
                    sys.stdout.write(f"{asked} {time.time()}\n")
                    sys.stdout.flush()
                await asyncio.sleep(PAUSE_SECONDS)

        await asyncio.gather(*[ask() for _ in range(IN_FLIGHT)])
        running.cancel()
        await returns.close()
        sys.stdout.write(f"# {leases.answered} {leases.tokens_out}\n")
        await store.close()


if __name__ == "__main__":
    _, url, size, share, replicas, seconds = sys.argv
    asyncio.run(ask_all(url, int(size), float(share), int(replicas), float(seconds)))
