"""How many sidecars share a Redis: each tells it every few seconds that it is there."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from redis.asyncio import Redis
from redis.exceptions import MovedError, RedisError

from common.redis_cluster import Cluster, key_slot
from common.redis_errors import error_text

BEAT_SECONDS: Final = 2.0
"""The time between two heartbeats."""

ALIVE_SECONDS: Final = 10.0
"""A sidecar counts for so long after its last heartbeat."""

NAME: Final = "sidecars"
"""The key, after the prefix: a sorted set of sidecars, scored by the time until which each counts."""

# The score is a time of Redis in milliseconds. With 0 for the time to live, the sidecar leaves.
_BEAT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local alive = tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], now + alive, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if alive > 0 then
  redis.call('PEXPIRE', KEYS[1], alive + 1000)
end
return redis.call('ZCARD', KEYS[1])
"""


class BeatScript(Protocol):
    """Runs the script of the heartbeat. Raises RedisError."""

    def __call__(self, script: str, key: str, *arguments: str) -> Awaitable[Any]:
        """Return what the script returns."""


def beat_script(client: Redis | Cluster) -> BeatScript:
    """Return what runs the script at the server, or at the node that has the key."""

    async def run(script: str, key: str, *arguments: str) -> Any:
        if isinstance(client, Redis):
            answer: Any = client.eval(script, 1, key, *arguments)
            return await answer
        slot = key_slot(key.encode())
        if client.owner(slot) is None:
            await client.load()
        address = client.owner(slot)
        if address is None:
            raise RedisError(f"no node has slot {slot}")
        try:
            answer = client.client(address).eval(script, 1, key, *arguments)
            return await answer
        except MovedError as error:
            client.learn(slot, (error.host or address[0], error.port))
            raise

    return run


class Heartbeat:
    """Counts the sidecars that share a Redis, this one included.

    `replicas` is the largest count of the last ALIVE_SECONDS in which Redis answered: after a restart Redis
    knows of few, and while it is away the last count holds. Before the first answer it is `unknown`.
    `failed` is called with the reason when a heartbeat fails after one that did not.
    """

    def __init__(
        self,
        run_script: BeatScript,
        prefix: str,
        name: str,
        *,
        unknown: int = 1,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._run_script = run_script
        self._key = prefix + NAME
        self._name = name
        self._counts: deque[int] = deque(maxlen=round(ALIVE_SECONDS / BEAT_SECONDS))
        self._failed = failed
        self._failing = False
        self.replicas = unknown

    async def run(self) -> None:
        """Tell that this sidecar is there, until cancelled."""
        while True:
            await self.beat()
            await asyncio.sleep(BEAT_SECONDS)

    async def beat(self) -> None:
        """Tell it once, and count."""
        try:
            count = int(await self._run_script(_BEAT, self._key, self._name, f"{ALIVE_SECONDS * 1000:.0f}"))
        except (RedisError, OSError, TimeoutError) as error:
            if not self._failing:
                self._failed(error_text(error))
            self._failing = True
            return
        self._failing = False
        self._counts.append(count)
        self.replicas = max(self._counts)

    async def leave(self) -> None:
        """Tell that this sidecar ends, so that the others need not wait until it no longer counts."""
        try:
            await self._run_script(_BEAT, self._key, self._name, "0")
        except (RedisError, OSError, TimeoutError):
            return
