"""Requests whose buckets are kept in several places. A place charges its buckets in one atomic step."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from common.buckets import Taken
from ratelimit.stores.store import NOT_TAKEN, Failure, Mode, StoreError, Take
from ratelimit.stores.take_all import is_refused

Ask = Callable[[Sequence[Take], float | None], list[Taken] | Awaitable[list[Taken]]]
"""What `Store.take` is."""


class Part(NamedTuple):
    """The buckets of a request that are kept in one place."""

    ask: Ask
    positions: Sequence[int]
    """Where its buckets are in the request, from 0."""


class PartedTakes:
    """Takes from buckets in several places: checks all, then charges all, and gives back what is in vain.

    The places are asked at the same time. A request that the check finds over a limit charges only what is
    charged in refused requests (`Take.charges_in_refused`). If requests race, a place can refuse what it let
    pass in the check: then the hits that the others have charged are given back, so until then (at most the
    time of two calls) they count. If a place gives no answer to the check, nothing is charged; if it gives
    none to the charge, what the others have charged stays. But a refusal by one of the others is definite:
    then the takes in the place without an answer are NOT_TAKEN, and no error is raised.

    So a request that passes has always been charged in full, and never more passes than one place alone would
    let pass.
    """

    def __init__(self, timeout_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._refunds: set[asyncio.Task[None]] = set()

    async def take(
        self, takes: Sequence[Take], parts: Sequence[Part], budget_seconds: float | None
    ) -> list[Taken]:
        """The outcome of each of `takes`. Raises StoreError."""
        seconds = (
            self._timeout_seconds if budget_seconds is None else min(budget_seconds, self._timeout_seconds)
        )
        until = self._clock() + seconds
        if any(_waits_for_others(take) for take in takes):
            found, error = await _ask_all(parts, [_checked(take) for take in takes], seconds)
            checked = [_foreseen(take, outcome) for take, outcome in zip(takes, found, strict=True)]
            if _is_denied(takes, checked, error):
                return await self._refuse(takes, parts, checked, until)
        outcomes, error = await _ask_all(parts, [_alone(take) for take in takes], self._left(until))
        if not _is_denied(takes, outcomes, error):
            return outcomes
        # The answer is known, so its caller does not wait for this.
        for part in parts:
            self._give_back(part, [(takes[index], outcomes[index]) for index in part.positions])
        return [
            outcome._replace(remaining=min(take.bucket.size, outcome.remaining + take.hits))
            if _is_given_back(take, outcome)
            else outcome
            for take, outcome in zip(takes, outcomes, strict=True)
        ]

    async def close(self) -> None:
        """Wait for what is given back."""
        if self._refunds:
            await asyncio.wait(self._refunds)

    async def _refuse(
        self, takes: Sequence[Take], parts: Sequence[Part], checked: list[Taken], until: float
    ) -> list[Taken]:
        """Charge what is charged in a refused request, and return the outcomes.

        The buckets that are over their limit are asked, too: only with the hits do they say when these pass.
        """
        wanted = {
            index
            for index, (take, outcome) in enumerate(zip(takes, checked, strict=True))
            if not outcome.allowed or (take.hits and take.charges_in_refused(outcome.allowed))
        }
        some = [Part(part.ask, [index for index in part.positions if index in wanted]) for part in parts]
        asked = [part for part in some if part.positions]
        outcomes, _ = await _ask_all(asked, [_alone(take) for take in takes], self._left(until), checked)
        for part in asked:
            self._give_back(part, [(takes[index], outcomes[index]) for index in part.positions])
        return [
            before if after.allowed and not before.allowed and _waits_for_others(take) else after
            for take, before, after in zip(takes, checked, outcomes, strict=True)
        ]

    def _left(self, until: float) -> float:
        seconds = until - self._clock()
        if seconds <= 0:
            raise StoreError(Failure.NO_TIME)
        return seconds

    def _give_back(self, part: Part, outcomes: Sequence[tuple[Take, Taken]]) -> None:
        """Give back what a part has charged of a request that is refused as a whole."""
        if is_refused((_alone(take), outcome) for take, outcome in outcomes):
            return  # it has charged nothing
        refunds = [
            take._replace(hits=-take.hits) for take, outcome in outcomes if _is_given_back(take, outcome)
        ]
        if refunds:
            task = asyncio.create_task(_refund(part, refunds), name="give back hits")
            self._refunds.add(task)
            task.add_done_callback(self._refunds.discard)


def _is_denied(takes: Sequence[Take], outcomes: Sequence[Taken], error: StoreError | None) -> bool:
    """Return whether the request is refused. Raises `error` unless what is known refuses it for certain."""
    if error is None:
        return is_refused(zip(takes, outcomes, strict=True))
    if any(
        take.mode is Mode.ENFORCE and not outcome.allowed
        for take, outcome in zip(takes, outcomes, strict=True)
    ):
        return True
    raise error


def _waits_for_others(take: Take) -> bool:
    """Return whether the hits are charged only if the whole request passes."""
    return take.hits > 0 and not take.charges_in_refused(allowed=True)


def _checked(take: Take) -> Take:
    """Return the take that only looks."""
    return take._replace(hits=0, mode=Mode.SHADOW)


def _foreseen(take: Take, found: Taken) -> Taken:
    """Return the outcome of `take` by itself, without its charge, from that of 0 hits to the same bucket."""
    if found is NOT_TAKEN:
        return found
    if take.hits <= 0:
        return found._replace(allowed=found.allowed or take.hits < 0)
    allowed = found.allowed and take.hits <= found.remaining
    return found._replace(allowed=allowed)


def _alone(take: Take) -> Take:
    """Return the take as its part of a request sees it: quotas are judged over the whole request."""
    return take._replace(mode=Mode.SHADOW) if take.mode is Mode.QUOTA else take


def _is_given_back(take: Take, outcome: Taken) -> bool:
    return outcome.allowed and outcome is not NOT_TAKEN and _waits_for_others(take)


async def _refund(part: Part, refunds: Sequence[Take]) -> None:
    with suppress(StoreError):
        await _asked(part.ask, refunds, None)


async def _ask_all(
    parts: Sequence[Part], takes: Sequence[Take], seconds: float, known: Sequence[Taken] = ()
) -> tuple[list[Taken], StoreError | None]:
    """Return the outcome of each of `takes`, and the error of a part without an answer, if there is one.

    The outcome of takes in such a part, and of those in no part, is the one in `known`, else NOT_TAKEN.
    """
    # All have ended before an error is raised: a call that is left alone could charge later.
    answers = await asyncio.gather(
        *[_asked(part.ask, [takes[index] for index in part.positions], seconds) for part in parts],
        return_exceptions=True,
    )
    outcomes = list(known) or [NOT_TAKEN] * len(takes)
    failed: StoreError | None = None
    for part, answer in zip(parts, answers, strict=True):
        if isinstance(answer, StoreError):
            failed = answer
        elif isinstance(answer, BaseException):
            raise answer
        else:
            for index, outcome in zip(part.positions, answer, strict=True):
                outcomes[index] = outcome
    return outcomes, failed


async def _asked(ask: Ask, takes: Sequence[Take], budget_seconds: float | None) -> list[Taken]:
    answer = ask(takes, budget_seconds)
    return answer if isinstance(answer, list) else await answer
