"""The shared Redis client against a real Redis that starts, stops and hangs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from common.redis_errors import answer_in
from sidecars.process.redis import connect, describe
from sidecars.settings.redis import RedisSettings
from tests.support.redis_server import Pair, RedisServer, redis_pair

__all__ = ["redis_pair"]

pytestmark = pytest.mark.redis

PATIENT = {"operation_timeout_ms": 5000, "connect_timeout_ms": 5000}
"""For a loaded machine; the tests of short timeouts set their own."""


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(redis_server: RedisServer, clock: Clock) -> AsyncIterator[Redis]:
    client = connect(RedisSettings(url=redis_server.url, **PATIENT), clock)
    yield client
    await client.aclose()


async def test_connect_opens_nothing_and_never_raises() -> None:
    client = connect(RedisSettings(url="redis://192.0.2.1:1/0"))
    assert describe(client)["state"] == "no connection"
    await client.aclose()


async def test_commands_work_over_a_unix_socket(client: Redis) -> None:
    await client.set("a", "1")
    assert await client.get("a") == b"1"
    assert describe(client)["state"] == "connected"


async def test_commands_work_over_tcp() -> None:
    with RedisServer(tcp=True) as server:
        client = connect(RedisSettings(url=server.url, **PATIENT))
        assert await client.ping()
        await client.aclose()


async def test_the_database_of_the_url_is_used(redis_server: RedisServer) -> None:
    client = connect(RedisSettings(url=f"unix://{redis_server.socket}?db=3", **PATIENT))
    await client.set("a", "1")
    with redis_server.client() as other:
        assert other.get("a") is None
        other.select(3)
        assert other.get("a") == b"1"
    await client.aclose()


async def test_while_redis_is_away_calls_fail_at_once_until_the_backoff_is_over(
    client: Redis, clock: Clock, redis_server: RedisServer
) -> None:
    redis_server.stop()
    for _ in range(3):
        with pytest.raises(RedisError):
            await client.ping()
    assert describe(client)["state"] == "away"
    assert describe(client)["failed_connections_in_a_row"] == 1  # the others were not tried
    redis_server.start()
    with pytest.raises(RedisError, match="Redis is away"):
        await client.ping()
    clock.seconds += 0.05
    assert await client.ping()
    assert describe(client) == {
        "state": "connected",
        "failed_connections_in_a_row": 0,
        "last_error": None,
        "refused": 0,
        "last_refusal": None,
    }


async def test_the_backoff_doubles_up_to_its_maximum(clock: Clock, redis_server: RedisServer) -> None:
    client = connect(RedisSettings(url=redis_server.url, backoff_max_ms=2000, **PATIENT), clock)
    redis_server.stop()
    waited = []
    for pause in (0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        clock.seconds += pause
        with pytest.raises(RedisError):
            await client.ping()
        waited.append(describe(client)["failed_connections_in_a_row"])
        clock.seconds -= 0.001
        with pytest.raises(RedisError, match="Redis is away"):
            await client.ping()
        clock.seconds += 0.001
    assert waited == list(range(1, 10))
    await client.aclose()


async def test_a_redis_that_stands_still_costs_the_operation_timeout_and_recovers(
    redis_server: RedisServer, clock: Clock
) -> None:
    client = connect(RedisSettings(url=redis_server.url, operation_timeout_ms=50), clock)
    assert await client.ping()
    redis_server.pause()
    with pytest.raises(RedisTimeoutError):
        await client.ping()
    with pytest.raises(RedisError):
        await client.ping()
    assert describe(client)["state"] == "away"
    redis_server.resume()
    clock.seconds += 10
    assert await client.ping()
    await client.aclose()


async def test_a_redis_that_says_no_is_not_away(client: Redis, redis_server: RedisServer) -> None:
    with redis_server.client() as admin:
        admin.config_set("min-replicas-to-write", 1)
        with pytest.raises(ResponseError):
            await client.set("a", "1")
        result = describe(client)
        assert (result["state"], result["refused"], result["failed_connections_in_a_row"]) == (
            "refuses",
            1,
            0,
        )
        assert result["last_refusal"].startswith("NOREPLICAS ")
        admin.config_set("min-replicas-to-write", 0)
    await client.set("a", "1")
    assert describe(client)["state"] == "connected"
    assert describe(client)["last_refusal"].startswith("NOREPLICAS ")


async def test_a_script_that_redis_has_yet_to_learn_is_not_a_refusal(client: Redis) -> None:
    with pytest.raises(ResponseError):
        await client.evalsha("0" * 40, 0)
    assert describe(client)["refused"] == 0


async def test_a_login_that_is_refused_is_reported_in_the_words_of_redis(
    redis_server: RedisServer, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("wrong")
    with redis_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "sidecars", "on", ">right", "~*", "+@all")
    settings = RedisSettings(
        url=redis_server.url, username="sidecars", password_file=tmp_path / "password", **PATIENT
    )
    client = connect(settings, clock)
    for expected in (
        "invalid username-password pair",
        "Redis refuses connections, next attempt soon: WRONGPASS",
    ):
        with pytest.raises(RedisError, match=expected) as caught:
            await client.ping()
        assert answer_in(caught.value) is not None
    assert describe(client)["state"] == "refuses connections"
    (tmp_path / "password").write_text("right")
    clock.seconds += 10
    assert await client.ping()
    assert describe(client)["state"] == "connected"
    await client.aclose()


async def test_a_command_whose_reply_is_late_is_not_sent_again(redis_server: RedisServer) -> None:
    """A rate-limit script sent twice would count its hits twice."""
    client = connect(RedisSettings(url=redis_server.url, operation_timeout_ms=50))
    slow = "redis.call('incr', 'n'); local i = 0; while i < 3e7 do i = i + 1 end; return 1"
    await client.ping()
    with pytest.raises(RedisTimeoutError):
        await client.eval(slow, 0)
    await client.aclose()
    with redis_server.client() as other:
        assert other.get("n") == b"1"


async def test_a_command_waits_for_a_free_connection(redis_server: RedisServer) -> None:
    client = connect(RedisSettings(url=redis_server.url, max_connections=4, **PATIENT))
    assert sorted(await asyncio.gather(*(client.incr("n") for _ in range(50)))) == list(range(1, 51))
    with redis_server.client() as other:
        assert int(other.info("clients")["connected_clients"]) <= 5
    await client.aclose()


async def test_a_command_waits_no_longer_than_the_operation_timeout(redis_server: RedisServer) -> None:
    client = connect(RedisSettings(url=redis_server.url, max_connections=4, operation_timeout_ms=50))
    pool: Any = client.connection_pool
    held = [await pool.get_connection() for _ in range(4)]
    with pytest.raises(RedisError, match=r"all 4 connections were in use for 0\.05 s"):
        await client.ping()
    for connection in held:
        await pool.release(connection)
    assert await client.ping()
    await client.aclose()


async def test_commands_that_are_given_up_leave_their_connections_to_others(
    redis_server: RedisServer,
) -> None:
    client = connect(RedisSettings(url=redis_server.url, max_connections=4, **PATIENT))
    for turns in range(4):
        commands = [asyncio.ensure_future(client.get("a")) for _ in range(6)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for command in commands:
            command.cancel()
        await asyncio.gather(*commands, return_exceptions=True)
    assert sorted(await asyncio.gather(*(client.incr("n") for _ in range(6)))) == [1, 2, 3, 4, 5, 6]
    await client.aclose()


async def _set(client: Redis) -> None:
    await client.set("a", "1")


async def _script(client: Redis) -> None:
    await client.eval("return redis.call('SET', KEYS[1], '1')", 1, "a")


async def _pipeline(client: Redis) -> None:
    async with client.pipeline(transaction=True) as pipe:
        pipe.set("a", "1")
        await pipe.execute()


@pytest.mark.parametrize("write", [_set, _script, _pipeline])
async def test_after_one_refused_write_a_demoted_master_is_left_for_the_new_one(
    redis_pair: Pair, write: Callable[[Redis], Awaitable[None]]
) -> None:
    """A planned failover closes no connection: held on to, the old master would refuse every write."""
    client = connect(RedisSettings(url=redis_pair.url, **PATIENT))
    await write(client)
    redis_pair.fail_over()
    with pytest.raises(ResponseError, match=r"READONLY|read only"):
        await write(client)
    await write(client)
    await client.aclose()


async def test_a_rotated_password_is_read_at_the_next_connection(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("first\n")
    with RedisServer() as server, server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "sidecars", "on", ">first", "~*", "+@all")
        settings = RedisSettings(url=server.url, username="sidecars", password_file=password, **PATIENT)
        clock = Clock()
        client = connect(settings, clock)
        assert await client.acl_whoami() == "sidecars"
        admin.execute_command("ACL", "SETUSER", "sidecars", "resetpass", ">second")
        await client.connection_pool.disconnect()
        with pytest.raises(RedisError, match="invalid username-password pair"):
            await client.ping()
        password.write_text("second\n")
        clock.seconds += 10
        assert await client.ping()
        await client.aclose()


async def test_a_connection_given_up_before_its_login_is_not_handed_on(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """It would stay forever: another user's, in database 0."""
    password = tmp_path / "password"
    password.write_text("first")
    with redis_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "sidecars", "on", ">first", "~*", "+@all")
    settings = RedisSettings(
        url=f"unix://{redis_server.socket}?db=3", username="sidecars", password_file=password, **PATIENT
    )
    for turns in range(12):
        client = connect(settings)
        command = asyncio.ensure_future(client.ping())
        for _ in range(turns):
            await asyncio.sleep(0)
        command.cancel()
        await asyncio.gather(command, return_exceptions=True)
        seen = await client.client_info()
        assert (seen["user"], seen["db"]) == ("sidecars", 3), f"after {turns} turns of the loop"
        await client.aclose()


async def test_a_password_file_that_is_gone_is_a_redis_error(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    client = connect(RedisSettings(url=redis_server.url, password_file=tmp_path / "none", **PATIENT))
    with pytest.raises(RedisError, match=r"password_file .* cannot be read"):
        await client.ping()
    await client.aclose()


async def test_rediss_verifies_the_server_with_the_given_files(tmp_path: Path) -> None:
    client = connect(
        RedisSettings(
            url="rediss://r:1/0", ca_file=tmp_path / "ca", cert_file=tmp_path / "c", key_file=tmp_path / "k"
        )
    )
    pool: Any = client.connection_pool
    connection = pool.make_connection()
    assert isinstance(connection, SSLConnection)
    assert connection.ca_certs == str(tmp_path / "ca")
    assert connection.certfile == str(tmp_path / "c")
    assert connection.check_hostname
    await client.aclose()
