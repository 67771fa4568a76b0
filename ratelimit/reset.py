"""Gives keys their whole limit back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from common.buckets import MAX_HITS, CalendarWindow, FixedWindow, SlidingWindow, TokenBucket
from ratelimit.decision import LimitPlan
from ratelimit.metadata import entry_texts
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.store import Mode, Store

_RESETTABLE: Final = (TokenBucket, FixedWindow, SlidingWindow, CalendarWindow)


@dataclass(frozen=True, slots=True)
class ResetKey:
    """A key that was reset."""

    descriptor: str
    """`key=value,key=value`, secret values as hashes."""
    rule: str
    remaining: int
    """Hits that pass now."""


async def reset(
    plan: LimitPlan, store: Store, memory: MemoryStore, forget: Callable[[str], None]
) -> list[ResetKey]:
    """Give back all hits of the keys of `plan`; return these keys. Raises StoreError.

    `store` is where they are counted, and `memory` the buckets of this process: `store` itself, or those for
    the time when it is away. `forget` is called with each key: what is known of it without the store is old.
    """
    wanted = [
        (charge, take)
        for charge, take in zip(plan.charges, plan.takes, strict=True)
        if type(take.bucket) in _RESETTABLE
    ]
    if not wanted:
        return []
    takes = [take._replace(hits=-MAX_HITS, mode=Mode.SHADOW) for _, take in wanted]
    for take in takes:
        memory.forget(take.key)
    answer = store.take(takes)
    taken = answer if isinstance(answer, list) else await answer
    for take in takes:
        forget(take.key)
    return [
        ResetKey(_text(plan, charge.position), charge.rule.key, outcome.remaining)
        for (charge, _), outcome in zip(wanted, taken, strict=True)
    ]


def _text(plan: LimitPlan, position: int) -> str:
    entries: Sequence[str] = entry_texts(plan.request.descriptors[position], plan.limits.options.secrets)
    return ",".join(entries)
