"""Buckets in Redis, shared by every sidecar that names the same one."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from hashlib import sha1
from importlib.resources import files
from math import inf
from struct import Struct
from typing import Any, Final, NamedTuple, Protocol

from redis.exceptions import AskError, NoScriptError, RedisError, TryAgainError
from redis.exceptions import TimeoutError as RedisTimeoutError

from common.buckets import (
    SECOND_US,
    Bucket,
    CalendarWindow,
    FixedWindow,
    SlidingWindow,
    State,
    Taken,
    TokenBucket,
)
from common.circuit_breaker import CircuitBreaker, CircuitState
from common.redis_errors import answer_in, error_text
from ratelimit.stores.redirect import RedirectError, redirect_in
from ratelimit.stores.store import Failure, Mode, StoreError, Take
from ratelimit.stores.take_all import take_all

TIMEOUT_SECONDS: Final = 0.01
"""Half of the 20 ms that Envoy waits for a rate limit service by default: time to fall back and answer."""

MAX_WAITING: Final = 2_000
"""Requests. At 10 ms each that is 200,000 a second, more than one process answers."""

MAX_KEYS_PER_CALL: Final = 64
"""A script stops all of Redis while it runs: 64 buckets take it about half a millisecond."""

MAX_CALLS: Final = 4
"""Calls under way at once, and so connections: while some wait for Redis, the next ones gather."""


CALL_SECONDS: Final = 1.0
"""When a call is given up, for a client without timeouts of its own. Longer than any request waits for it:
a new connection (TLS, far away) may take longer than that, and must still be made."""


LATE_SECONDS: Final = 0.002
"""A timer that fires so much later shows that the event loop was busy, or the process was not running."""

GRACE_SECONDS: Final = 0.003
"""How long a request still waits if the event loop was late: longer than reading what has come takes."""

PROBE_SECONDS: Final = 0.1
"""The time between two checks while the breaker is open: a small load, even from many processes."""

PROBE: Final = Take("probe", FixedWindow(1, SECOND_US, charge_rejected=True), 1)
"""Probes Redis while no request does. It writes, as every request does: a replica, or a server that may not
write, would answer a command that only reads. Its key expires after two seconds."""


_WRONG_TYPE: Final = re.compile(r"WRONGTYPE.*\(key (\d+)\)")
"""The error text of the script."""


class ScriptClient(Protocol):
    """Runs scripts in Redis: redis-py's client, or the `PipelinedClient` of a cluster's node."""

    @property
    def evalsha(self) -> Callable[..., Any]:
        """Run the script with this SHA-1: the number of keys, the keys, and the arguments."""

    @property
    def eval(self) -> Callable[..., Any]:
        """The same with the text of the script."""


class _Waiting(NamedTuple):
    takes: Sequence[Take]
    answer: asyncio.Future[list[Taken] | StoreError]
    # An error is a result, too, and need not be retrieved where the caller has gone.


class RedisStore:
    """Counts in Redis, by one script for all buckets of a request, on the clock of Redis.

    Buckets of several requests in one call are read and written once.

    Requests that come while a call is under way share the next one: a call costs about 130 µs of this
    process, a bucket more in it about 8 µs. What a request waits is bounded by `timeout_seconds` and its
    own budget, how many may wait by `max_waiting`. Whatever fails is a StoreError; `breaker` spares a
    Redis that is away, and the callers the wait. It opens on evidence of Redis alone: an answer that is late
    because this event loop was late is used, and does not count as a failure. While the breaker is open the
    store finds out by itself when Redis is back, so that its state is right without traffic.

    Requests for which `group_of` returns different values never share a call (a script's keys must lie in one
    slot of a Redis Cluster); the calls of one batch begin in the same turn of the event loop.

    `refused` is called with what Redis said each time that it says no.

    `client` stays the caller's to close; it needs timeouts of its own, and should not retry: a script that
    is sent again after a lost answer counts twice.
    """

    def __init__(
        self,
        client: ScriptClient,
        breaker: CircuitBreaker,
        *,
        prefix: str = "ratelimit:",
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_waiting: int = MAX_WAITING,
        refused: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        group_of: Callable[[Sequence[Take]], Hashable] | None = None,
    ) -> None:
        self.breaker = breaker
        self.failures = dict.fromkeys(Failure, 0)
        """Requests without an answer, by reason."""
        self._client = client
        self._prefix = prefix
        self._timeout_seconds = timeout_seconds
        self._max_waiting = max_waiting
        self._script = script_text()
        self._script_sha = sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._waiting: deque[_Waiting] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._probing: asyncio.Task[None] | None = None
        self._refused = refused
        self._clock = clock
        self._group_of = group_of
        self._late_at = -inf
        """When the event loop was last seen to be late, by `clock`."""
        self._call_begins = False

    @property
    def waiting(self) -> int:
        """Requests not sent to Redis yet."""
        return len(self._waiting)

    def take(self, takes: Sequence[Take], budget_seconds: float | None = None, /) -> Awaitable[list[Taken]]:
        """The outcome of each of `takes`. Raises StoreError, at once where waiting is useless."""
        seconds = self._timeout_seconds
        if budget_seconds is not None:
            if budget_seconds <= 0:
                raise self._failed(Failure.NO_TIME)
            seconds = min(seconds, budget_seconds)
        if self.breaker.blocks:
            raise self._failed(Failure.BREAKER_OPEN)
        if len(self._waiting) >= self._max_waiting:
            raise self._failed(Failure.BUSY)
        waiting = _Waiting(takes, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if not self._call_begins and len(self._calls) < MAX_CALLS:
            self._call_begins = True
            task = asyncio.create_task(self._call_while_some_wait())
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        return self._answer(waiting, seconds)

    async def close(self) -> None:
        """End the calls under way; their callers get StoreError."""
        tasks = self._calls if self._probing is None else {*self._calls, self._probing}
        for task in tasks:
            task.cancel()
        if tasks:
            # Bounded: a cancellation may get lost in a client that is just setting a timeout of its own.
            await asyncio.wait(tasks, timeout=self._timeout_seconds)
        _refuse(self._drain(), Failure.UNREACHABLE, "closing")

    async def _answer(self, waiting: _Waiting, seconds: float) -> list[Taken]:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, self._expire, waiting, self._clock() + seconds)
        try:
            answer = await waiting.answer
        finally:
            timer.cancel()
        if isinstance(answer, StoreError):
            if not isinstance(answer, RedirectError):
                self.failures[answer.failure] += 1
            raise answer
        return answer

    def _expire(self, waiting: _Waiting, due: float) -> None:
        """End the wait. If the event loop was late itself, the answer may have come: give time to read it."""
        now = self._clock()
        if now - due > LATE_SECONDS:
            self._late_at = now
            asyncio.get_running_loop().call_later(GRACE_SECONDS, _refuse, [waiting], Failure.TIMEOUT)
        else:
            _refuse([waiting], Failure.TIMEOUT)

    def _failed(self, failure: Failure) -> StoreError:
        self.failures[failure] += 1
        return StoreError(failure)

    async def _call_while_some_wait(self) -> None:
        self._call_begins = False
        while self._waiting:
            if not self.breaker.allows():
                _refuse(self._drain(), Failure.BREAKER_OPEN)
                return
            batch = self._next_batch()
            if not batch:
                continue
            await self._call(batch)

    async def _call(self, batch: list[_Waiting]) -> None:
        """Ask Redis about `batch`, and tell the breaker whether it answered."""
        groups = [batch] if self._group_of is None else _grouped(batch, self._group_of)
        if len(groups) == 1:
            failures = [await self._attempt(batch)]
        else:
            failures = await asyncio.gather(*map(self._attempt, groups))
        failed = [failure for failure in failures if failure is not None]
        if len(failed) < len(failures):
            self.breaker.succeeded()
        else:
            self._failed_call(failed[0])

    async def _attempt(self, batch: list[_Waiting]) -> StoreError | None:
        """Hand out the outcomes of `batch`. Returns why Redis did not answer in time, None if it did."""
        begun = self._clock()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                answers = await self._run(batch)
        except (TimeoutError, RedisTimeoutError) as error:
            return _refuse(batch, Failure.TIMEOUT, error_text(error))
        except RedisError as error:
            if self._group_of is not None and isinstance(error, AskError | TryAgainError):
                _hand_out(batch, [redirect_in(error) for _ in batch])
                return None
            if answer_in(error) is None:
                return _refuse(batch, Failure.UNREACHABLE, error_text(error))
            return await self._answered_no(batch, error_text(error))
        except OSError as error:
            return _refuse(batch, Failure.UNREACHABLE, error_text(error))
        except BaseException as error:
            _refuse(batch, Failure.UNREACHABLE, error_text(error))
            raise
        _hand_out(batch, answers)
        seconds = self._clock() - begun
        # Too late for its caller, which says nothing about Redis if the event loop was late.
        if seconds > self._timeout_seconds and self._late_at < begun:
            return StoreError(Failure.TIMEOUT, f"answered after {seconds * 1000:.0f} ms")
        return None

    async def _answered_no(self, batch: list[_Waiting], detail: str) -> StoreError | None:
        """Redis refused a whole call, and has charged nothing: the script reads all before it writes."""
        self._refused(detail)
        position = _unreadable_key(detail)
        if position is None:
            return _refuse(batch, Failure.REFUSED, detail)
        # One request must not fail for the key of another, nor all of them for that of one.
        refused, others = _split(batch, position)
        _refuse(refused, Failure.REFUSED, detail)
        return await self._attempt(others) if others else None

    def _failed_call(self, failure: StoreError) -> None:
        self.breaker.failed(str(failure))
        if self.breaker.state is CircuitState.OPEN and self._probing is None:
            self._probing = asyncio.create_task(self._probe_until_closed(), name="redis probe")
            self._probing.add_done_callback(self._probed)

    def _probed(self, _: asyncio.Task[None]) -> None:
        self._probing = None

    async def _probe_until_closed(self) -> None:
        """Ask until the breaker closes: else its state would be wrong until the next request."""
        while self.breaker.state is not CircuitState.CLOSED:
            await asyncio.sleep(PROBE_SECONDS)
            await self._call([_Waiting([PROBE], asyncio.get_running_loop().create_future())])

    def _drain(self) -> list[_Waiting]:
        drained = list(self._waiting)
        self._waiting.clear()
        return drained

    def _next_batch(self) -> list[_Waiting]:
        """Whole requests up to MAX_KEYS_PER_CALL buckets, at least one; without those that gave up."""
        batch: list[_Waiting] = []
        keys = 0
        while self._waiting:
            waiting = self._waiting[0]
            if waiting.answer.done():
                self._waiting.popleft()
                continue
            keys += len(waiting.takes)
            if batch and keys > MAX_KEYS_PER_CALL:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _run(self, batch: Sequence[_Waiting]) -> list[list[Taken]]:
        """Return the outcomes of each request of `batch`."""
        buckets = {take.key: take.bucket for waiting in batch for take in waiting.takes}
        keys = [self._prefix + key for key in buckets]
        arguments = encode_takes([waiting.takes for waiting in batch], list(buckets))
        run: Any = self._client.evalsha(self._script_sha, len(keys), *keys, arguments)
        try:
            seconds, microseconds, stored = await run
        except NoScriptError:
            # Redis was restarted or failed over. EVAL runs the script and makes it known in one call.
            run = self._client.eval(self._script, len(keys), *keys, arguments)
            seconds, microseconds, stored = await run
        now_us = int(seconds) * SECOND_US + int(microseconds)
        states: dict[str, State] = {}
        for (key, bucket), text in zip(buckets.items(), stored, strict=True):
            state = read_state(bucket, text)
            if state is not None:
                states[key] = state
        return [take_all(waiting.takes, states, now_us) for waiting in batch]


def script_text() -> str:
    """The script that takes from buckets."""
    return files("ratelimit.stores").joinpath("scripts/take.lua").read_text(encoding="utf-8")


def read_state(bucket: Bucket, stored: bytes | str | None) -> State | None:
    """The state that the script stored. None where nothing of its own is stored, as the script sees it."""
    if stored is None:
        return None
    numbers = stored.split()
    with suppress(ValueError):
        if isinstance(bucket, TokenBucket) and len(numbers) == 3:
            used, parts, at_us = map(int, numbers)
            return used * bucket.period_us + parts, at_us
        if len(numbers) == (3 if isinstance(bucket, SlidingWindow) else 2):
            return tuple(map(int, numbers))
    return None


_TAKE: Final = Struct("<HBBdddd")
_SPARE, _LAST = 8, 16
_MODES: Final = {Mode.ENFORCE: 2, Mode.QUOTA: 4, Mode.SHADOW: 0}


def encode_takes(requests: Sequence[Sequence[Take]], keys: Sequence[str]) -> bytes:
    """Return the takes of `requests` as the script reads them. `keys` has the key of each bucket once."""
    positions = {key: position for position, key in enumerate(keys, start=1)}
    encoded = bytearray()
    for takes in requests:
        last = len(takes) - 1
        for index, (key, bucket, hits, mode, spare) in enumerate(takes):
            flags = _MODES[mode] | bucket.charge_rejected | (_SPARE * spare) | (_LAST if index == last else 0)
            if isinstance(bucket, TokenBucket):
                kind, refill, period = 0, bucket.refill_tokens, bucket.period_us
            elif isinstance(bucket, CalendarWindow):
                kind, refill, period = 3, 0, bucket.months
            else:
                kind, refill, period = 1 if isinstance(bucket, FixedWindow) else 2, 0, bucket.window_us
            encoded += _TAKE.pack(positions[key], flags, kind, bucket.size, hits, refill, period)
    return bytes(encoded)


def _unreadable_key(detail: str) -> int | None:
    """Which key of a call holds something other than text, from 0; None where that is not why it failed."""
    found = _WRONG_TYPE.search(detail)
    return None if found is None else int(found[1]) - 1


def _split(batch: Sequence[_Waiting], position: int) -> tuple[list[_Waiting], list[_Waiting]]:
    """Return the requests of `batch` with a take from the bucket at `position`, and the others."""
    keys = list(dict.fromkeys(take.key for waiting in batch for take in waiting.takes))
    owners: list[_Waiting] = []
    others: list[_Waiting] = []
    for waiting in batch:
        owns = any(take.key == keys[position] for take in waiting.takes)
        (owners if owns else others).append(waiting)
    return owners, others


def _grouped(
    batch: Sequence[_Waiting], group_of: Callable[[Sequence[Take]], Hashable]
) -> list[list[_Waiting]]:
    """Return the requests of `batch` that may share a call, in order of arrival."""
    groups: dict[Hashable, list[_Waiting]] = {}
    for waiting in batch:
        groups.setdefault(group_of(waiting.takes), []).append(waiting)
    return list(groups.values())


def _refuse(batch: Sequence[_Waiting], failure: Failure, detail: str = "") -> StoreError:
    """Return the error that each request of `batch` gets, one of its own."""
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_result(StoreError(failure, detail))
    return StoreError(failure, detail)


def _hand_out(batch: Sequence[_Waiting], answers: Sequence[list[Taken] | StoreError]) -> None:
    for waiting, answer in zip(batch, answers, strict=True):
        if not waiting.answer.done():
            waiting.answer.set_result(answer)
