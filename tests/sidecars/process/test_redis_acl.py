"""The user that docs/deployment.md gives to Redis may do what the sidecars do, and nothing else."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from accesslog.sinks.redis_stream import RedisStreamSink
from authz.credentials.core.redis_caller import RedisCaller
from authz.credentials.revocation.redis_store import RedisRevocations
from authz.credentials.revocation.revocation_list import Revocation, Revoked
from authz.credentials.revocation.subscriber import RevocationSubscriber
from authz.credentials.session.model import Session
from authz.credentials.session.redis_store import RedisSessionStore as Sessions
from common.buckets import SECOND_US, FixedWindow, TokenBucket
from common.circuit_breaker import CircuitBreaker
from ratelimit.bans import Ban, Bans
from ratelimit.stores.ban_stream import BanStream
from ratelimit.stores.heartbeat import Heartbeat, beat_script
from ratelimit.stores.redis import PROBE, RedisStore
from ratelimit.stores.store import Take
from sidecars.process.redis import connect, describe
from sidecars.process.redis_fitness import RedisFitness
from sidecars.settings.redis import RedisSettings
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

pytestmark = pytest.mark.redis

DOCS = (Path(__file__).parents[3] / "docs" / "deployment.md").read_text(encoding="utf-8")
RULES = dict(re.findall(r"^\| (every use|`[\w.: ]+redis`) \| `([^`]+)` \|$", DOCS, re.MULTILINE))
EVERY = "every use"
RATELIMIT = "`ratelimit.store: redis`"
SESSIONS = "`credentials.sessions.store: redis`"
STREAM = "`accesslog.sinks: type: redis`"
REVOCATIONS = "`credentials.revocations.store: redis`"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("PASSWORD")
    return file


@pytest.fixture
def admin(redis_server: RedisServer) -> Iterator[Any]:
    with redis_server.client() as client:
        yield client


def client_for(server: RedisServer, admin: Any, password_file: Path, *uses: str) -> Redis:
    """A client in database 3 as the user of the page for these uses."""
    rules = " ".join(RULES[use] for use in (EVERY, *uses)).split()
    admin.execute_command("ACL", "SETUSER", "sidecars", *rules)
    patient = {"operation_timeout_ms": 5000, "connect_timeout_ms": 5000}
    url = f"unix://{server.socket}?db=3"
    return connect(RedisSettings(url=url, username="sidecars", password_file=password_file, **patient))


def asker(client: Redis) -> RedisCaller:
    return RedisCaller(client, 5.0, CircuitBreaker(time.monotonic, lambda: 0.0))


async def ratelimit(client: Redis) -> None:
    store = RedisStore(client, CircuitBreaker(time.monotonic, lambda: 0.0), timeout_seconds=5.0)
    for bucket in (TokenBucket(5, 5, 60 * SECOND_US), FixedWindow(5, 60 * SECOND_US)):
        for hits in (1, 9, 0, -1):
            await store.take([Take(f"{type(bucket).__name__}", bucket, hits), PROBE])
    heartbeat = Heartbeat(beat_script(client), "ratelimit:", "one")
    await heartbeat.beat()
    await heartbeat.leave()
    bans = BanStream(beat_script(client), "ratelimit:", Bans(time.time, lambda _take, _then: None), 10)
    bans.banned(Ban("key", time.time() + 60, time.time(), "rule", "key=value"))
    await bans.sync()
    await store.close()


async def sessions(client: Redis) -> None:
    store = Sessions(asker(client), "sidecars:session:", 60.0)
    now = time.time()
    session = Session("ann", now, now + 60, now + 600)
    await heard(client, store.channel, lambda: store.put("one", session, now))
    await asyncio.gather(*(store.get(key) for key in ("one", "two", "three")))
    await store.renew({"one": session}, now)
    assert await store.keys("ann") == ["one"]
    assert [key for key, _ in await store.read(await store.keys(None))] == ["one"]
    assert await store.revoke(["one"]) == 1


async def revocations(client: Redis) -> None:
    store = RedisRevocations(asker(client), "sidecars:revoked:")
    await store.now()
    gone = Revocation(Revoked.TOKEN, "gone", time.time() - 10)
    lasts = Revocation(Revoked.SUBJECT, "ann", time.time() + 60, time.time())
    await store.add([gone], 1)
    await heard(client, store.channel, lambda: store.add([lasts], 1))
    assert [one.value for one in await store.load(10)] == ["ann"]
    await client.zadd("sidecars:revoked:list", {"unreadable": time.time() + 60})
    assert len(await store.clean()) == 1


async def stream(client: Redis) -> None:
    sink = RedisStreamSink(client, "accesslog", 100)
    await sink.open()
    await sink.write([b"{}\n", b"{}\n"])


async def heard(client: Redis, channel: str, do: Callable[[], Awaitable[None]]) -> None:
    async def begin() -> None:
        return None

    subscriber = RevocationSubscriber(
        client,
        {channel: lambda _: None},
        on_begin=begin,
        on_tick=lambda _: None,
        background=begin,
        random=lambda: 0.5,
    )
    subscriber.start()
    async with asyncio.timeout(20):
        await subscriber.ready()
        await do()
    await subscriber.stop()


@pytest.mark.parametrize(
    ("use", "work"),
    [(RATELIMIT, ratelimit), (SESSIONS, sessions), (REVOCATIONS, revocations), (STREAM, stream)],
)
async def test_the_user_of_the_page_may_do_all_that_is_done(
    redis_server: RedisServer,
    admin: Any,
    password_file: Path,
    use: str,
    work: Callable[[Redis], Awaitable[None]],
) -> None:
    client: Any = client_for(redis_server, admin, password_file, use)
    assert await RedisFitness(client).check()
    await client.ping()
    await work(client)
    assert describe(client)["refused"] == 0, describe(client)["last_refusal"]
    assert admin.acl_log() == []
    for command in (("GET", "another:key"), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("FLUSHALL",)):
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command)
    await client.aclose()


@pytest.mark.parametrize(
    ("use", "work"),
    [(RATELIMIT, ratelimit), (SESSIONS, sessions), (REVOCATIONS, revocations), (STREAM, stream)],
)
async def test_the_page_grants_nothing_that_is_not_needed(
    redis_server: RedisServer,
    admin: Any,
    password_file: Path,
    use: str,
    work: Callable[[Redis], Awaitable[None]],
) -> None:
    client = client_for(redis_server, admin, password_file, use)
    await work(client)
    used = {f"+{name.removeprefix('cmdstat_')}" for name in admin.info("commandstats")}
    granted = {rule for rule in RULES[use].split() if rule.startswith("+")}
    assert granted <= used
    await client.aclose()


def test_the_command_of_the_page_is_that_of_its_rows() -> None:
    [command] = re.findall(r"^ACL SETUSER sidecars (.*)$", DOCS, re.MULTILINE)
    assert command == f"{RULES[EVERY]} {RULES[RATELIMIT]}"
