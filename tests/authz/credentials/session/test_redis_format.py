"""The format in Redis is the one that docs/sessions.md describes, so that other programs can write it."""

import asyncio
import hashlib
import json
import re
import secrets
import shlex
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from authz.credentials.session.model import VERSION
from authz.request.identity import Identity, RefusalReason
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.redis_server import RedisServer
from tests.support.signing import request
from tests.support.waiting import WAIT_SECONDS, until

pytestmark = pytest.mark.redis

PAGE = (Path(__file__).parents[4] / "docs" / "sessions.md").read_text(encoding="utf-8")
CREATE, END = re.findall(r"^```redis\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
IDLE_SECONDS, ABSOLUTE_SECONDS, RETENTION_SECONDS = 1800, 43200, 86400


def cookie(token: str) -> Any:
    return request(("cookie", f"session={token}"))


def table(head: str) -> dict[str, list[str]]:
    """The cells of the table whose head begins with `head`, by the first cell."""
    [found] = re.findall(rf"^\| {head} \|.*\n\|-.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    rows = [[cell.strip() for cell in row.strip("|\n ").split(" | ")] for row in found.splitlines()]
    return {cells[0].strip("`"): cells[1:] for cells in rows}


def run(client: Any, commands: str, words: dict[str, str]) -> None:
    """Send the commands of the page, with their words in capitals replaced."""
    for line in commands.splitlines():
        parts = [
            re.sub(r"\b[A-Z_]+\b", lambda word: words.get(word[0], word[0]), part)
            for part in shlex.split(line)
        ]
        client.execute_command(*parts)


def times(now: float) -> dict[str, str]:
    found = {"NOW": now, "IDLE_UNTIL": now + IDLE_SECONDS, "ENDS_AT": now + ABSOLUTE_SECONDS}
    return {name: str(int(value)) for name, value in found.items()}


def words_for(token: str, subject: str, now: float) -> dict[str, str]:
    digests = {
        "ID": hashlib.sha256(token.encode()).hexdigest(),
        "OF": hashlib.sha256(subject.encode()).hexdigest(),
    }
    return {**digests, **times(now)}


@pytest.fixture
def application(shared_redis: RedisServer) -> Any:
    """A connection to Redis with the rights that the page gives to a login application."""
    [line] = re.findall(r"`ACL (SETUSER .*?)`", PAGE, re.DOTALL)
    with shared_redis.client() as operator:
        operator.execute_command("ACL", *line.replace("SECRET", "s3cret").split(), "on")
        with Redis(unix_socket_path=str(shared_redis.socket), username="login", password="s3cret") as client:
            yield client
        operator.execute_command("ACL", "DELUSER", "login")


async def test_a_session_written_as_documented_is_accepted_found_and_ended(
    harness: CredentialsHarness, redis: Any, application: Any
) -> None:
    harness.redis = redis
    harness.clock.wall_seconds = float((await redis.time())[0])
    credentials = harness.credentials({"sessions": {"store": "redis"}, "lookup_timeout_seconds": 5})
    await credentials.start()
    token = secrets.token_urlsafe(32)
    words = words_for(token, "alice", harness.clock.wall_seconds)
    await asyncio.to_thread(run, application, CREATE, words)
    caller = await harness.awaited(credentials, cookie(token))
    assert isinstance(caller, Identity)
    assert (caller.subject, caller.scopes) == ("alice", frozenset({"orders:read"}))
    listed = await credentials.credential_admin.list_sessions("alice")
    assert [one["id"] for one in listed] == [words["ID"]]

    await asyncio.to_thread(run, application, END, words)
    # It was cached, so only the message can end it within the cache's time.
    await until(lambda: not isinstance(harness.outcome(credentials, cookie(token)), Identity))
    assert reason_of(harness.outcome(credentials, cookie(token))) == RefusalReason.REVOKED
    await credentials.stop()


async def test_our_sessions_have_the_documented_keys_types_and_times(
    harness: CredentialsHarness, redis: Any
) -> None:
    harness.redis = redis
    harness.clock.wall_seconds = float((await redis.time())[0])
    credentials = harness.credentials({"sessions": {"store": "redis"}, "lookup_timeout_seconds": 5})
    made = await credentials.credential_admin.create_session(
        "alice", ["orders:read"], ["buyer"], {"sid": "s1"}
    )
    words = words_for(made["token"], "alice", harness.clock.wall_seconds)
    documented = {
        re.sub(r"\b(ID|OF)\b", lambda word: words[word[0]], key): cells for key, cells in table("key").items()
    }
    assert {name.decode() for name in await redis.keys("*")} == documented.keys()
    ends = {"session": IDLE_SECONDS, "ended": IDLE_SECONDS + RETENTION_SECONDS, "set": ABSOLUTE_SECONDS}
    for name, (kind, _, _) in documented.items():
        assert (await redis.type(name)).decode() == {"string": "string", "sorted set": "zset"}[kind]
        what = "set" if kind == "sorted set" else "ended" if ":ended:" in name else "session"
        assert ends[what] - 60 <= await redis.ttl(name) <= ends[what] + 1, name
    for name in [name for name, cells in documented.items() if cells[0] == "sorted set"]:
        assert await redis.zrange(name, 0, -1, withscores=True) == [(words["ID"].encode(), made["ends_at"])]


async def test_our_sessions_have_the_documented_fields(harness: CredentialsHarness, redis: Any) -> None:
    harness.redis = redis
    credentials = harness.credentials({"sessions": {"store": "redis"}, "lookup_timeout_seconds": 5})
    made = await credentials.credential_admin.create_session(
        "alice", ["orders:read"], ["buyer"], {"sid": "s1"}
    )
    value = json.loads(await redis.get(f"sidecars:session:{made['id']}"))
    types = {str: "string", int: "number", float: "number", list: "list of strings", dict: "object"}
    fields = table("field")
    assert {name: types[type(content)] for name, content in value.items()} == {
        name: cells[0] for name, cells in fields.items()
    }
    assert fields["version"][1].startswith(f"{VERSION}.")


async def test_our_revocation_is_the_documented_message(harness: CredentialsHarness, redis: Any) -> None:
    harness.redis = redis
    credentials = harness.credentials({"sessions": {"store": "redis"}, "lookup_timeout_seconds": 5})
    made = await credentials.credential_admin.create_session("alice", [], [], {})
    async with redis.pubsub() as subscriber:
        await subscriber.subscribe("sidecars:session:revoked")
        await credentials.credential_admin.revoke_sessions("id", made["id"])
        async with asyncio.timeout(WAIT_SECONDS):
            async for message in subscriber.listen():
                if message["type"] == "message":
                    break
    assert json.loads(message["data"]) == [made["id"]]
    left = {name.decode() for name in await redis.keys("*")}
    assert f"sidecars:session:{made['id']}" not in left
    assert f"sidecars:session:ended:{made['id']}" in left
