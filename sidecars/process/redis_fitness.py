"""Checks whether the sidecars can work with the Redis that answers, and whether it is back."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from common.redis_errors import answer_in, error_text
from sidecars.process.redis_pool import FailFastPool

CHECK_SECONDS: Final = 1.0
"""Seconds between two checks of the pool. They cost nothing while all is well: Redis is asked only after a
connection was lost."""

REFUSED_SECONDS: Final = 30.0
"""Seconds until Redis is asked again if it refused commands: a master may have become a replica."""

OLDEST: Final = (5, 0)
"""The first version in which a script that has read the clock may write."""

_log = structlog.get_logger("sidecars.process")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The facts of INFO that matter here; empty if the server does not tell."""

    version: str
    mode: str
    """The mode: standalone, cluster or sentinel."""
    role: str
    """The role: master or slave."""
    maxmemory: int
    """The memory limit in bytes; 0: none."""
    maxmemory_policy: str

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "ServerFacts":
        """The facts in an answer to INFO, as redis-py parses it."""
        return cls(
            # Valkey's own version is not the one it is compatible with.
            str(info.get("redis_version", "")),
            str(info.get("server_mode", info.get("redis_mode", ""))),
            str(info.get("role", "")),
            int(info.get("maxmemory", 0)),
            str(info.get("maxmemory_policy", "")),
        )

    def describe(self) -> dict[str, Any]:
        """The facts, as `/config` shows them."""
        return {
            "version": self.version,
            "mode": self.mode,
            "role": self.role,
            "maxmemory": self.maxmemory,
            "maxmemory_policy": self.maxmemory_policy,
        }

    def misfits(self, *, in_cluster: bool = False) -> Iterator[str]:
        """The unsuitable facts, each with what would be right; `in_cluster` for a node of one."""
        if self.mode == "sentinel":
            yield (
                "this is a Sentinel, which keeps no data: write it under `sentinel`, and the name of the "
                "master in `url`"
            )
            return
        if in_cluster and self.mode != "cluster":
            yield "this is not a node of a Redis Cluster (cluster-enabled no): leave `cluster` out"
        if self.mode == "cluster" and not in_cluster:
            yield (
                "this is a node of a Redis Cluster: the keys of one call lie in different slots, which it "
                "refuses (CROSSSLOT); write `cluster: {}` if it is a cluster"
            )
        if self.role == "slave" and not in_cluster:
            yield "this is a replica, which refuses writes (READONLY): give the address of the master"
        if self.maxmemory and self.maxmemory_policy not in {"", "noeviction"}:
            yield (
                f"maxmemory-policy is {self.maxmemory_policy}: when memory is short, limits start afresh and "
                "sessions and revocations are forgotten; set noeviction"
            )
        if self.version and _numbers(self.version) < OLDEST:
            yield f"this is version {self.version}: 5.0 or newer is needed"


class RedisFitness:
    """Asks the Redis of `client` for its facts when it first answers, and each time it is back.

    While Redis is away, this asks whether it is back: `/config` is right even if no request comes.
    `section` is the section of the settings that names it, `node` its address if it is a node of a cluster.
    """

    def __init__(self, client: Redis, section: str = "redis", node: str = "") -> None:
        self._client = client
        self._node = node
        self._section = section
        self.facts: ServerFacts | None = None
        self.misfits: tuple[str, ...] = ()
        self._reported = ""

    def describe(self) -> dict[str, Any]:
        """The facts of the server, and what is unsuitable."""
        return {
            "server": None if self.facts is None else self.facts.describe(),
            "misfits": list(self.misfits),
        }

    async def run(self) -> None:
        """Check until cancelled."""
        pool = self._client.connection_pool
        assert isinstance(pool, FailFastPool)  # noqa: S101  # that is what `connect` gives
        clock = asyncio.get_running_loop().time
        answered_at = -REFUSED_SECONDS
        lost = refused = -1  # what had been lost and refused when it last answered
        while True:
            # The latest refusal may be that of INFO itself: no request might find that it is over.
            noted = pool.refusals.times != refused or pool.refusals.lasting
            refuses = noted and clock() - answered_at >= REFUSED_SECONDS
            if (pool.failures or pool.lost != lost or refuses) and await self.check():
                answered_at, lost, refused = clock(), pool.lost, pool.refusals.times
            await asyncio.sleep(CHECK_SECONDS)

    async def check(self) -> bool:
        """Ask once and log what is new. Returns whether Redis answered."""
        try:
            info = await self._client.info()
        except ResponseError as error:
            self._report("info", "redis cannot be asked what it is", error=error_text(error))
            return True
        except (RedisError, OSError, TimeoutError) as error:
            what = "redis is away" if answer_in(error) is None else "redis refuses connections"
            self._report("warning", what, error=error_text(error))
            return False
        self.facts = ServerFacts.of(info)
        self.misfits = tuple(self.facts.misfits(in_cluster=bool(self._node)))
        if self.misfits:
            self._report("error", "redis does not fit", problems=list(self.misfits))
        else:
            self._report("info", "redis is there", **self.facts.describe())
        return True

    def _report(self, level: str, event: str, **facts: Any) -> None:
        # Once, not at each check.
        report = f"{event} {facts.get('problems', '')}"
        if report != self._reported:
            self._reported = report
            # One Redis needs no name.
            named = {} if self._section == "redis" else {"section": self._section}
            if self._node:
                named["node"] = self._node
            getattr(_log, level)(event, **facts, **named)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
