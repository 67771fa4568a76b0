"""Gives recorded calls to the limiter, with buckets in memory and at the times of the calls."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Final

from common.buckets import SECOND_US, Slots
from ratelimit.bans import Bans
from ratelimit.concurrency import lasting_entries
from ratelimit.decision import LimitDecision
from ratelimit.limiter import Limiter
from ratelimit.plan import Modes
from ratelimit.request import RequestError
from ratelimit.rules import CompiledLimits
from ratelimit.stats import Stats
from ratelimit.stores.detached import DetachedTakes
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.store import Take
from ratelimit.tools.recorded import RecordedCall, entry_text

MAX_KEYS: Final = 100_000
"""Keys that are counted one by one, about 50 MB; calls of others are counted together."""

MAX_BUCKETS: Final = 1_000_000
"""Buckets in memory, about 180 MB: more than a sidecar keeps, so that the simulation forgets none."""

_MINUTE_US: Final = 60_000_000

Key = tuple[str, str]
"""A rule (its key in the configuration) and the entries of a descriptor."""

OTHERS: Final[Key] = ("", "")
"""The key of all that are not counted one by one."""


@dataclass(slots=True)
class KeyCount:
    """What became of the calls of one key."""

    calls: int = 0
    refused: int = 0
    """Calls that this limit refused."""
    shadowed: int = 0
    """Calls over the limit that shadow mode let pass."""
    minutes: Counter[int] = field(default_factory=Counter)
    """Refused calls by minute since 1970."""


@dataclass(slots=True)
class Simulation:
    """What became of all calls."""

    calls: int = 0
    refused: int = 0
    shadowed: int = 0
    without_limit: int = 0
    """Calls that no rule applies to."""
    invalid: int = 0
    """Calls that ratelimit answers with an error."""
    newly_refused: int = 0
    """Calls that passed then, and would be refused."""
    newly_passed: int = 0
    same: int = 0
    first_us: int = 0
    last_us: int = 0
    minutes: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Calls, and refused calls, by minute since 1970."""
    keys: dict[Key, KeyCount] = field(default_factory=dict)
    evicted: int = 0
    """Buckets that were dropped for want of room: their keys began again."""


def decisions(
    calls: Iterable[RecordedCall], limits: CompiledLimits, modes: Modes, max_buckets: int = MAX_BUCKETS
) -> Iterator[tuple[RecordedCall, LimitDecision | None, MemoryStore]]:
    """Yield each of the `calls`, which are in the order of time, with the decision and the store.

    None for a call that cannot be asked. A request gives its slots back when it has ended, if the log says
    when that was.
    """
    now_us = 0
    store = MemoryStore(lambda: now_us, max_buckets)
    bans = Bans(lambda: now_us / SECOND_US, DetachedTakes(store, store))
    releases: list[tuple[int, int, Take]] = []
    numbers = count()
    limiter = Limiter(
        limits,
        store,
        store,
        Stats(),
        near_limit_ratio=modes.near_limit_ratio,
        shadow_mode=modes.shadow_mode,
        quota_mode=modes.quota_mode,
        spare_others=modes.spare_others,
        bounds=modes.bounds,
        bans=bans,
    )
    for call in calls:
        while releases and releases[0][0] <= call.at_us:
            now_us, _, release = heappop(releases)
            store.take([release])
        now_us = call.at_us
        try:
            plan = limiter.plan(call.request)
            decision = limiter.decide(plan)
        except RequestError:
            yield call, None, store
            continue
        assert isinstance(decision, LimitDecision)  # noqa: S101  # memory answers at once
        if plan.is_noted and call.duration_us is not None:
            for take in plan.takes:
                if isinstance(take.bucket, Slots) and take.hits > 0:
                    heappush(releases, (now_us + call.duration_us, next(numbers), take._replace(hits=-1)))
        yield call, decision, store


def simulate(
    calls: Iterable[RecordedCall], limits: CompiledLimits, modes: Modes, max_buckets: int = MAX_BUCKETS
) -> Simulation:
    """Return what became of `calls`, which are in the order of time, by `limits`."""
    found = Simulation()
    for call, decision, store in decisions(calls, limits, modes, max_buckets):
        _count(found, call, decision)
        found.evicted = store.evicted
    return found


def _count(found: Simulation, call: RecordedCall, decision: LimitDecision | None) -> None:
    found.calls += 1
    found.first_us = found.first_us or call.at_us
    found.last_us = call.at_us
    if decision is None:
        found.invalid += 1
        return
    refused = decision.over_limit
    minute = call.at_us // _MINUTE_US
    calls, refusals = found.minutes.get(minute, (0, 0))
    found.minutes[minute] = calls + 1, refusals + refused
    found.refused += refused
    found.shadowed += decision.shadowed and not refused
    found.without_limit += all(status.rule is None for status in decision.statuses)
    if call.refused is not None:
        found.same += call.refused == refused
        found.newly_refused += refused and not call.refused
        found.newly_passed += call.refused and not refused
    for descriptor, status in zip(call.request.descriptors, decision.statuses, strict=True):
        if status.rule is not None:
            entries = lasting_entries(status.rule, descriptor.entries)
            one = _counted(found, (status.rule.key, entry_text(entries)))
            one.calls += 1
            if refused and status.over_limit:
                one.refused += 1
                one.minutes[minute] += 1
            one.shadowed += status.shadowed


def _counted(found: Simulation, key: Key) -> KeyCount:
    one = found.keys.get(key)
    if one is None:
        if len(found.keys) >= MAX_KEYS:
            key = OTHERS
        one = found.keys.setdefault(key, KeyCount())
    return one
