"""Requests that wait for Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from common.buckets import SECOND_US, Bucket, State, Taken
from ratelimit.stores.redirect import RedirectError
from ratelimit.stores.script import read_state
from ratelimit.stores.store import Failure, StoreError, Take
from ratelimit.stores.take_all import take_all

Result = TypeVar("Result")


class Answer(Generic[Result]):
    """What a request waits for: a future of what `finish` makes of the outcome."""

    __slots__ = ("_failures", "_finish", "future")

    def __init__(
        self,
        future: asyncio.Future[Result],
        finish: Callable[[list[Taken] | StoreError], Result],
        failures: dict[Failure, int],
    ) -> None:
        self.future = future
        self._finish = finish
        self._failures = failures

    def done(self) -> bool:
        """Whether there is an outcome already, or the caller has gone."""
        return self.future.done()

    def set_result(self, outcome: list[Taken] | StoreError) -> None:
        """Answer with `outcome`."""
        if isinstance(outcome, StoreError) and not isinstance(outcome, RedirectError):
            self._failures[outcome.failure] += 1
        try:
            self.future.set_result(self._finish(outcome))
        except Exception as error:
            self.future.set_exception(error)


class Waiting(NamedTuple):
    """A request, and where its outcome goes."""

    takes: Sequence[Take]
    answer: Answer[Any]
    due: float
    """When it is too late, by the clock of the store."""


def split(batch: Sequence[Waiting], position: int) -> tuple[list[Waiting], list[Waiting]]:
    """Return the requests of `batch` with a take from the bucket at `position`, and the others."""
    keys = list(dict.fromkeys(take.key for waiting in batch for take in waiting.takes))
    owners: list[Waiting] = []
    others: list[Waiting] = []
    for waiting in batch:
        owns = any(take.key == keys[position] for take in waiting.takes)
        (owners if owns else others).append(waiting)
    return owners, others


def grouped(batch: Sequence[Waiting], group_of: Callable[[Sequence[Take]], Hashable]) -> list[list[Waiting]]:
    """Return the requests of `batch` that may share a call, in order of arrival."""
    groups: dict[Hashable, list[Waiting]] = {}
    for waiting in batch:
        groups.setdefault(group_of(waiting.takes), []).append(waiting)
    return list(groups.values())


def overdue(batch: Sequence[Waiting], now: float, late_seconds: float) -> bool:
    """Whether a request still waits whose time is over: its timer is late, and so is the event loop."""
    return any(not waiting.answer.done() and now - waiting.due > late_seconds for waiting in batch)


def outcomes(batch: Sequence[Waiting], buckets: Mapping[str, Bucket], answer: Any) -> list[list[Taken]]:
    """Return the outcomes of each request of `batch` by the answer of the script."""
    seconds, microseconds, stored = answer
    now_us = int(seconds) * SECOND_US + int(microseconds)
    if len(batch) == 1 and len(batch[0].takes) == 1:  # by far the most, unless many requests come at once
        _, bucket, hits, _, _ = batch[0].takes[0]
        (text,) = stored
        return [[bucket.take(read_state(bucket, text), hits, now_us)[0]]]
    states: dict[str, State] = {}
    for (key, bucket), text in zip(buckets.items(), stored, strict=True):
        state = read_state(bucket, text)
        if state is not None:
            states[key] = state
    return [take_all(waiting.takes, states, now_us) for waiting in batch]


def refuse(batch: Sequence[Waiting], failure: Failure, detail: str = "") -> StoreError:
    """Return the error that each request of `batch` gets, one of its own."""
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_result(StoreError(failure, detail))
    return StoreError(failure, detail)


def hand_out(batch: Sequence[Waiting], answers: Sequence[list[Taken] | StoreError]) -> None:
    """Give each request of `batch` its outcome, unless it has one."""
    for waiting, answer in zip(batch, answers, strict=True):
        if not waiting.answer.done():
            waiting.answer.set_result(answer)


async def raising(answer: Awaitable[list[Taken] | StoreError]) -> list[Taken]:
    """Return the outcome that comes. Raises it if it is a StoreError."""
    outcome = await answer
    if isinstance(outcome, StoreError):
        raise outcome
    return outcome
