"""Sidecars that share a Redis share their bans."""

import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from ratelimit.bans import Ban, Bans
from ratelimit.stores.ban_stream import BATCH, BanStream
from ratelimit.stores.heartbeat import beat_script
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Sidecar:
    def __init__(self, client: Redis, clock: Clock, most: int = 10_000) -> None:
        self.bans = Bans(clock, lambda _take, _then: None, most)
        self.failures: list[str] = []
        run = beat_script(client)
        self.stream = BanStream(run, "b:", self.bans, most, failed=self.failures.append)
        self.bans.listener = self.stream

    def ban(self, clock: Clock, key: str, seconds: float = 60.0) -> None:
        ban = Ban(key, clock.now + seconds, clock.now, "rule", f"key={key}")
        self.bans.add(ban)
        self.stream.banned(ban)

    @property
    def keys(self) -> set[str]:
        return {ban.key for ban in self.bans.listed()}


@pytest.fixture
async def client(shared_redis: RedisServer) -> AsyncIterator[Redis]:
    with shared_redis.client() as plain:
        plain.flushall()
    async with Redis.from_url(shared_redis.url) as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def synced(*sidecars: Sidecar) -> None:
    for sidecar in sidecars:
        await sidecar.stream.sync()


async def test_a_ban_and_its_end_reach_the_others(client: Redis, clock: Clock) -> None:
    one, two = Sidecar(client, clock), Sidecar(client, clock)
    one.ban(clock, "a")
    one.ban(clock, "b")
    await synced(one, two)
    assert two.bans.listed() == one.bans.listed()
    assert two.keys == {"a", "b"}
    two.bans.lift(["key=a"], [])
    await synced(two, one)
    assert one.keys == two.keys == {"b"}


async def test_a_sidecar_that_starts_later_learns_what_is_still_in_force(client: Redis, clock: Clock) -> None:
    one = Sidecar(client, clock)
    one.ban(clock, "short", 10.0)
    for number in range(2 * BATCH):
        one.ban(clock, f"k{number}")
    one.ban(clock, "lifted")
    one.bans.lift(["key=lifted"], [])
    await synced(one)
    clock.now += 20
    late = Sidecar(client, clock)
    await synced(late)
    assert late.keys == {f"k{number}" for number in range(2 * BATCH)}


async def test_the_stream_and_what_waits_for_redis_are_bounded(client: Redis, clock: Clock) -> None:
    one = Sidecar(client, clock, most=100)
    for number in range(3_000):
        one.ban(clock, f"k{number}")
    await synced(one)
    answer: Any = client.xlen("b:bans")
    assert await answer < 1_000
    ends: Any = client.pttl("b:bans")
    assert 0 < await ends <= 7 * 86_400_000
    assert len(one.stream._unsent) == 0


async def test_what_others_write_into_the_stream_does_nothing(client: Redis, clock: Clock) -> None:
    one = Sidecar(client, clock)
    now = clock.now
    for event in (
        "nonsense",
        "[]",
        '"op"',
        "5",
        "null",
        f'{{"op": "ban", "key": "x", "until": {now + 9}, "since": {now}, "rule": [], "descriptor": ""}}',
        '{"op": "ban", "key": "x", "until": Infinity, "since": Infinity, "rule": "", "descriptor": ""}',
        '{"op": "ban", "key": "x", "until": 1e300, "since": 1e300, "rule": "", "descriptor": ""}',
        '{"op": "ban"}',
        '{"op": "ban", "key": "x", "until": "late", "since": 0, "rule": "", "descriptor": ""}',
        f'{{"op": "ban", "key": "x", "until": {now + 1e9}, "since": {now}, "rule": "", "descriptor": ""}}',
    ):
        added: Any = client.xadd("b:bans", {"event": event})
        await added
    one.ban(clock, "a")
    await synced(one)
    assert one.keys == {"a"}


async def test_while_redis_is_away_bans_hold_here_and_are_told_later(client: Redis, clock: Clock) -> None:
    one, two = Sidecar(client, clock), Sidecar(client, clock)
    real = one.stream._run_script

    def away(script: str, key: str, *arguments: str) -> Awaitable[Any]:
        raise RedisConnectionError("away")

    one.stream._run_script = away
    one.ban(clock, "a")
    await synced(one, one, two)
    assert (one.keys, two.keys, one.failures) == ({"a"}, set(), ["away"])
    one.stream._run_script = real
    await synced(one, two)
    assert two.keys == {"a"}
