"""Sidecars with leases on one store, as a discrete simulation: time passes only from event to event.

Each message between a sidecar and the store has a fate: it may be slow, or be lost on its way there or back.
Sidecars crash and are drained, and the store goes away. Everything else is the real code, except that the
store is a dictionary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final

from common.buckets import SECOND_US, State, Taken
from common.configfile import parse
from ratelimit.config import compile_limits
from ratelimit.decision import LimitDecision
from ratelimit.deny_cache import DenyCache
from ratelimit.leases.leases import Leases
from ratelimit.limiter import Limiter
from ratelimit.request import Descriptor, LimitRequest
from ratelimit.rules import CompiledLimits, OnFailure, Options
from ratelimit.stats import Stats
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.store import Failure, StoreError, Take
from ratelimit.stores.take_all import take_all

TIMEOUT_US: Final = 10_000
TURN_US: Final = SECOND_US
"""The time between two returns of a sidecar."""

Finish = Callable[[list[Taken] | StoreError], Any]


class Fate(Enum):
    """What becomes of a message to the store."""

    FAST = "fast"
    SLOW = "slow"
    """It arrives after its sidecar has given it up."""
    LOST = "lost"
    ANSWER_LOST = "answer lost"
    REFUSED = "refused"
    """It is not sent: the breaker is open."""


@dataclass(eq=False)
class Message:
    """Takes on their way to the store."""

    takes: Sequence[Take]
    sidecar: "Sidecar"
    finish: Finish
    is_done: bool = False
    has_arrived: bool = False

    def answer(self, outcome: list[Taken] | StoreError) -> None:
        if not self.is_done and self.sidecar.alive:
            self.finish(outcome)
        self.is_done = True

    @property
    def late_returns(self) -> int:
        """Tokens that it may still bring back, although its sidecar counts them as lost."""
        if self.has_arrived or not (self.is_done or not self.sidecar.alive):
            return 0
        return -sum(take.hits for take in self.takes if take.hits < 0)


@dataclass(frozen=True)
class Passed:
    """A request that was admitted."""

    asked_us: int
    answered_us: int
    hits: int
    out: int
    """Tokens that were leased out just before it was asked."""


class Sidecar:
    """The limiter of one process, its leases, and its clock, which begins somewhere."""

    def __init__(self, world: "World", offset_us: int) -> None:
        self.alive = True
        self.world = world
        self.leases = Leases(
            lambda: (world.now_us + offset_us) / SECOND_US,
            seconds=world.lease_seconds,
            window_part=world.window_part,
            share=world.share,
            max_keys=world.max_keys,
            replicas=lambda: len(world.sidecars),
        )
        self.deny_cache = DenyCache(lambda: (world.now_us + offset_us) / SECOND_US)
        memory = MemoryStore(lambda: world.now_us)
        self.limiter = Limiter(
            world.limits, self, memory, Stats(), leases=self.leases, deny_cache=self.deny_cache
        )
        world.later(TURN_US, self.turn)

    def take(self, _takes: Sequence[Take], _budget_seconds: float | None = None, /) -> list[Taken]:
        raise NotImplementedError

    async def close(self) -> None: ...

    def take_then(self, takes: Sequence[Take], _budget_seconds: float | None, finish: Finish) -> Any:
        return self.world.send(Message(takes, self, finish))

    def turn(self) -> None:
        if self.alive:
            self.send_returns()
            self.world.later(TURN_US, self.turn)

    def send_returns(self) -> None:
        returns = self.leases.due()
        if returns:
            sent = lambda outcome: self.leases.sent(returns, arrived=isinstance(outcome, list))  # noqa: E731
            try:
                self.world.send(Message(returns, self, sent))
            except StoreError:
                self.leases.sent(returns, arrived=False)

    def drain(self) -> None:
        self.leases.end(for_good=True)
        self.send_returns()


@dataclass
class World:
    """The store, the sidecars, what is under way, and what has passed by descriptor."""

    descriptors: str
    number: int = 3
    lease_seconds: float = 1.0
    window_part: float = 0.0
    share: float = 1.0
    max_keys: int = 1_000
    now_us: int = 1_790_000_040 * SECOND_US
    fate: Fate = Fate.FAST
    delay_us: int = 1_000
    states: dict[str, State] = field(default_factory=dict)
    passed: list[Passed] = field(default_factory=list)
    decisions: list[LimitDecision] = field(default_factory=list)
    messages: int = 0

    def __post_init__(self) -> None:
        text = f"domain: d\ndescriptors:\n{self.descriptors}"
        options = Options(on_failure=OnFailure.CLOSED)
        self.limits: CompiledLimits = compile_limits([parse(text, "limits.yaml")], options, "r1")
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = count()
        self._under_way: list[Message] = []
        self.sidecars: list[Sidecar] = []
        self.sidecars = [Sidecar(self, 1_000_003 * index) for index in range(self.number)]

    def later(self, us: int, call: Callable[[], None]) -> None:
        heappush(self._events, (self.now_us + us, next(self._serial), call))

    def pass_time(self, us: int) -> None:
        until = self.now_us + us
        while self._events and self._events[0][0] <= until:
            self.now_us, _, call = heappop(self._events)
            call()
        self.now_us = until

    def send(self, message: Message) -> Message:
        if self.fate is Fate.REFUSED:
            raise StoreError(Failure.BREAKER_OPEN)
        self.messages += 1
        fate, delay_us = self.fate, self.delay_us
        self.later(TIMEOUT_US, lambda: message.answer(StoreError(Failure.TIMEOUT)))
        if fate is Fate.LOST:
            message.has_arrived = True  # it never will
            return message
        self._under_way.append(message)

        def arrive() -> None:
            message.has_arrived = True
            self._under_way.remove(message)
            outcomes = take_all(message.takes, self.states, self.now_us)
            if fate is not Fate.ANSWER_LOST:
                self.later(delay_us, lambda: message.answer(outcomes))

        self.later(delay_us + (TIMEOUT_US if fate is Fate.SLOW else 0), arrive)
        return message

    @property
    def tokens_out(self) -> int:
        """Tokens that live sidecars can still hand out or return, or that crashed ones have returned."""
        late = sum(message.late_returns for message in self._under_way)
        return late + sum(sidecar.leases.tokens_out for sidecar in self.sidecars)

    @staticmethod
    def request(*descriptors: Descriptor, hits: int = 1) -> LimitRequest:
        return LimitRequest("d", descriptors, hits)

    def ask(self, index: int, *descriptors: Descriptor, hits: int = 1) -> None:
        sidecar = self.sidecars[index % self.number]
        asked_us, out = self.now_us, self.tokens_out

        def finish(decision: LimitDecision) -> None:
            self.decisions.append(decision)
            if not decision.over_limit:
                self.passed.append(Passed(asked_us, self.now_us, hits, out))

        sidecar.limiter.answer(sidecar.limiter.plan(self.request(*descriptors, hits=hits)), finish)

    def crash(self, index: int) -> None:
        index %= self.number
        self.sidecars[index].alive = False
        self.sidecars[index] = Sidecar(self, 7_000_001 * next(self._serial))

    def drain(self, index: int) -> None:
        """Drain a sidecar, and start another in its place a little later."""
        self.sidecars[index % self.number].drain()
        self.pass_time(3 * TIMEOUT_US)
        self.crash(index)

    def reload(self, index: int) -> None:
        self.sidecars[index % self.number].limiter.use(self.limits)
