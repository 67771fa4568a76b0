"""The Redis client the sidecars share: short timeouts, no retries, fails at once while Redis is away."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from common.os_errors import in_words
from common.redis_errors import answer_in, error_text
from sidecars.settings.redis import RedisSettings

Answer = TypeVar("Answer")


def connect(settings: RedisSettings, clock: Callable[[], float] = time.monotonic) -> Redis:
    """A client for the Redis of `settings`. Opens nothing: its first command does, and may raise RedisError.

    A command ends within the timeouts of `settings`. It is sent once: sent again after a lost reply, a
    rate-limit script would count its hits twice. `clock` counts seconds.
    """
    refusals = RedisRefusals()
    options: dict[str, Any] = {
        "max_connections": settings.max_connections,
        "socket_timeout": settings.operation_timeout_ms / 1000,
        "socket_connect_timeout": settings.connect_timeout_ms / 1000,
        "health_check_interval": settings.health_check_seconds,
        "retry": NoRetry(refusals),
        # RESP3 would cost a HELLO and a subscription in each handshake; nothing here needs it.
        "protocol": 2,
        # CLIENT SETINFO: two commands in each handshake, which Redis before 7.2 and a strict ACL refuse.
        "driver_info": None,
        "redis_connect_func": _greet,
    }
    if settings.password_file is not None:
        options["credential_provider"] = PasswordFile(settings.username, settings.password_file)
    if urlsplit(settings.url).scheme == "rediss":
        options |= {
            "ssl_ca_certs": _text(settings.ca_file),
            "ssl_certfile": _text(settings.cert_file),
            "ssl_keyfile": _text(settings.key_file),
            # Python 3.13 and later verify like this by default: each Python accepts and refuses the same.
            "ssl_include_verify_flags": [ssl.VERIFY_X509_STRICT, ssl.VERIFY_X509_PARTIAL_CHAIN],
        }
    pool = FailFastPool.from_url(settings.url, **options)
    pool.refusals = refusals
    pool.wait_at_most(settings.operation_timeout_ms / 1000)
    pool.back_off(settings.backoff_min_ms / 1000, settings.backoff_max_ms / 1000, clock)
    return Redis.from_pool(pool)


async def _greet(connection: AbstractConnection) -> None:
    """Log in and wait for a reply: the kernel accepts connections even for a process that hangs."""
    await connection.on_connect()
    await connection.send_command("PING", check_health=False)
    with suppress(NoPermissionError):  # a refusal is an answer, too
        await connection.read_response()


def describe(client: Redis) -> dict[str, Any]:
    """What `/config` shows of `client`: connections, and why Redis is away or refuses."""
    pool = client.connection_pool
    if not isinstance(pool, FailFastPool):
        return {}
    return {
        "state": _state(pool),
        "failed_connections_in_a_row": pool.failures,
        "last_error": pool.last_error,
        "refused": pool.refusals.times,
        "last_refusal": pool.refusals.last,
    }


def _state(pool: "FailFastPool") -> str:
    if pool.failures:
        return "refuses connections" if pool.refused_connection else "away"
    if pool.refusals.lasting:
        return "refuses"
    return "connected" if pool.connected else "no connection"


class RedisRefusals:
    """The errors that Redis answered, over all connections of a pool."""

    __slots__ = ("last", "lasting", "times")

    def __init__(self) -> None:
        self.times = 0
        self.last: str | None = None
        """The latest error, in the words of Redis."""
        self.lasting = False
        """Whether the latest command was refused."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> "RedisRefusals":
        # Each connection copies its Retry; the copies share what they record.
        return self

    def note(self, error: Exception) -> None:
        """Record an error that Redis answered."""
        self.times += 1
        self.last = error_text(error)
        self.lasting = True


class FailFastPool(ConnectionPool):
    """A bounded pool that, after a failed connection, refuses new ones at once until the backoff is over.

    Without it every call would wait out its own connection timeout while Redis is away: the suite would be
    slow just when it is to follow its failure setting. (Subclassing is how redis-py takes a pool.)

    redis-py's own bounded pool takes a lock, a condition, a timer and five calls for its own metrics to
    hand a connection out and back: a third of the time of a GET on a unix socket. This one takes a
    semaphore, and a timer only where it has to wait.
    """

    failures = 0
    last_error: str | None = None
    lost = 0
    """Connections that failed or could not be opened, so far."""
    refused_connection = False
    """Whether Redis refused the last attempt."""
    refusals: RedisRefusals
    _wait_seconds = 0.01
    _min_seconds = 0.05
    _max_seconds = 2.0
    _closed_until = 0.0
    _answer: Exception | None = None
    _clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.refusals = RedisRefusals()
        self._free = asyncio.Semaphore(self.max_connections)

    def wait_at_most(self, seconds: float) -> None:
        """Set how long a command waits for a connection while all are in use."""
        self._wait_seconds = seconds

    def back_off(self, min_seconds: float, max_seconds: float, clock: Callable[[], float]) -> None:
        """Set the first and the longest pause between attempts, on `clock`."""
        self._min_seconds, self._max_seconds, self._clock = min_seconds, max_seconds, clock

    @property
    def connected(self) -> bool:
        """Whether any connection of the pool is open."""
        connections = (*self._available_connections, *self._in_use_connections)
        return any(connection.is_connected for connection in connections)

    async def get_connection(self, *_: object, **__: object) -> AbstractConnection:
        """A connection that is open. Raises RedisError, at the latest after the wait and the connecting."""
        if self._free.locked():
            await self._wait_for_a_free_one()
        else:
            await self._free.acquire()
        try:
            connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
        except BaseException:
            self._free.release()
            raise
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Take `connection` back, for a caller that waits."""
        # Whether it is to reconnect is not asked: only RESP3's notices of maintenance would say so.
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)
        self._free.release()

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """As in the pool below, but raises ConnectionError at once while the backoff lasts."""
        if not connection.is_connected and self._clock() < self._closed_until:
            what = "Redis refuses connections" if self.refused_connection else "Redis is away"
            raise RedisConnectionError(f"{what}, next attempt soon: {self.last_error}") from self._answer
        try:
            await super().ensure_connection(connection)
        except RedisError as error:
            self.failures += 1
            self.lost += 1
            pause = min(self._max_seconds, self._min_seconds * 2 ** min(self.failures - 1, 16))
            self._closed_until = self._clock() + pause
            self.last_error = error_text(error)
            answer = answer_in(error)
            self.refused_connection = answer is not None
            # Without its traceback, which would hold on to the call that failed.
            self._answer = None if answer is None else answer.with_traceback(None)
            raise
        except BaseException:
            # Cancelled while the password was read, the connection is open, but neither logged in nor in its
            # database. redis-py closes it only after a RedisError, and would not log in later.
            await connection.disconnect(nowait=True)
            raise
        if self.failures:
            self.failures = 0
            self.last_error = self._answer = None
            self.refused_connection = False

    async def _wait_for_a_free_one(self) -> None:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._free.acquire()
        except TimeoutError:
            raise RedisConnectionError(
                f"all {self.max_connections} connections were in use for {self._wait_seconds:g} s"
            ) from None


class NoRetry(Retry):
    """Sends a command once. Closes the connection if it failed or leads to a replica.

    A master that was demoted keeps its connections, and would refuse every write for as long as we do
    (redis-py sees to it for Sentinel alone).
    """

    def __init__(self, refusals: RedisRefusals) -> None:
        super().__init__(NoBackoff(), 0)
        self._refusals = refusals

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[Answer]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,  # noqa: FBT001, FBT002 - redis-py's signature
    ) -> Answer:
        """The answer of `do`. Raises what it raises."""
        try:
            answer = await do()
        except Exception as error:
            # A script that Redis does not know (yet) is sent next; that does not count as a refusal.
            if isinstance(error, ResponseError) and not isinstance(error, NoScriptError):
                self._refusals.note(error)
            lost = isinstance(error, self._supported_errors) and (is_retryable is None or is_retryable(error))
            if lost or _is_readonly_error(error):
                await (fail(error, 1) if with_failure_count else fail(error))
            raise
        if self._refusals.lasting:
            self._refusals.lasting = False
        return answer


class PasswordFile(CredentialProvider):
    """Credentials from a file, read at each new connection: a rotated password needs no restart."""

    def __init__(self, username: str | None, path: Path) -> None:
        self._username = username
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """The password, or user name and password. Raises ConnectionError when the file cannot be read."""
        try:
            password = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            text = f"password_file {self._path} cannot be read: {in_words(error)}"
            raise RedisConnectionError(text) from None
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """As `get_credentials`, without blocking the loop."""
        return await asyncio.to_thread(self.get_credentials)


def _is_readonly_error(error: Exception) -> bool:
    # A script's error has its own code, with the error of its command in the text.
    return isinstance(error, ReadOnlyError) or (
        isinstance(error, ResponseError) and "-READONLY" in str(error)
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
