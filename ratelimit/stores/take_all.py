"""Charges all buckets of a request, or none: the arithmetic that every store shares."""

from collections.abc import Iterable, MutableMapping, Sequence

from common.buckets import State, Taken
from ratelimit.stores.store import Mode, Take

States = MutableMapping[str, State]
"""What buckets remember, by key. A bucket that was never used is absent."""


def take_all(takes: Sequence[Take], states: States, now_us: int) -> list[Taken]:
    """Return the outcome of each of the `takes` of a request, and update `states`.

    If the request is refused, only some takes change their bucket (`Take.charges_in_refused`), so that a
    request over one limit does not use up its other limits. The outcome of a bucket that is spared so
    says whether the hits would have passed, and what remains without them.
    """
    if len(takes) == 1:
        return [_take(takes[0], states, now_us)]
    before = {take.key: states.get(take.key) for take in takes}
    tried = [_take(take, states, now_us) for take in takes]
    if not is_refused(zip(takes, tried, strict=True)):
        return tried
    for key, state in before.items():
        _keep(states, key, state)
    return [_settle(take, outcome, states, now_us) for take, outcome in zip(takes, tried, strict=True)]


def is_refused(outcomes: Iterable[tuple[Take, Taken]]) -> bool:
    """Return whether a request is refused: an enforced bucket is over its limit, or all in quota mode are."""
    quotas = quotas_over = 0
    for take, taken in outcomes:
        if take.mode is Mode.QUOTA:
            quotas += 1
            quotas_over += not taken.allowed
        elif not taken.allowed and take.mode is Mode.ENFORCE:
            return True
    return 0 < quotas == quotas_over


def _settle(take: Take, tried: Taken, states: States, now_us: int) -> Taken:
    """Return the outcome of a take in a refused request; `tried` is its outcome by itself."""
    hits = take.hits if take.charges_in_refused(tried.allowed) else 0
    settled = _take(take._replace(hits=hits), states, now_us)
    return tried._replace(remaining=settled.remaining, reset_us=settled.reset_us)


def _take(take: Take, states: States, now_us: int) -> Taken:
    key, bucket, hits, _, _ = take
    state = states.get(key)
    taken, kept = bucket.take(state, hits, now_us)
    if kept is not state:
        _keep(states, key, kept)
    return taken


def _keep(states: States, key: str, state: State | None) -> None:
    if state is None:
        states.pop(key, None)
    else:
        states[key] = state
