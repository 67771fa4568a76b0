"""Buckets in Redis, shared by every sidecar that names the same one."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from hashlib import sha1
from math import inf
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import AskError, NoScriptError, RedisError, TryAgainError
from redis.exceptions import TimeoutError as RedisTimeoutError

from common.buckets import SECOND_US, FixedWindow, Taken
from common.circuit_breaker import CircuitBreaker, CircuitState
from common.redis_errors import answer_in, error_text
from ratelimit.stores.redirect import redirect_in
from ratelimit.stores.script import encode_takes, script_text, unreadable_key
from ratelimit.stores.script_link import (
    GRACE_SECONDS,
    LATE_SECONDS,
    TIMER_SECONDS,
    Deliver,
    Failed,
    Link,
    ScriptLink,
)
from ratelimit.stores.store import MAX_WAITING, TIMEOUT_SECONDS, Failure, Result, StoreError, Take
from ratelimit.stores.waiting import (
    Answer,
    Waiting,
    grouped,
    hand_out,
    outcomes,
    overdue,
    raising,
    refuse,
    split,
)

MAX_KEYS_PER_CALL: Final = 64
"""A script stops all of Redis while it runs: 64 buckets take it about half a millisecond."""

MAX_CALLS: Final = 4
"""Calls under way at once: while some wait for Redis, the next ones gather."""

CALL_SECONDS: Final = 1.0
"""When a call is given up, for a client without timeouts of its own. Longer than any request waits for it:
a new connection (TLS, far away) may take longer than that, and must still be made."""

PROBE_SECONDS: Final = 0.1
"""The time between two checks while the breaker is open: a small load, even from many processes."""

PROBE: Final = Take("probe", FixedWindow(1, SECOND_US, charge_rejected=True), 1)
"""Probes Redis while no request does. It writes, as every request does: a replica, or a server that may not
write, would answer a command that only reads. Its key expires after two seconds."""


class RedisStore:
    """Counts in Redis, by one script for all buckets of a request, on the clock of Redis.

    Buckets of several requests in one call are read and written once.

    Requests that come while a call is under way share the next one: a call costs this process several times
    what a bucket more in it does. What a request waits is bounded by `timeout_seconds` and its
    own budget, how many may wait by `max_waiting`. Whatever fails is a StoreError; `breaker` spares a
    Redis that is away, and the callers the wait. It opens on evidence of Redis alone: an answer that is late
    because this event loop was late is used, and does not count as a failure. While the breaker is open the
    store finds out by itself when Redis is back, so that its state is right without traffic.

    Requests for which `group_of` returns different values never share a call (a script's keys must lie in one
    slot of a Redis Cluster); the calls of one batch begin in the same turn of the event loop. `probe` is what
    the store asks while the breaker is open; `asking` is for slots on their way to a node (`ScriptLink`).

    `refused` is called with what Redis said each time that it says no.

    `client` stays the caller's to close; it needs timeouts of its own, and should not retry: a script that
    is sent again after a lost answer counts twice.
    """

    def __init__(
        self,
        client: Redis,
        breaker: CircuitBreaker,
        *,
        prefix: str = "ratelimit:",
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_waiting: int = MAX_WAITING,
        refused: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        group_of: Callable[[Sequence[Take]], Hashable] | None = None,
        probe: Take = PROBE,
        asking: bool = False,
    ) -> None:
        self.breaker = breaker
        self.failures = dict.fromkeys(Failure, 0)
        """Requests without an answer, by reason."""
        self._link = ScriptLink(client, gathers=group_of is not None, asking=asking)
        self._probe = probe
        self._prefix = prefix
        self._timeout_seconds = timeout_seconds
        self._max_waiting = max_waiting
        self._script = script_text()
        self._script_sha = sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._waiting: deque[Waiting] = deque()
        self._timed: deque[Waiting] = deque()
        """Requests that `_timer` will end, in order of their time."""
        self._timer: asyncio.TimerHandle | None = None
        self._sent = 0
        """Calls under way without a task."""
        self._calls: set[asyncio.Task[None]] = set()
        """Those that a task waits for: where a connection is opened, or something failed."""
        self._probing: asyncio.Task[None] | None = None
        self._refused = refused
        self._clock = clock
        self._group_of = group_of
        self._late_at = -inf
        """When the event loop was last seen to be late, by `clock`."""
        self._call_begins = False
        self._closed = False

    @property
    def waiting(self) -> int:
        """Requests not sent to Redis yet."""
        return len(self._waiting)

    def take(self, takes: Sequence[Take], budget_seconds: float | None = None, /) -> Awaitable[list[Taken]]:
        """The outcome of each of `takes`. Raises StoreError, at once where waiting is useless."""
        return raising(self.take_then(takes, budget_seconds, lambda outcome: outcome))

    def take_then(
        self,
        takes: Sequence[Take],
        budget_seconds: float | None,
        finish: Callable[[list[Taken] | StoreError], Result],
    ) -> asyncio.Future[Result]:
        """What `finish` makes of the outcome of each of `takes`, or of why there is none.

        As `take`, but without a task: `finish` is called as soon as Redis has answered. Raises StoreError at
        once where waiting is useless.
        """
        seconds = self._timeout_seconds
        if budget_seconds is not None:
            if budget_seconds <= 0:
                raise self._failed(Failure.NO_TIME)
            seconds = min(seconds, budget_seconds)
        if self.breaker.blocks:
            raise self._failed(Failure.BREAKER_OPEN)
        if len(self._waiting) >= self._max_waiting:
            raise self._failed(Failure.BUSY)
        loop = asyncio.get_running_loop()
        due = self._clock() + seconds
        waiting = Waiting(takes, Answer(loop.create_future(), finish, self.failures), due)
        self._waiting.append(waiting)
        if seconds < self._timeout_seconds:
            loop.call_later(seconds, self._expire, waiting)
        else:
            timed = self._timed
            while timed and timed[0].answer.future.done():
                timed.popleft()
            timed.append(waiting)
            if self._timer is None:
                self._timer = loop.call_later(seconds, self._expire_some)
        if not self._call_begins and self._sent + len(self._calls) < MAX_CALLS:
            self._call_begins = True
            loop.call_soon(self._begin_call)
        return waiting.answer.future

    async def close(self) -> None:
        """End the calls under way; their callers get StoreError."""
        self._closed = True
        tasks = self._calls if self._probing is None else {*self._calls, self._probing}
        for task in tasks:
            task.cancel()
        if tasks:
            # Bounded: a cancellation may get lost in a client that is just setting a timeout of its own.
            await asyncio.wait(tasks, timeout=self._timeout_seconds)
        refuse(self._drain(), Failure.UNREACHABLE, "closing")
        await self._link.close()

    def _expire_some(self) -> None:
        """End the waits that are over. One timer serves all requests with the same time to wait."""
        self._timer = None
        timed, now = self._timed, self._clock()
        while timed and (timed[0].answer.done() or timed[0].due <= now):
            waiting = timed.popleft()
            if not waiting.answer.done():
                self._expire(waiting)
        if timed:
            left = max(TIMER_SECONDS, timed[0].due - now)
            self._timer = asyncio.get_running_loop().call_later(left, self._expire_some)

    def _expire(self, waiting: Waiting) -> None:
        """End the wait. If the event loop was late itself, the answer may have come: give time to read it."""
        now = self._clock()
        if now - waiting.due > LATE_SECONDS:
            self._late_at = now
            asyncio.get_running_loop().call_later(GRACE_SECONDS, refuse, [waiting], Failure.TIMEOUT)
        else:
            refuse([waiting], Failure.TIMEOUT)

    def _failed(self, failure: Failure) -> StoreError:
        self.failures[failure] += 1
        return StoreError(failure)

    def _begin_call(self) -> None:
        """Ask Redis about the requests that wait: with a task only if there is no connection yet."""
        self._call_begins = False
        one_call = self._group_of is None and self.breaker.state is CircuitState.CLOSED
        link = self._link.ready() if one_call else None
        if link is None:
            self._spawn(self._call_while_some_wait())
        elif batch := self._next_batch():
            self._send(link, batch)

    def _send(self, link: Link, batch: list[Waiting]) -> None:
        """Ask Redis about `batch` now. Its outcomes are handed out in the turn in which they come."""
        begun = self._clock()
        self._sent += 1

        def settle(answer: Any) -> None:
            self._sent -= 1
            if not isinstance(answer, Exception):
                try:
                    deliver(answer)
                except Exception as error:
                    answer = error
            if isinstance(answer, Exception):
                self._try_again(batch, Failed(link, begun, answer))
                return
            late = self._lateness(begun)
            if late is None:
                self.breaker.succeeded()
            else:
                self._failed_call(late)
            if self._waiting and not self._call_begins:
                self._call_begins = True  # in the next turn: until then, more requests gather
                asyncio.get_running_loop().call_soon(self._begin_call)

        try:
            command, deliver = self._command(batch, begun)
            link.send(command, settle)
        except Exception as error:
            settle(error)

    def _try_again(self, batch: list[Waiting], failed: Failed) -> None:
        if self._closed:
            refuse(batch, Failure.UNREACHABLE, "closing")
        else:
            self._spawn(self._call_while_some_wait(batch, failed))

    def _spawn(self, call: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call_while_some_wait(
        self, batch: list[Waiting] | None = None, failed: Failed | None = None
    ) -> None:
        """Ask about `batch`, whose first attempt has failed, and then about those that wait."""
        if batch is not None:
            self._report([await self._attempt(batch, failed)])
        while self._waiting:
            if self._closed or not self.breaker.allows():
                refuse(self._drain(), Failure.UNREACHABLE if self._closed else Failure.BREAKER_OPEN)
            elif batch := self._next_batch():
                await self._call(batch)

    async def _call(self, batch: list[Waiting]) -> None:
        """Ask Redis about `batch`, and tell the breaker whether it answered."""
        groups = [batch] if self._group_of is None else grouped(batch, self._group_of)
        if len(groups) == 1:
            failures = [await self._attempt(batch)]
        else:
            failures = await asyncio.gather(*map(self._attempt, groups))
        self._report(failures)

    def _report(self, failures: Sequence[StoreError | None]) -> None:
        """Tell the breaker whether Redis answered one of several calls, by why each failed."""
        failed = [failure for failure in failures if failure is not None]
        if len(failed) < len(failures):
            self.breaker.succeeded()
        else:
            self._failed_call(failed[0])

    async def _attempt(self, batch: list[Waiting], failed: Failed | None = None) -> StoreError | None:
        """Hand out the outcomes of `batch`. Returns why Redis did not answer in time, None if it did."""
        begun = self._clock() if failed is None else failed.begun
        try:
            if self._link.has_time_limit:
                await self._run(batch, begun, failed)
            else:
                async with asyncio.timeout(CALL_SECONDS):
                    await self._run(batch, begun, failed)
        except (TimeoutError, RedisTimeoutError) as error:
            return refuse(batch, Failure.TIMEOUT, error_text(error))
        except RedisError as error:
            if self._group_of is not None and isinstance(error, AskError | TryAgainError):
                hand_out(batch, [redirect_in(error) for _ in batch])
                return None
            if answer_in(error) is None:
                return refuse(batch, Failure.UNREACHABLE, error_text(error))
            return await self._answered_no(batch, error_text(error))
        except OSError as error:
            return refuse(batch, Failure.UNREACHABLE, error_text(error))
        except BaseException as error:
            refuse(batch, Failure.UNREACHABLE, error_text(error))
            raise
        return self._lateness(begun)

    def _lateness(self, begun: float) -> StoreError | None:
        """Return the failure of a call that was answered too late for its caller; None if it was not.

        It says nothing about Redis if the event loop was late.
        """
        seconds = self._clock() - begun
        if seconds > self._timeout_seconds and self._late_at < begun:
            return StoreError(Failure.TIMEOUT, f"answered after {seconds * 1000:.0f} ms")
        return None

    async def _answered_no(self, batch: list[Waiting], detail: str) -> StoreError | None:
        """Redis refused a whole call, and has charged nothing: the script reads all before it writes."""
        self._refused(detail)
        position = unreadable_key(detail)
        if position is None:
            return refuse(batch, Failure.REFUSED, detail)
        # One request must not fail for the key of another, nor all of them for that of one.
        refused, others = split(batch, position)
        refuse(refused, Failure.REFUSED, detail)
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
            future = asyncio.get_running_loop().create_future()
            answer = Answer(future, lambda outcome: outcome, dict.fromkeys(Failure, 0))
            await self._call([Waiting([self._probe], answer, inf)])

    def _drain(self) -> list[Waiting]:
        drained = list(self._waiting)
        self._waiting.clear()
        return drained

    def _next_batch(self) -> list[Waiting]:
        """Whole requests up to MAX_KEYS_PER_CALL buckets, at least one; without those that gave up."""
        batch: list[Waiting] = []
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

    def _command(self, batch: Sequence[Waiting], begun: float) -> tuple[tuple[Any, ...], Deliver]:
        """Return the call about `batch`, and what hands out the outcomes by its answer."""
        buckets = {take.key: take.bucket for waiting in batch for take in waiting.takes}
        keys = [self._prefix + key for key in buckets]
        arguments = encode_takes([waiting.takes for waiting in batch], list(buckets))

        def deliver(answer: Any) -> None:
            now = self._clock()
            if now - begun > self._timeout_seconds and overdue(batch, now, LATE_SECONDS):
                self._late_at = now
            hand_out(batch, outcomes(batch, buckets, answer))

        return ("EVALSHA", self._script_sha, len(keys), *keys, arguments), deliver

    async def _run(self, batch: Sequence[Waiting], begun: float, failed: Failed | None) -> None:
        """Hand out the outcomes of each request of `batch`, in the turn in which Redis answers."""
        command, deliver = self._command(batch, begun)
        try:
            if failed is None:
                await self._link.evalsha(*command[1:], deliver=deliver)
            elif isinstance(failed.error, RedisError):
                await self._link.after(failed.link, command, deliver, failed.error)
            else:
                raise failed.error
        except NoScriptError:
            # Redis was restarted or failed over. EVAL runs the script and makes it known in one call.
            await self._link.eval(self._script, *command[2:], deliver=deliver)
