"""The doctor names each right that a user of Redis lacks, and changes nothing to find out."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from sidecars.doctor.redis_rights import RedisUses, lacking_rights
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

pytestmark = pytest.mark.redis

DOCS = (Path(__file__).parents[3] / "docs" / "deployment.md").read_text()
RULES = dict(re.findall(r"^\| ([^|]+) \| `([^`|]+)` \|$", DOCS, re.MULTILINE))
EVERY = "every use"
USES = {
    "`ratelimit.store: redis`": RedisUses(ratelimit="ratelimit:"),
    "`credentials.sessions.store: redis`": RedisUses(sessions="sidecars:session:"),
    "`credentials.revocations.store: redis`": RedisUses(revocations="sidecars:revoked:"),
    "`accesslog.sinks: type: redis`": RedisUses(log_streams=("accesslog",)),
}


@pytest.fixture
def admin(redis_server: RedisServer) -> Iterator[Any]:
    with redis_server.client() as client:
        client.flushall()
        yield client
        client.execute_command("ACL", "DELUSER", "examined")


async def lacking(server: RedisServer, admin: Any, rules: list[str], uses: RedisUses) -> list[str]:
    admin.execute_command("ACL", "SETUSER", "examined", *rules)
    client = Redis(unix_socket_path=str(server.socket), username="examined", password="PASSWORD")
    try:
        return [one async for one in lacking_rights(client, uses)]
    finally:
        await client.aclose()


@pytest.mark.parametrize("use", USES)
async def test_each_right_that_the_documentation_lists_is_tried(
    redis_server: RedisServer, admin: Any, use: str
) -> None:
    rules = [*RULES[EVERY].split(), *RULES[use].split()]
    assert await lacking(redis_server, admin, rules, USES[use]) == []
    for rule in RULES[use].split():
        found = await lacking(redis_server, admin, [one for one in rules if one != rule], USES[use])
        if rule.startswith("+"):
            assert [one.partition(" (")[0] for one in found] == [rule[1:]]
        else:  # a pattern of keys or channels
            assert found
            assert all(rule[1:].rstrip("*") in one for one in found), rule
    assert admin.keys() == []


async def test_streams_and_keys_that_exist_stay_as_they_are(redis_server: RedisServer, admin: Any) -> None:
    admin.xadd("accesslog", {"record": "{}"})
    before = admin.dump("accesslog")
    everything = ["reset", "on", ">PASSWORD", "~*", "&*", "+@all"]
    for uses in USES.values():
        assert await lacking(redis_server, admin, everything, uses) == []
    assert admin.dump("accesslog") == before
    assert admin.keys() == [b"accesslog"]


async def test_prefixes_are_those_of_the_settings(redis_server: RedisServer, admin: Any) -> None:
    rules = [*RULES[EVERY].split(), "~mine:*", "&mine:*", "+@all"]
    uses = RedisUses(sessions="mine:session:", revocations="mine:revoked:")
    assert await lacking(redis_server, admin, rules, uses) == []
