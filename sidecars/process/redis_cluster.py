"""A Redis Cluster: which node has which slot, and a client for each node."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from common.redis_cluster import SLOTS, NodeAddress
from common.redis_errors import error_text
from common.tasks import cancel_and_wait
from sidecars.process.redis import ClientMaker, connect, describe
from sidecars.settings.redis import RedisSettings

POLL_SECONDS: Final = 5.0
"""The time between two looks at the slots while nothing is wrong."""

SUSPECT_SECONDS: Final = 0.05
"""The shortest time between two looks."""

ASKED_AT_ONCE: Final = 3
"""Nodes asked at a time: one that hangs holds up nothing."""

_log = structlog.get_logger("sidecars.process")


def open_redis(
    settings: RedisSettings, clock: Callable[[], float] = time.monotonic
) -> "Redis | RedisCluster":
    """The client that `settings` ask for. It opens nothing before its first command."""
    return (
        connect(settings, clock) if settings.cluster is None else RedisCluster(ClientMaker(settings, clock))
    )


class RedisCluster:
    """Knows the nodes of a cluster. Opens nothing until it is asked.

    `run` keeps the slots up to date: now and then, and soon after `suspect`. Without it, `load` looks once.
    """

    def __init__(self, maker: ClientMaker) -> None:
        self._maker = maker
        self._seeds = maker.settings.seeds
        self._owners: list[NodeAddress | None] = [None] * SLOTS
        self._masters: frozenset[NodeAddress] = frozenset()
        self._clients: dict[NodeAddress, Redis] = {}
        self._loading: asyncio.Task[None] | None = None
        self._suspected = asyncio.Event()
        self._asked: set[asyncio.Task[Any]] = set()
        self._loaded = False
        self._listeners: list[Callable[[], None]] = []
        self._problem: str | None = None

    @property
    def masters(self) -> frozenset[NodeAddress]:
        """The nodes that have slots, as far as is known."""
        return self._masters

    def owner(self, slot: int) -> NodeAddress | None:
        """The node that has `slot`, as far as is known."""
        return self._owners[slot]

    def client(self, address: NodeAddress) -> Redis:
        """The client of one node, made when it is first asked for."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = self._maker.plain(address)
        return client

    def learn(self, slot: int, address: NodeAddress) -> None:
        """Note that a node named `address` as the one that has `slot`."""
        if self._owners[slot] != address:
            self._owners[slot] = address
            self.suspect()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` each time that other nodes have slots."""
        self._listeners.append(listener)

    def suspect(self) -> None:
        """Let `run` look soon who has which slot."""
        self._suspected.set()

    async def load(self) -> None:
        """Ask who has which slot, once for all who wait. Raises RedisError if no node tells."""
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load(), name="load cluster slots")
        await asyncio.shield(self._loading)

    async def run(self) -> None:
        """Keep the slots up to date until cancelled."""
        while True:
            try:
                await self.load()
                self._problem = None
            except (RedisError, OSError, TimeoutError) as error:
                self._problem = error_text(error)
                self._suspected.set()
            await asyncio.sleep(SUSPECT_SECONDS)
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._suspected.wait()
            except TimeoutError:
                continue
            finally:
                self._suspected.clear()

    async def aclose(self) -> None:
        """Close all connections."""
        loading = () if self._loading is None else (self._loading,)
        await cancel_and_wait(*loading, *self._asked)
        for client in self._clients.values():
            await client.aclose()

    def describe(self) -> dict[str, Any]:
        """What `/config` shows: the masters, their slots, and the state of the connections to each."""
        slots: dict[NodeAddress, int] = {}
        for owner in self._owners:
            if owner is not None:
                slots[owner] = slots.get(owner, 0) + 1
        return {
            "slots_without_node": SLOTS - sum(slots.values()),
            "cluster_problem": self._problem,
            "nodes": {
                f"{host}:{port}": {"slots": slots.get((host, port), 0), **describe(client)}
                for (host, port), client in self._clients.items()
                if (host, port) in slots or (host, port) in self._masters
            },
        }

    async def _load(self) -> None:
        known = list(dict.fromkeys((*self._masters, *self._seeds)))
        random.shuffle(known)  # so that sidecars do not all ask the same node
        problems: list[str] = []
        for start in range(0, len(known), ASKED_AT_ONCE):
            asked = [
                asyncio.create_task(self._ask(address)) for address in known[start : start + ASKED_AT_ONCE]
            ]
            # They end within their timeouts. Cancelled, each would close its connection.
            self._asked.update(asked)
            for task in asked:
                task.add_done_callback(self._asked.discard)
            for ended in asyncio.as_completed(asked):
                found = await ended
                if not isinstance(found, str):
                    self._use(found)
                    return
                problems.append(found)
        raise RedisConnectionError(f"no node of the cluster tells who has the slots: {problems[-1]}")

    async def _ask(self, address: NodeAddress) -> Mapping[tuple[int, int], NodeAddress] | str:
        """Return the ranges of slots that a node tells and the master of each, or why it tells none."""
        client: Any = self.client(address)
        try:
            answer: Sequence[Any] = await client.execute_command("CLUSTER", "SLOTS")
        except (RedisError, OSError, TimeoutError) as error:
            return error_text(error)
        found: dict[tuple[int, int], NodeAddress] = {}
        for first, last, master, *_ in answer:
            # Without a host: the one by which the node was reached (RESP2 says so with nil or nothing).
            host = _text(master[0])
            found[int(first), int(last)] = (host if host not in {"", "?"} else address[0]), int(master[1])
        return found or f"{address[0]}:{address[1]} knows of no slots"

    def _use(self, ranges: Mapping[tuple[int, int], NodeAddress]) -> None:
        owners: list[NodeAddress | None] = [None] * SLOTS
        for (first, last), address in ranges.items():
            owners[first : last + 1] = [address] * (last - first + 1)
        self._owners = owners
        masters = frozenset(ranges.values())
        if masters != self._masters:
            event = "redis cluster changed" if self._loaded else "redis cluster found"
            _log.info(event, masters=sorted(f"{host}:{port}" for host, port in masters))
        changed = self._loaded and masters != self._masters
        self._loaded = True
        self._masters = masters
        for listener in self._listeners if changed else ():
            listener()


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
