"""Finds the keys that are asked for, and refused, most often, in bounded memory.

Space-Saving (Metwally, Agrawal, El Abbadi 2005) with evictions in batches: a table that is full keeps its
larger half, and a key that comes later begins at the largest count dropped. So a count is never too small,
and too large by at most `error`. Only some requests are looked at; each also counts for those skipped.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Final

from protos.lenient import shown
from ratelimit.concurrency import lasting_entries
from ratelimit.decision import Charge, LimitDecision, LimitPlan
from ratelimit.stores.store import Result

MAX_KEYS: Final = 1_000
"""Keys that are kept; up to twice as many between two evictions, of about 1 KB each."""

MAX_STEP: Final = 16
"""One of so many requests is looked at, on average. The first few are looked at one by one."""

REQUESTS_FOR_EACH_STEP: Final = 32
"""After this many requests the step grows by one."""

WINDOW_SECONDS: Final = 60.0
"""Counts are those of the last one or two windows: the question is what is hot now."""

MAX_SHOWN_CHARACTERS: Final = 512


@dataclass(frozen=True, slots=True)
class HotKey:
    """A key, as it is shown, and about how often it was asked for."""

    domain: str
    descriptor: str
    """`key=value,key=value`; secrets as hashes, long ones cut."""
    exact: bool
    """Whether `sidecars limits explain` finds the key by this text."""
    rule: str
    hits: int
    limited: int
    """Hits beyond the limit, also those that shadow mode let pass."""
    error: int
    """The most by which `hits` is too large, apart from sampling."""


class _Seen:
    __slots__ = ("descriptor", "domain", "error", "exact", "hits", "limited", "rule")

    def __init__(self, charge: Charge, plan: LimitPlan, error: int) -> None:
        secrets = plan.limits.options.secrets
        entries = lasting_entries(charge.rule, plan.request.descriptors[charge.position].entries)
        text = shown(",".join(f"{key}={secrets.shown(key, value)}" for key, value in entries))
        self.domain = plan.request.domain
        self.descriptor = text[:MAX_SHOWN_CHARACTERS]
        self.exact = tuple(part.partition("=")[::2] for part in self.descriptor.split(",")) == entries
        self.rule = charge.rule.key
        self.hits = self.error = error
        self.limited = 0


class HotKeys:
    """The keys of the last WINDOW_SECONDS or twice that. `clock` counts seconds; `random` is in [0, 1).

    `next_request` is the number of the request to look at next: callers compare it, then call `noting`.
    """

    __slots__ = (
        "_before", "_clock", "_current", "_floor", "_max_keys", "_random", "_started", "_step",
        "next_request",
    )  # fmt: skip

    def __init__(
        self, max_keys: int, clock: Callable[[], float], random: Callable[[], float] = lambda: 0.5
    ) -> None:
        self._max_keys = max_keys
        self._clock = clock
        self._random = random
        self._current: dict[str, _Seen] = {}
        self._before: dict[str, _Seen] = {}
        self._floor = 0
        self._started = clock()
        self._step = 1
        self.next_request = 1 if max_keys else sys.maxsize

    def noting(
        self, requests: int, finish: Callable[[LimitDecision], Result]
    ) -> Callable[[LimitDecision], Result]:
        """Return `finish` that counts the keys of a decision first; `requests` is how many there were."""
        weight = self._step
        self._step = step = min(MAX_STEP, 1 + requests // REQUESTS_FOR_EACH_STEP)
        # At random, since traffic may have a rhythm of its own.
        self.next_request = requests + 1 + int(self._random() * (2 * step - 1))

        def noted(decision: LimitDecision) -> Result:
            self._note(decision, weight)
            return finish(decision)

        return noted

    def _note(self, decision: LimitDecision, weight: int) -> None:
        if self._clock() - self._started >= WINDOW_SECONDS:
            self._turn()
        plan = decision.plan
        for charge, take in zip(plan.charges, plan.takes, strict=True):
            if charge.hits > 0:
                status = decision.statuses[charge.position]
                seen = self._current.get(take.key)
                if seen is None:
                    seen = self._add(take.key, charge, plan)
                hits = charge.hits * weight
                seen.hits += hits
                if status.over_limit or status.shadowed:
                    seen.limited += hits

    def hottest(self, most: int) -> tuple[list[HotKey], list[HotKey]]:
        """Return the keys with the most hits, and those with the most hits beyond a limit."""
        if self._clock() - self._started >= WINDOW_SECONDS:
            self._turn()
        merged: dict[str, list[_Seen]] = {}
        for table in (self._current, self._before):
            for key, seen in table.items():
                merged.setdefault(key, []).append(seen)
        found = [_added_up(seen) for seen in merged.values()]
        hottest = nlargest(most, found, key=lambda key: key.hits)
        limited = nlargest(most, found, key=lambda key: key.limited)
        return hottest, [key for key in limited if key.limited]

    def _add(self, key: str, charge: Charge, plan: LimitPlan) -> _Seen:
        if len(self._current) >= 2 * self._max_keys:
            self._evict()
        seen = self._current[key] = _Seen(charge, plan, self._floor)
        return seen

    def _evict(self) -> None:
        by_hits = sorted(self._current.items(), key=lambda item: -item[1].hits)
        self._floor = by_hits[self._max_keys][1].hits
        self._current = dict(by_hits[: self._max_keys])

    def _turn(self) -> None:
        """Begin a window; what was counted before two windows is forgotten."""
        now = self._clock()
        stale = now - self._started >= 2 * WINDOW_SECONDS
        self._before = {} if stale else self._current
        self._current, self._floor, self._started = {}, 0, now


def _added_up(seen: Sequence[_Seen]) -> HotKey:
    one = seen[0]
    return HotKey(
        one.domain,
        one.descriptor,
        one.exact,
        one.rule,
        sum(each.hits for each in seen),
        sum(each.limited for each in seen),
        sum(each.error for each in seen),
    )
