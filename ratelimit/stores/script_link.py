"""Runs scripts over one connection of a redis-py client that stays open, without the client's machinery.

For each command redis-py takes a connection from its pool, and two timers, a lock, a stream and a dozen
coroutines to write and to read: more than Redis and the sidecar need for the decision itself. Here redis-py
opens the connection (with its settings for TLS, credentials, time limits and reconnecting), and then its
protocol is replaced: commands are written as they come, and hiredis reads the replies in their order.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import hiredis
from redis._parsers import BaseParser
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

LATE_SECONDS: Final = 0.002
"""A timer that fires so much later shows that the event loop was busy, or the process was not running."""

GRACE_SECONDS: Final = 0.003
"""The time to read what has come since, if the event loop was late."""

TIMER_SECONDS: Final = 0.001
"""The shortest timer: an event loop that counts milliseconds would call it at once, again and again."""


Deliver = Callable[[Any], None]

Settle = Callable[[Any], None]
"""Gets the answer to a command, or a RedisError instead. Raises nothing."""


class ScriptLink:
    """Calls scripts in the Redis of `client`, which stays the caller's to close; its time limits hold.

    What fails is told to the connection's Retry, as redis-py does: it decides whether a command is sent
    again, and whether the connection is closed. With `gathers`, the commands of one turn of the event loop
    are one write: for a cluster, where calls that begin together cannot be one script call. With `asking`,
    each follows an ASKING: a node of a cluster then answers for a slot that is on its way to it.
    """

    def __init__(self, client: Redis, *, gathers: bool = False, asking: bool = False) -> None:
        self._client = client
        self._gathers = gathers
        self._asking = asking
        self._link: Link | None = None
        self._connects = asyncio.Lock()
        self._has_failed = False

    @property
    def has_time_limit(self) -> bool:
        """Whether it is connected, and gives up by itself when Redis does not answer."""
        return self._link is not None and self._link.is_usable and self._link.has_time_limit

    def ready(self) -> "Link | None":
        """Return the connection if `Link.send` can write to it now, and nothing has failed there.

        If a command that was sent so gets an error, `after` decides what follows.
        """
        link = self._link
        if link is None or self._has_failed or self._asking:
            return None
        return link if link.has_time_limit and link.is_usable else None

    async def after(
        self, link: "Link", command: tuple[Any, ...], deliver: Deliver | None, error: RedisError
    ) -> Any:
        """Raise `error`, or return the answer to another attempt, as the connection's Retry wants it."""
        self._has_failed = True
        errors = [error]

        async def attempt() -> Any:
            if errors:
                raise errors.pop()
            return await self._ask(await self._connect(), command, deliver)

        return await link.connection.retry.call_with_retry(attempt, link.fail)

    async def evalsha(
        self, sha: str, numkeys: int, *keys_and_arguments: Any, deliver: Deliver | None = None
    ) -> Any:
        """The answer of the script with this SHA-1. Raises RedisError, and what `deliver` raises.

        `deliver` is called with the answer as soon as it comes, a turn of the event loop earlier.
        """
        return await self._run(("EVALSHA", sha, numkeys, *keys_and_arguments), deliver)

    async def eval(
        self, script: str, numkeys: int, *keys_and_arguments: Any, deliver: Deliver | None = None
    ) -> Any:
        """The answer of `script`. As `evalsha`."""
        return await self._run(("EVAL", script, numkeys, *keys_and_arguments), deliver)

    async def close(self) -> None:
        """Give the connection back to the client, closed. A later call opens another."""
        async with self._connects:
            await self._give_back()

    async def _run(self, command: tuple[Any, ...], deliver: Deliver | None) -> Any:
        link = self._link
        if link is None or not link.is_usable:
            link = await self._connect()
        try:
            answer = await self._ask(link, command, deliver)
        except RedisError as error:
            return await self.after(link, command, deliver, error)
        if self._has_failed:
            self._has_failed = False
            await link.connection.retry.call_with_retry(lambda: _returned(answer), link.fail)
        return answer

    def _ask(self, link: "Link", command: tuple[Any, ...], deliver: Deliver | None) -> "asyncio.Future[Any]":
        if self._asking and link.is_open:
            link.send(("ASKING",), _drop)
        return link.ask(command, deliver)

    async def _connect(self) -> "Link":
        async with self._connects:
            if self._link is not None and self._link.is_usable:
                return self._link
            await self._give_back()
            pool: Any = self._client.connection_pool
            connection = await pool.get_connection()
            self._link = Link(connection, gathers=self._gathers)
            return self._link

    async def _give_back(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close("the connection is given back")
            pool: Any = self._client.connection_pool
            try:
                await link.connection.disconnect(nowait=True)
            finally:
                await pool.release(link.connection)


class Link(asyncio.Protocol):
    """A connection of redis-py with another protocol: commands go out at once, replies come in order.

    With `gathers`, commands go out at the end of a turn of the event loop.
    """

    def __init__(self, connection: Any, *, gathers: bool) -> None:
        self._gathers = gathers
        self._unwritten: list[bytes] = []
        self.connection = connection
        self._loop = asyncio.get_running_loop()
        # redis-py has no public way to the transport.
        self._transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001
        self._streams: Any = self._transport.get_protocol()
        self._transport.set_protocol(self)
        self._reader: Any = hiredis.Reader(protocolError=InvalidResponse, replyError=BaseParser.parse_error)
        self._waiting: deque[Settle] = deque()
        """Who gets the next answers."""
        self._sent: deque[float] = deque()
        """When the command of each in `_waiting` was written."""
        self._timeout_seconds: float | None = connection.socket_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._lost: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether commands may be written."""
        return self._lost is None and not self._transport.is_closing()

    @property
    def is_usable(self) -> bool:
        """Whether to ask over it: not once its server was replaced and all answers have come."""
        return self.is_open and (bool(self._waiting) or not self.connection.should_reconnect())

    @property
    def has_time_limit(self) -> bool:
        """Whether it closes when Redis does not answer in time."""
        return self._timeout_seconds is not None

    def ask(self, command: tuple[Any, ...], deliver: Deliver | None) -> "asyncio.Future[Any]":
        """Write `command`. The answer, which `deliver` gets first, raises RedisError."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        if not self.is_open:
            answer.set_exception(RedisConnectionError(self._lost or "the connection is closed"))
            return answer
        self.send(command, partial(_settle, answer, deliver))
        return answer

    def send(self, command: tuple[Any, ...], settle: Settle) -> None:
        """Write `command`, where the connection is open."""
        packed = hiredis.pack_command(command)
        if self._gathers:
            if not self._unwritten:
                self._loop.call_soon(self._write)
            self._unwritten.append(packed)
        else:
            self._transport.write(packed)
        self._waiting.append(settle)
        if self._timeout_seconds is not None:
            self._sent.append(self._loop.time())
            if self._timer is None:
                self._set_timer(self._timeout_seconds)

    def _write(self) -> None:
        packed, self._unwritten = self._unwritten, []
        if self.is_open:
            self._transport.write(b"".join(packed))

    def close(self, reason: str) -> None:
        """Close the connection; commands without an answer fail."""
        self._end(RedisConnectionError(reason))
        self._transport.close()

    async def fail(self, error: Exception, *_: object, **__: object) -> None:
        """Close the connection because of `error`, for a Retry."""
        self.close(str(error))

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are complete."""
        self._reader.feed(data)
        waiting, sent = self._waiting, self._sent
        try:
            while waiting and (reply := self._reader.gets()) is not False:
                settle = waiting.popleft()
                if sent:
                    sent.popleft()
                settle(reply)
        except InvalidResponse as error:
            self.close(f"Redis sent no reply of its protocol: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what has no answer."""
        self._end(RedisConnectionError(str(exc) if exc else "Redis closed the connection"))
        self._streams.connection_lost(exc)

    def _end(self, error: RedisError) -> None:
        if self._lost is None:
            self._lost = str(error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._sent.clear()
        waiting, self._waiting = self._waiting, deque()
        for settle in waiting:
            settle(type(error)(*error.args))

    def _set_timer(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._check, self._loop.time() + seconds)

    def _check(self, due: float) -> None:
        """Give up a connection whose oldest command has waited too long."""
        self._timer = None
        if not self._sent or self._timeout_seconds is None:
            return
        now = self._loop.time()
        left = self._sent[0] + self._timeout_seconds - now
        if left > 0:
            self._set_timer(max(left, TIMER_SECONDS))
        elif now - due > LATE_SECONDS:
            self._set_timer(GRACE_SECONDS)
        else:
            self._end(RedisTimeoutError("Redis did not answer in time"))
            self._transport.abort()


class Failed(NamedTuple):
    """A first attempt that failed."""

    link: Link
    """Where it was written."""
    begun: float
    """When, by the clock of the caller."""
    error: Exception


def _settle(answer: "asyncio.Future[Any]", deliver: Deliver | None, reply: Any) -> None:
    if answer.done():
        return
    if isinstance(reply, Exception):
        answer.set_exception(reply)
        return
    if deliver is not None:
        try:
            deliver(reply)
        except Exception as error:
            answer.set_exception(error)
            return
    answer.set_result(reply)


def _drop(_reply: Any) -> None:
    """Do nothing with a reply."""


async def _returned(answer: Any) -> Any:
    return answer
