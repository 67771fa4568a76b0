"""A Redis that is there and says no, and a Redis that is back while no request comes."""

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from common.buckets import MAX_WINDOW_US, TokenBucket
from common.circuit_breaker import CircuitBreaker, CircuitState
from common.redis_errors import error_text
from ratelimit.stores.redis import RedisStore
from ratelimit.stores.store import Failure, StoreError, Take
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

SLOW = TokenBucket(10, 10, MAX_WINDOW_US)


class Asking:
    """A store on a client of its own, and what Redis refused it."""

    def __init__(self, url: str, *, failures: int = 2, timeout_seconds: float = 5.0) -> None:
        self.client = Redis.from_url(url, retry=Retry(NoBackoff(), 0))
        self.states: list[tuple[CircuitState, str]] = []
        self.refused: list[str] = []
        breaker = CircuitBreaker(
            time.monotonic,
            lambda: 0.0,
            failures=failures,
            open_seconds=0.05,
            changed=lambda state: self.states.append((state, breaker.cause)),
        )
        self.breaker = breaker
        self.store = RedisStore(
            self.client, breaker, prefix="t:", timeout_seconds=timeout_seconds, refused=self.refused.append
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()
        await self.client.aclose()

    async def failure(self, *keys: str) -> StoreError:
        with pytest.raises(StoreError) as caught:
            await self.store.take([Take(key, SLOW, 1) for key in keys or ("k",)])
        return caught.value

    async def until(self, state: CircuitState) -> None:
        async with asyncio.timeout(30):
            while True:
                if self.breaker.state is state:
                    return
                await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def info(server: RedisServer, section: str) -> dict[str, Any]:
    with server.client() as client:
        found: Any = client.info(section)
    assert isinstance(found, dict)
    return found


def acl_user(server: RedisServer, *rules: str) -> str:
    """The URL of a new user with these rules."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "sidecars", "reset", "on", ">secret", *rules)
    return server.url.replace("unix://", "unix://sidecars:secret@")


@contextmanager
def not_allowed() -> Iterator[str]:
    with RedisServer() as server:
        yield acl_user(server, "~t:*", "+@all", "-evalsha", "-eval")


@contextmanager
def other_keys_allowed() -> Iterator[str]:
    with RedisServer() as server:
        yield acl_user(server, "~other:*", "+@all")


@contextmanager
def without_replicas() -> Iterator[str]:
    with RedisServer(arguments=("--min-replicas-to-write", "1")) as server:
        yield server.url


@contextmanager
def out_of_memory() -> Iterator[str]:
    with RedisServer(arguments=("--maxmemory", "1")) as server:
        yield server.url


@contextmanager
def without_disk() -> Iterator[str]:
    with TemporaryDirectory() as above:
        folder = Path(above) / "gone"
        folder.mkdir()
        with RedisServer(arguments=("--dir", str(folder))) as server, server.client() as client:
            client.config_set("save", "3600 1")
            folder.rmdir()
            client.bgsave()
            wait_until(lambda: info(server, "persistence")["rdb_last_bgsave_status"] == "err")
            yield server.url


@contextmanager
def a_replica() -> Iterator[str]:
    with RedisServer(tcp=True) as master, RedisServer(tcp=True) as replica:
        replica.follow(master)
        yield replica.url


def with_low_port(*arguments: str) -> RedisServer:
    """A server whose port has room for that of the cluster, 10,000 above."""
    while True:
        server = RedisServer(tcp=True, arguments=arguments)
        if server.port < 55_000:
            return server
        server.close()


@contextmanager
def a_cluster_node() -> Iterator[str]:
    with with_low_port("--cluster-enabled", "yes") as server, server.client() as client:
        for slots in range(0, 16_384, 1_024):
            client.execute_command("CLUSTER", "ADDSLOTS", *range(slots, slots + 1_024))
        wait_until(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")))
        yield server.url


NO = [
    (not_allowed, "NOPERM"),
    (other_keys_allowed, "NOPERM"),
    (without_replicas, "NOREPLICAS"),
    (out_of_memory, "OOM"),
    (without_disk, "MISCONF"),
    (a_replica, "READONLY"),
    (a_cluster_node, "CROSSSLOT"),
]


@pytest.mark.parametrize(("server", "code"), NO, ids=[server.__name__ for server, _ in NO])
async def test_what_redis_says_no_with_is_told(
    server: Callable[[], AbstractContextManager[str]], code: str
) -> None:
    """A Redis that answers an error is not away: its own words say what to change."""
    with server() as url:
        async with Asking(url) as asking:
            for _ in range(2):
                error = await asking.failure("k", "another")
                assert error.failure is Failure.REFUSED
                assert code in str(error)
            assert code in asking.refused[0]
            [(state, cause), *_] = asking.states
            assert state is CircuitState.OPEN
            assert cause.startswith("store_refused: ")
            assert code in cause


async def test_a_wrong_password_is_a_refusal() -> None:
    with RedisServer() as server:
        url = acl_user(server, "~*", "+@all").replace("secret", "wrong")
        async with Asking(url) as asking:
            error = await asking.failure()
            assert error.failure is Failure.REFUSED
            assert "WRONGPASS" in str(error)


@contextmanager
def sentinel(folder: Path) -> Iterator[str]:
    """The URL of a Sentinel."""
    with RedisServer(tcp=True) as server:
        program, port, url = info(server, "server")["executable"], server.port, server.url
    file = folder / "sentinel.conf"
    file.write_text("")
    command = [program, str(file), "--sentinel", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield url
        finally:
            process.kill()


async def test_a_sentinel_in_place_of_redis_says_no(tmp_path: Path) -> None:
    with sentinel(tmp_path) as url:
        async with Asking(url, failures=1_000) as asking, asyncio.timeout(30):
            while True:
                error = await asking.failure()
                if error.failure is Failure.REFUSED:
                    break
                await asyncio.sleep(0.01)
            assert str(error) == "store_refused: ERR unknown command 'EVALSHA'"


def test_the_arguments_that_redis_repeats_are_left_out() -> None:
    """Keys of limits hold the values of descriptors, an API key perhaps; Redis 4 writes other quotes."""
    for quote in ("'", "`"):
        said = (
            f"unknown command {quote}EVALSHA{quote}, with args beginning with: '29a6' '1' 'ratelimit:key=s3'"
        )
        assert error_text(ResponseError(said)) == f"unknown command {quote}EVALSHA{quote}"


async def test_a_key_that_holds_something_else_is_refused_alone(redis_server: RedisServer) -> None:
    """In a call that others share: none of them fails with it, none is charged twice, the breaker stays."""
    async with Asking(redis_server.url, failures=1) as asking:
        with redis_server.client() as plain:
            plain.lpush("t:list", "somebody else's")
        takes = [[Take("k", SLOW, 1)], [Take("k", SLOW, 1), Take("list", SLOW, 1)], [Take("k", SLOW, 2)]]
        answers = await asyncio.gather(*(asking.store.take(each) for each in takes), return_exceptions=True)
        first, refused, last = answers
        assert isinstance(refused, StoreError)
        assert refused.failure is Failure.REFUSED
        assert "WRONGTYPE" in str(refused)
        assert not isinstance(first, BaseException)
        assert not isinstance(last, BaseException)
        assert [first[0].remaining, last[0].remaining] == [9, 7]  # nothing of the refused one
        assert asking.states == []
        assert len(asking.refused) == 1


async def test_the_same_key_twice_in_a_call_is_charged_twice(redis_server: RedisServer) -> None:
    async with Asking(redis_server.url) as asking:
        taken = await asking.store.take([Take("k", SLOW, 1), Take("k", SLOW, 2), Take("k", SLOW, 3)])
        assert [one.remaining for one in taken] == [9, 7, 4]
        [after] = await asking.store.take([Take("k", SLOW, 0)])
        assert after.remaining == 4


class TestNobodyAsks:
    """A gauge that says open for hours, because no request came, wakes people for nothing."""

    async def test_a_redis_that_is_back_closes_the_breaker(self, redis_server: RedisServer) -> None:
        async with Asking(redis_server.url) as asking:
            redis_server.stop()
            for _ in range(2):
                assert (await asking.failure()).failure is Failure.UNREACHABLE
            await asking.until(CircuitState.OPEN)
            redis_server.start()
            await asking.until(CircuitState.CLOSED)
            assert asking.breaker.cause == ""
            assert asking.store.failures[Failure.UNREACHABLE] == 2  # its own questions do not count

    async def test_a_redis_that_may_write_again_closes_the_breaker(self, redis_server: RedisServer) -> None:
        """One that refuses writes answers PING: only a write shows that it is well."""
        async with Asking(redis_server.url) as asking:
            with redis_server.client() as plain:
                plain.config_set("min-replicas-to-write", 1)
                for _ in range(2):
                    await asking.failure()
                before = len(asking.refused)
                async with asyncio.timeout(30):
                    while True:
                        if len(asking.refused) >= before + 2:  # asked again, and refused again
                            break
                        await asyncio.sleep(0.01)
                assert {state for state, _ in asking.states} == {CircuitState.OPEN}
                plain.config_set("min-replicas-to-write", 0)
                await asking.until(CircuitState.CLOSED)
                plain.flushall()
                assert (await asking.store.take([Take("k", SLOW, 1)]))[0].remaining == 9

    async def test_what_is_asked_then_leaves_nothing_behind(self, redis_server: RedisServer) -> None:
        async with Asking(redis_server.url) as asking:
            redis_server.stop()
            for _ in range(2):
                await asking.failure()
            redis_server.start()
            await asking.until(CircuitState.CLOSED)
            with redis_server.client() as plain:
                assert all(0 < int(plain.pttl(key)) <= 2_000 for key in plain.keys("*"))

    async def test_closing_ends_the_asking(self, redis_server: RedisServer) -> None:
        async with Asking(redis_server.url) as asking:
            redis_server.stop()
            for _ in range(2):
                await asking.failure()
            probing = asking.store._probing
            assert probing is not None
        assert probing.done()
