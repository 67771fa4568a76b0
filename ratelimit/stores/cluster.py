"""Buckets in a Redis Cluster: each at the node that has its slot."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from common.buckets import Taken
from common.circuit_breaker import CircuitBreaker, CircuitState
from common.redis_cluster import Cluster, NodeAddress, key_slot
from common.redis_errors import error_text
from ratelimit.stores.parts import Part, PartedTakes
from ratelimit.stores.redirect import Redirect, RedirectError
from ratelimit.stores.redis import PROBE, RedisStore
from ratelimit.stores.store import TIMEOUT_SECONDS, Failure, StoreError, Take

MAX_REDIRECTS: Final = 5
"""How often a request follows nodes that point elsewhere; its deadline usually ends this earlier."""

PROBE_KEYS: Final = 1_000
"""Keys among which one of a node is looked for. One with a hundredth of the slots has ten of them."""

GONE_SECONDS: Final = 1.0
"""From a node losing all its slots until its store is closed."""

_OUR_OWN: Final = frozenset({Failure.BUSY, Failure.NO_TIME})
"""Failures that say nothing about a node."""


class StoreMaker(Protocol):
    """Makes the store of one node."""

    def __call__(
        self,
        client: Redis,
        breaker: CircuitBreaker,
        /,
        *,
        group_of: Callable[[Sequence[Take]], Hashable],
        probe: Take,
        asking: bool = False,
    ) -> RedisStore:
        """Return a RedisStore with these options."""


@dataclass(slots=True)
class _Node:
    """One node, and the ways to ask it, made when they are first needed."""

    address: NodeAddress
    breaker: CircuitBreaker
    by_slot: RedisStore
    """Requests for one slot share a call."""
    others: dict[bool, RedisStore] = field(default_factory=dict)
    """Each set of keys has a call of its own: after an ASKING, and without. For slots on their way."""

    @property
    def stores(self) -> tuple[RedisStore, ...]:
        return (self.by_slot, *self.others.values())


class ClusterStore:
    """Counts in the nodes of `cluster`, with a store and a breaker for each.

    Keys of different slots never share a script call; the calls to one node that begin in one turn of the
    event loop are one round trip (`ScriptLink`). MOVED, ASK and TRYAGAIN are followed inside the call
    and its deadline. A request whose keys lie in several slots is charged as `PartedTakes` says.
    """

    def __init__(
        self,
        cluster: Cluster,
        make_store: StoreMaker,
        make_breaker: Callable[[NodeAddress], CircuitBreaker],
        *,
        prefix: str = "ratelimit:",
        timeout_seconds: float = TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._make_store = make_store
        self._make_breaker = make_breaker
        self._prefix = prefix
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._nodes: dict[NodeAddress, _Node] = {}
        self._parted = PartedTakes(timeout_seconds, clock)
        self._opened_before = 0
        self._closing: set[asyncio.Task[None]] = set()
        cluster.on_change(self._slots_changed)
        self._unknown = dict.fromkeys(Failure, 0)
        """Failures of requests that reached no node, and of nodes that are gone."""

    @property
    def failures(self) -> dict[Failure, int]:
        """Requests without an answer, by reason, over all nodes."""
        stores = [store for node in self._nodes.values() for store in node.stores]
        return {
            reason: times + sum(store.failures[reason] for store in stores)
            for reason, times in self._unknown.items()
        }

    @property
    def waiting(self) -> int:
        """Requests not sent to any node yet."""
        return sum(store.waiting for node in self._nodes.values() for store in node.stores)

    @property
    def breaker(self) -> "BreakerOfNodes":
        """The breakers of all nodes that have slots."""
        return BreakerOfNodes([node.breaker for node in self._nodes.values()], self._opened_before)

    def take(self, takes: Sequence[Take], budget_seconds: float | None = None, /) -> Awaitable[list[Taken]]:
        """The outcome of each of `takes`. Raises StoreError."""
        slots: dict[int, list[int]] = {}
        for index, take in enumerate(takes):
            slots.setdefault(self._slot(take), []).append(index)
        if len(slots) == 1:
            return self._take_in_slot(next(iter(slots)), takes, budget_seconds)
        parts = [Part(partial(self._take_in_slot, slot), positions) for slot, positions in slots.items()]
        return self._parted.take(takes, parts, budget_seconds)

    async def settled(self) -> None:
        """Wait for hits that are given back."""
        await self._parted.close()

    async def close(self) -> None:
        """End the calls under way, after what is given back."""
        await self.settled()
        for node in self._nodes.values():
            for store in node.stores:
                await store.close()

    def _slot(self, take: Take) -> int:
        return key_slot(f"{self._prefix}{take.key}".encode("utf-8", "surrogatepass"))

    async def _take_in_slot(
        self, slot: int, takes: Sequence[Take], budget_seconds: float | None
    ) -> list[Taken]:
        """Ask the node that has `slot`, and those that it points to."""
        seconds = (
            self._timeout_seconds if budget_seconds is None else min(self._timeout_seconds, budget_seconds)
        )
        until = self._clock() + seconds
        node = self._node(self._cluster.owner(slot) or await self._find(slot, seconds))
        store = node.by_slot
        for _ in range(MAX_REDIRECTS):
            try:
                return await store.take(takes, until - self._clock())
            except RedirectError as error:
                if error.redirect is Redirect.TRY_AGAIN:
                    if len({take.key for take in takes}) > 1:
                        return await self._take_by_key(slot, takes, until)
                    store = self._apart(node, asking=store is node.others.get(True))
                    continue
                address = error.address[0] or node.address[0], error.address[1]
                node = self._node(address)
                if error.redirect is Redirect.MOVED:
                    self._cluster.learn(slot, address)
                    store = node.by_slot
                else:
                    store = self._apart(node, asking=True)
            except StoreError as error:
                if error.failure not in _OUR_OWN:
                    self._cluster.suspect()
                raise
        raise self._failed(Failure.UNREACHABLE, f"redirected {MAX_REDIRECTS} times")

    async def _take_by_key(self, slot: int, takes: Sequence[Take], until: float) -> list[Taken]:
        """Take from each key by itself, while some keys of the slot are at one node and some at another."""
        positions: dict[str, list[int]] = {}
        for index, take in enumerate(takes):
            positions.setdefault(take.key, []).append(index)
        parts = [Part(partial(self._take_in_slot, slot), indexes) for indexes in positions.values()]
        return await self._parted.take(takes, parts, until - self._clock())

    async def _find(self, slot: int, seconds: float) -> NodeAddress:
        try:
            async with asyncio.timeout(seconds):
                await self._cluster.load()
        except (RedisError, OSError, TimeoutError) as error:
            raise self._failed(Failure.UNREACHABLE, error_text(error)) from None
        found = self._cluster.owner(slot)
        if found is None:
            raise self._failed(Failure.UNREACHABLE, f"no node has slot {slot}")
        return found

    def _failed(self, failure: Failure, detail: str) -> StoreError:
        self._unknown[failure] += 1
        return StoreError(failure, detail)

    def _node(self, address: NodeAddress) -> _Node:
        node = self._nodes.get(address)
        if node is None:
            breaker = self._make_breaker(address)
            store = self._make_store(
                self._cluster.client(address),
                breaker,
                group_of=lambda takes: self._slot(takes[0]),
                probe=self._own_probe(address),
            )
            node = self._nodes[address] = _Node(address, breaker, store)
        return node

    def _own_probe(self, address: NodeAddress) -> Take:
        """Return a probe in a slot of the node, which else answers MOVED even if full."""
        for number in range(PROBE_KEYS):
            probe = PROBE._replace(key=f"{PROBE.key}{number}")
            if self._cluster.owner(self._slot(probe)) == address:
                return probe
        return PROBE

    def _slots_changed(self) -> None:
        # What is under way at a node that is gone has ended by then.
        asyncio.get_running_loop().call_later(GONE_SECONDS, self._forget_gone_nodes)

    def _forget_gone_nodes(self) -> None:
        """Stop asking nodes without slots: their replicas took over, or they were removed."""
        masters = self._cluster.masters
        for address, node in list(self._nodes.items()):
            imports = True in node.others and node.breaker.state is CircuitState.CLOSED
            if address in masters or imports:
                continue
            del self._nodes[address]
            self._opened_before += node.breaker.opened
            for store in node.stores:
                for reason, times in store.failures.items():
                    self._unknown[reason] += times
                task = asyncio.create_task(store.close(), name="close the store of a gone node")
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    def _apart(self, node: _Node, *, asking: bool) -> RedisStore:
        store = node.others.get(asking)
        if store is None:
            store = node.others[asking] = self._make_store(
                self._cluster.client(node.address),
                node.breaker,
                group_of=_keys,
                probe=self._own_probe(node.address),
                asking=asking,
            )
        return store


def _keys(takes: Sequence[Take]) -> Hashable:
    return frozenset(take.key for take in takes)


@dataclass(frozen=True, slots=True)
class BreakerOfNodes:
    """The breakers of several nodes as one."""

    breakers: Sequence[CircuitBreaker]
    opened_before: int = 0
    """How often the breakers of nodes that are gone opened."""

    @property
    def state(self) -> CircuitState:
        """The worst state of a node."""
        return max((breaker.state for breaker in self.breakers), default=CircuitState.CLOSED)

    @property
    def opened(self) -> int:
        """How often breakers opened."""
        return self.opened_before + sum(breaker.opened for breaker in self.breakers)

    @property
    def cause(self) -> str:
        """Why the latest request to a node failed; empty if all answered."""
        return next((breaker.cause for breaker in self.breakers if breaker.cause), "")
