"""Remembers refusals of a shared store until the same request could pass, so that it is not asked again."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Final, NamedTuple

from common.buckets import SECOND_US, Bucket, Taken
from ratelimit.cache import GenerationalCache
from ratelimit.rules import goes_into_debt
from ratelimit.stores.store import NOT_TAKEN, Mode, Take

MAX_ENTRIES: Final = 20_000
"""Buckets, about 8 MB: as many are kept, and up to twice as many for a while."""


class _Denial(NamedTuple):
    bucket: Bucket
    """Two limits of one window share a key, so the refusal of one says nothing about the other."""
    hits: int
    """The hits that were refused; as many or more stay refused."""
    until: float
    """When they could pass, in seconds of the clock."""
    outcome: Taken
    at: float
    """The time of `outcome`."""

    def covers(self, take: Take, now: float) -> bool:
        """Return whether `take` is refused for certain."""
        if self.hits > take.hits or now >= self.until:
            return False
        # The same object, most often: to compare the values of two costs as much as all the rest.
        return self.bucket is take.bucket or self.bucket == take.bucket


class DenyCache:
    """Knows which takes are refused for certain: those of `max_entries` buckets, at times of twice as many.

    A refusal is exact until the hits could pass, because time alone refills a bucket. It is dropped when this
    process gives hits back; `clear` drops all, for limits that change. Buckets that go into debt are not
    remembered, since each of their charges counts.
    """

    def __init__(self, clock: Callable[[], float], max_entries: int = MAX_ENTRIES) -> None:
        self.hits = 0
        """Requests refused from the cache."""
        self.clock = clock
        """Seconds, monotonic."""
        self._denials: GenerationalCache[str, _Denial] = GenerationalCache(max_entries)

    def __len__(self) -> int:
        return len(self._denials)

    def refuse(self, takes: Sequence[Take]) -> list[Taken] | None:
        """Return the outcomes of a request that is refused for certain, else None.

        Also returns None if the request charges something although it is refused, which the store has to do.
        """
        if not len(self._denials):
            return None
        for take in takes:
            if take.hits < 0:
                self._denials.forget(take.key)
        now = self.clock()
        refused = False
        outcomes: list[Taken] = []
        for take in takes:
            denial = self._denials.get(take.key)
            if denial is not None and denial.covers(take, now):
                refused = refused or take.mode is Mode.ENFORCE
                outcomes.append(_as_of(denial, now))
            elif take.charges_in_refused(allowed=True):
                return None
            else:
                outcomes.append(NOT_TAKEN)
        if not refused:
            return None
        self.hits += 1
        return outcomes

    def note(
        self, takes: Sequence[Take], outcomes: Sequence[Taken], asked_at: float, most_seconds: float = inf
    ) -> None:
        """Remember the refusals among the `outcomes` of a request, for `most_seconds` at most.

        `asked_at` is the clock when the request came.
        """
        # Of two takes from one bucket, the second may be refused because of the first alone.
        unique = len(takes) == 1 or len({take.key for take in takes}) == len(takes)
        for take, outcome in zip(takes, outcomes, strict=True):
            if take.hits < 0:
                self._denials.forget(take.key)
            elif unique and outcome.retry_after_us and not goes_into_debt(take.bucket):
                self._put(take, outcome, asked_at, most_seconds)

    def _put(self, take: Take, outcome: Taken, asked_at: float, most_seconds: float) -> None:
        # The request came before the store answered it, so this never lasts too long.
        until = asked_at + min(most_seconds, outcome.retry_after_us / SECOND_US)
        known = self._denials.get(take.key)
        # A refusal of fewer hits covers more requests.
        if known is None or take.hits <= known.hits or not known.covers(take, asked_at):
            self._denials.put(take.key, _Denial(take.bucket, take.hits, until, outcome, asked_at))

    def forget(self, key: str) -> None:
        """Drop what is known of a bucket."""
        self._denials.forget(key)

    def clear(self) -> None:
        """Drop everything."""
        self._denials.clear()


def _as_of(denial: _Denial, now: float) -> Taken:
    passed_us = int((now - denial.at) * SECOND_US)
    allowed, remaining, reset_us, retry_after_us, used_before = denial.outcome
    return Taken(
        allowed, remaining, max(0, reset_us - passed_us), max(0, retry_after_us - passed_us), used_before
    )
