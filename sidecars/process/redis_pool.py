"""The pool of the Redis clients: fails at once while Redis is away, and follows a master that moves."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from common.redis_cluster import NodeAddress
from common.redis_errors import answer_in, error_text

Answer = TypeVar("Answer")


class Route(Protocol):
    """Leads connections to a server whose address can change."""

    async def address(self) -> NodeAddress:
        """The address to connect to. Raises RedisError if it is unknown."""

    def suspect(self) -> None:
        """Doubt the address, and find it again when asked: the server there fails or is not the master."""

    async def close(self) -> None:
        """Close what the route opened."""


class RoutedConnection(Connection):
    """Connects to the address that its route knows at that moment."""

    def __init__(self, *, route: Route, **options: Any) -> None:
        super().__init__(**options)
        self.route = route

    async def _connect(self) -> None:
        self.host, self.port = await self.route.address()
        await super()._connect()  # type: ignore[no-untyped-call]


class RoutedTlsConnection(SSLConnection):
    """A TLS connection to the server that a route names; its certificate must have that name or address."""

    def __init__(self, *, route: Route, **options: Any) -> None:
        super().__init__(**options)
        self.route = route

    async def _connect(self) -> None:
        self.host, self.port = await self.route.address()
        await super()._connect()  # type: ignore[no-untyped-call]


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
    route: Route | None = None
    """What leads the connections, if their address can change."""
    _wait_seconds = 0.01
    _min_seconds = 0.05
    _max_seconds = 2.0
    _closed_until = 0.0
    _answer: Exception | None = None
    _clock: Callable[[], float] = staticmethod(time.monotonic)
    _address: NodeAddress | None = None
    """Where connections must lead, for a pool that follows a master."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.refusals = RedisRefusals()
        self._free = asyncio.Semaphore(self.max_connections)

    def wait_at_most(self, seconds: float) -> None:
        """Set how long a command waits for a connection while all are in use."""
        self._wait_seconds = seconds

    async def follow(self, address: NodeAddress, seconds: float) -> None:
        """Connect to `address` from now on: the master moved there.

        Connections to another server are closed: idle ones at once, those in use when the commands on them
        have ended, after `seconds` at the latest. (redis-py goes on writing to a master that was replaced,
        and loses what it says.)
        """
        self._address = address
        self._closed_until = 0.0
        await _close_others(self._available_connections, address)
        for connection in self._in_use_connections:
            if _leads_elsewhere(connection, address):
                connection.mark_for_reconnect()  # type: ignore[no-untyped-call]
        await asyncio.sleep(seconds)
        if self._address == address:
            await _close_others(self._in_use_connections, address)

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
        if self._address is not None and _leads_elsewhere(connection, self._address):
            await connection.disconnect(nowait=True)
        if not connection.is_connected and self._clock() < self._closed_until:
            what = "Redis refuses connections" if self.refused_connection else "Redis is away"
            raise RedisConnectionError(f"{what}, next attempt soon: {self.last_error}") from self._answer
        try:
            await self._open(connection)
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

    async def _open(self, connection: AbstractConnection) -> None:
        """Connect; if that fails and the master is elsewhere by now, connect there."""
        try:
            await super().ensure_connection(connection)
        except RedisError:
            if not isinstance(connection, RoutedConnection | RoutedTlsConnection):
                raise
            failed = connection.host, connection.port
            connection.route.suspect()
            if await connection.route.address() == failed:
                raise
            await super().ensure_connection(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        """Close the connections, and the route when all are closed."""
        await super().disconnect(inuse_connections)
        if inuse_connections and self.route is not None:
            await self.route.close()

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
    (redis-py sees to it for Sentinel alone). With a `route`, a command that a replica refused, or a node of a
    cluster that does not have its slot, is sent once more, to the server that the route then leads to: it
    has changed nothing.
    """

    def __init__(self, refusals: RedisRefusals, route: Route | None = None) -> None:
        super().__init__(NoBackoff(), 0)
        self._refusals = refusals
        self._route = route

    def __deepcopy__(self, _memo: dict[int, Any]) -> "NoRetry":
        # Each connection copies its Retry, and the route must stay the one that knows the address.
        return self

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
            if self._route is not None and (_is_readonly_error(error) or isinstance(error, MovedError)):
                self._route.suspect()
                await (fail(error, 1) if with_failure_count else fail(error))
                return await do()
            # A script that Redis does not know (yet) is sent next, and a redirect is followed.
            if isinstance(error, ResponseError) and not isinstance(
                error, NoScriptError | AskError | TryAgainError
            ):
                self._refusals.note(error)
            lost = isinstance(error, self._supported_errors) and (is_retryable is None or is_retryable(error))
            if lost or _is_readonly_error(error):
                await (fail(error, 1) if with_failure_count else fail(error))
            raise
        if self._refusals.lasting:
            self._refusals.lasting = False
        return answer


def _is_readonly_error(error: Exception) -> bool:
    # A script's error has its own code, with the error of its command in the text.
    return isinstance(error, ReadOnlyError) or (
        isinstance(error, ResponseError) and "-READONLY" in str(error)
    )


def _leads_elsewhere(connection: AbstractConnection, address: NodeAddress) -> bool:
    found = getattr(connection, "host", None), getattr(connection, "port", None)
    return connection.is_connected and found != address


async def _close_others(connections: Iterable[AbstractConnection], address: NodeAddress) -> None:
    for connection in list(connections):
        if _leads_elsewhere(connection, address):
            await connection.disconnect(nowait=True)
