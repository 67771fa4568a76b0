"""What the Redis client uses of redis-py beyond its documentation. pyproject.toml pins the major version."""

import inspect

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sidecars.process.redis_pool import FailFastPool, NoRetry


async def test_a_pool_moves_connections_between_two_collections() -> None:
    """`FailFastPool.release` puts a connection back by itself."""
    pool = ConnectionPool.from_url("redis://127.0.0.1:1")
    assert (len(pool._available_connections), len(pool._in_use_connections)) == (0, 0)
    connection = pool.get_available_connection()  # type: ignore[no-untyped-call]
    assert connection in pool._in_use_connections
    assert not connection.is_connected
    pool._in_use_connections.remove(connection)
    pool._available_connections.append(connection)
    assert pool.get_available_connection() is connection  # type: ignore[no-untyped-call]
    assert not pool._available_connections


async def test_a_connection_that_was_released_is_used_again() -> None:
    pool = FailFastPool.from_url("redis://127.0.0.1:1")
    connection = pool.get_available_connection()  # type: ignore[no-untyped-call]
    await pool.release(connection)
    assert pool.get_available_connection() is connection  # type: ignore[no-untyped-call]


def test_a_pool_gives_and_takes_connections_by_methods_that_may_be_replaced() -> None:
    assert inspect.iscoroutinefunction(ConnectionPool.ensure_connection)
    assert list(inspect.signature(ConnectionPool.ensure_connection).parameters) == ["self", "connection"]
    assert list(inspect.signature(ConnectionPool.release).parameters)[:2] == ["self", "connection"]
    assert inspect.iscoroutinefunction(ConnectionPool.get_connection)


def test_a_retry_knows_the_errors_of_a_lost_connection() -> None:
    supported = Retry(NoBackoff(), 0)._supported_errors
    assert issubclass(RedisConnectionError, supported)
    assert issubclass(RedisTimeoutError, supported)


def test_a_retry_is_called_with_these_arguments() -> None:
    """A parameter that redis-py adds would reach `NoRetry` as an unexpected one."""
    theirs = inspect.signature(Retry.call_with_retry).parameters
    assert list(theirs) == list(inspect.signature(NoRetry.call_with_retry).parameters)


def test_a_connection_takes_what_the_greeting_needs() -> None:
    assert inspect.iscoroutinefunction(AbstractConnection.on_connect)
    assert inspect.iscoroutinefunction(AbstractConnection.read_response)
    assert "nowait" in inspect.signature(AbstractConnection.disconnect).parameters
