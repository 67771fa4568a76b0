"""The open connection that scripts go over, against a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ratelimit.stores.script_link import ScriptLink
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = pytest.mark.redis

ECHO = "return ARGV[1]"


def client_of(url: str, seconds: float = 5.0) -> Redis:
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=seconds)


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with client_of(redis_server.url) as made:
        yield made


@pytest.fixture
async def link(client: Redis) -> AsyncIterator[ScriptLink]:
    made = ScriptLink(client)
    yield made
    await made.close()


async def connections(client: Redis) -> int:
    found: Any = await client.info("clients")
    return int(found["connected_clients"])


async def test_calls_at_the_same_time_get_their_own_answers_over_one_connection(
    client: Redis, link: ScriptLink
) -> None:
    await client.ping()
    before = await connections(client)
    answers = await asyncio.gather(*[link.eval(ECHO, 0, f"{number}") for number in range(100)])
    assert answers == [f"{number}".encode() for number in range(100)]
    assert await connections(client) == before + 1


async def test_an_error_that_redis_answers_is_that_of_redis_py_and_the_connection_stays(
    client: Redis, link: ScriptLink
) -> None:
    await link.eval(ECHO, 0, "a")
    before = await connections(client)
    with pytest.raises(NoScriptError):
        await link.evalsha("0" * 40, 0)
    with pytest.raises(ResponseError, match="no key"):
        await link.eval("return {err='ERR no key'}", 0)
    assert await link.eval(ECHO, 0, "b") == b"b"
    assert await connections(client) == before


async def test_a_call_whose_caller_has_gone_does_not_shift_the_answers(link: ScriptLink) -> None:
    await link.eval(ECHO, 0, "a")
    gone = asyncio.create_task(link.eval(ECHO, 0, "b"))
    await asyncio.sleep(0)
    gone.cancel()
    assert await link.eval(ECHO, 0, "c") == b"c"


async def test_a_connection_that_is_lost_fails_its_calls_and_the_next_call_opens_another(
    redis_server: RedisServer, link: ScriptLink
) -> None:
    await link.eval(ECHO, 0, "a")
    redis_server.pause()
    waiting = [asyncio.create_task(link.eval(ECHO, 0, "b")) for _ in range(3)]
    await asyncio.sleep(0)
    redis_server.stop()
    for one in waiting:
        with pytest.raises(RedisConnectionError):
            await one
    redis_server.start()
    assert await link.eval(ECHO, 0, "c") == b"c"


async def test_a_redis_that_is_silent_times_out_and_the_next_call_opens_another(
    redis_server: RedisServer,
) -> None:
    async with client_of(redis_server.url, seconds=0.2) as client:
        link = ScriptLink(client)
        await link.eval(ECHO, 0, "a")
        redis_server.pause()
        try:
            with pytest.raises(RedisTimeoutError):
                await link.eval(ECHO, 0, "b")
        finally:
            redis_server.resume()
        for _ in range(50):
            try:
                assert await link.eval(ECHO, 0, "c") == b"c"
                break
            except (RedisTimeoutError, RedisConnectionError):
                await asyncio.sleep(0.1)
        else:
            pytest.fail("Redis answers again, and the link does not")
        await link.close()


async def test_closed_it_gives_its_connection_back_and_opens_another_when_asked(
    client: Redis, link: ScriptLink
) -> None:
    await link.eval(ECHO, 0, "a")
    pool: Any = client.connection_pool
    assert len(pool._in_use_connections) == 1
    await link.close()
    assert not pool._in_use_connections
    assert await link.eval(ECHO, 0, "b") == b"b"


async def test_a_client_that_closes_ends_the_link(redis_server: RedisServer) -> None:
    client = client_of(redis_server.url)
    link = ScriptLink(client)
    await link.eval(ECHO, 0, "a")
    async with asyncio.timeout(5):
        await client.aclose()
        await link.close()


async def test_a_server_that_is_no_redis_closes_the_connection(tmp_path: Path) -> None:
    replies = iter([b"+PONG\r\n", b"HTTP/1.1 400\r\n"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(next(replies, b"HTTP/1.1 400\r\n"))
        writer.close()

    server = await asyncio.start_unix_server(answer, tmp_path / "s")
    async with server, client_of(f"unix://{tmp_path}/s") as client:
        link = ScriptLink(client)
        with pytest.raises(RedisConnectionError):
            await link.eval(ECHO, 0, "a")
        await link.close()


async def test_a_connection_whose_server_was_replaced_is_left_once_its_answers_have_come(
    client: Redis, link: ScriptLink
) -> None:
    first = link.eval("for i = 1, 10000000 do end return ARGV[1]", 0, "slow")
    answer = asyncio.ensure_future(first)
    await until(lambda: link._link is not None and link._link._waiting)
    assert link._link is not None
    before = link._link.connection
    before.mark_for_reconnect()
    assert await link.eval(ECHO, 0, "meets the first") == b"meets the first"
    assert await answer == b"slow"
    opened = await connections_so_far(client)
    assert await link.eval(ECHO, 0, "next") == b"next"
    assert await connections_so_far(client) == opened + 1


async def test_asked_for_a_slot_on_its_way_each_command_follows_an_asking(client: Redis) -> None:
    """A server that is not in a cluster refuses the ASKING, and answers the command that follows."""
    link = ScriptLink(client, gathers=True, asking=True)
    answers = await asyncio.gather(*[link.eval(ECHO, 0, f"{number}") for number in range(5)])
    assert answers == [f"{number}".encode() for number in range(5)]
    refused: Any = await client.info("commandstats")
    assert "cmdstat_eval" in refused
    await link.close()


async def connections_so_far(client: Redis) -> int:
    found: Any = await client.info("stats")
    return int(found["total_connections_received"])


async def test_an_answer_is_delivered_in_the_turn_in_which_it_comes(link: ScriptLink) -> None:
    """That is before the task that waits for it goes on."""
    order: list[object] = []

    async def call(text: str) -> None:
        await link.eval(ECHO, 0, text, deliver=order.append)
        order.append("went on")

    await link.eval(ECHO, 0, "connects")
    await asyncio.gather(call("a"), call("b"))
    assert order == [b"a", b"b", "went on", "went on"]


async def test_what_deliver_raises_is_raised_and_the_connection_stays(
    client: Redis, link: ScriptLink
) -> None:
    def refuse(answer: object) -> None:
        raise ValueError(answer)

    await link.eval(ECHO, 0, "a")
    before = await connections(client)
    with pytest.raises(ValueError, match="a"):
        await link.eval(ECHO, 0, "a", deliver=refuse)
    assert await link.eval(ECHO, 0, "b") == b"b"
    assert await connections(client) == before


async def test_an_error_and_an_answer_that_has_no_reader_are_not_delivered(link: ScriptLink) -> None:
    delivered: list[object] = []
    with pytest.raises(NoScriptError):
        await link.evalsha("0" * 40, 0, deliver=delivered.append)
    task = asyncio.create_task(link.eval(ECHO, 0, "a", deliver=delivered.append))
    await asyncio.sleep(0)
    task.cancel()
    assert await link.eval(ECHO, 0, "b") == b"b"
    assert delivered == []


@pytest.mark.parametrize("seconds", [5.0, None])
async def test_it_knows_whether_it_gives_up_by_itself(
    redis_server: RedisServer, seconds: float | None
) -> None:
    async with Redis.from_url(redis_server.url, socket_timeout=seconds) as client:
        link = ScriptLink(client)
        assert not link.has_time_limit  # it has yet to connect
        await link.eval(ECHO, 0, "a")
        assert link.has_time_limit is (seconds is not None)
        await link.close()
        assert not link.has_time_limit
