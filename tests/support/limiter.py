"""A limiter for tests, with a clock that the test sets, and stores that fail or wait."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from textwrap import dedent

from common.buckets import SECOND_US, Taken
from common.configfile import parse
from ratelimit.config import compile_limits
from ratelimit.decision import LimitDecision
from ratelimit.deny_cache import DenyCache
from ratelimit.limiter import Limiter
from ratelimit.request import Descriptor, LimitRequest
from ratelimit.rules import CompiledLimits, Options
from ratelimit.stats import Stats
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.store import Failure, Store, StoreError, Take

NOW = 1_790_000_040 * SECOND_US  # the start of a minute


class AwayStore:
    """A store that fails, at once or after a wait."""

    def __init__(self, *, waits: bool = False) -> None:
        self._waits = waits

    def take(
        self, takes: Sequence[Take], budget_seconds: float | None = None, /
    ) -> list[Taken] | Awaitable[list[Taken]]:
        if self._waits:
            return self._fail_later()
        raise StoreError(Failure.BREAKER_OPEN)

    async def _fail_later(self) -> list[Taken]:
        await asyncio.sleep(0)
        raise StoreError(Failure.TIMEOUT)

    async def close(self) -> None: ...


class LaterStore:
    """A store that answers after a wait."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def take(self, takes: Sequence[Take], budget_seconds: float | None = None, /) -> list[Taken]:
        await asyncio.sleep(0)
        return self._store.take(takes)

    async def close(self) -> None: ...


class Bench:
    """A limiter whose clock moves only when the test sets it."""

    def __init__(
        self,
        descriptors: str,
        options: Options | None = None,
        *,
        store: Store | None = None,
        deny_cache: bool = False,
        shadow_mode: bool = False,
        quota_mode: bool = False,
        spare_others: bool = False,
        replicas: Callable[[], int] | None = None,
    ) -> None:
        self.now_us = NOW
        self.options = options or Options()
        self.memory = MemoryStore(lambda: self.now_us)
        self.stats = Stats()
        limits = self.compiled(descriptors)
        self.limiter = Limiter(
            limits,
            store or self.memory,
            self.memory,
            self.stats,
            shadow_mode=shadow_mode,
            quota_mode=quota_mode,
            spare_others=spare_others,
            deny_cache=DenyCache(lambda: (self.now_us - NOW) / SECOND_US) if deny_cache else None,
            replicas=replicas,
        )

    def compiled(self, descriptors: str) -> CompiledLimits:
        text = f"domain: d\ndescriptors:\n{dedent(descriptors)}"
        return compile_limits([parse(text, "limits.yaml")], self.options, "r1")

    def ask(self, *descriptors: Descriptor, hits: int = 0, domain: str = "d") -> LimitDecision:
        decision = self.ask_later(*descriptors, hits=hits, domain=domain)
        assert isinstance(decision, LimitDecision)
        return decision

    def ask_later(
        self, *descriptors: Descriptor, hits: int = 0, domain: str = "d"
    ) -> LimitDecision | Awaitable[LimitDecision]:
        return self.limiter.decide(self.limiter.plan(LimitRequest(domain, descriptors, hits)))


def of(*entries: tuple[str, str], **more: object) -> Descriptor:
    return Descriptor(entries, **more)  # type: ignore[arg-type]


A = of(("a", "1"))
B = of(("b", "1"))
FIVE_EACH = """
    - {key: a, rate_limit: {unit: minute, requests_per_unit: 5}}
    - {key: b, rate_limit: {unit: hour, requests_per_unit: 5}}
"""
