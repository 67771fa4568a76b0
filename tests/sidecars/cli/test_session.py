"""`sidecars session` and `sidecars token`, against a real Redis and a real process."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis

from tests.support.command import command
from tests.support.redis_server import RedisServer, _session_redis, redis_server, shared_redis
from tests.support.running import SIDECARS, Running

__all__ = ["_session_redis", "redis_server", "shared_redis"]

RULES = [{"name": "all", "paths": ["/{rest=**}"], "allow": "anyone"}]


def policy(store: str) -> dict[str, Any]:
    return {
        "credentials": {"sessions": {"store": store}, "revocations": {"store": store}},
        "rules": RULES,
    }


def lines(text: str) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def config(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A settings file; with store: memory, a process runs that has the sessions."""
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy(request.param)))
    authz = {"listen": [f"unix:{tmp_path}/a.sock"], "policy": ["policy.yaml"], "session_admin": True}
    if request.param == "memory":
        with Running(tmp_path, {"authz": authz}, program=SIDECARS) as running:
            running.wait_until_ready()
            yield running.file
        return
    server = request.getfixturevalue("shared_redis")
    file = tmp_path / "sidecars.yaml"
    file.write_text(yaml.safe_dump({"authz": authz, "redis": {"url": server.url}}))
    yield file


def test_a_session_from_its_creation_to_its_end(config: Path) -> None:
    made = command(
        config, "session", "create", "--subject", "alice", "--scope", "read", "--claims", '{"a": 1}'
    )
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    assert len(token) == 43

    shown = json.loads(command(config, "session", "show", "-", stdin=token + "\n").stdout)
    assert (shown["subject"], shown["scopes"], shown["claims"]) == ("alice", ["read"], {"a": 1})
    assert token not in json.dumps(shown)

    listed = lines(command(config, "session", "list", "--subject", "alice").stdout)
    assert [found["id"] for found in listed] == [shown["id"]]
    assert command(config, "session", "list", "--subject", "bob").stdout == ""

    ended = command(config, "session", "revoke", shown["id"])
    assert (ended.returncode, ended.stdout) == (0, "1 revoked\n")
    assert command(config, "session", "revoke", token).returncode == 1
    gone = command(config, "session", "show", token)
    assert (gone.returncode, gone.stderr) == (1, "no such session\n")


def test_sessions_are_revoked_by_subject_and_by_time(config: Path) -> None:
    for subject in ("alice", "alice", "bob"):
        assert command(config, "session", "create", "--subject", subject).returncode == 0
    assert command(config, "session", "revoke", "--subject", "alice").stdout == "2 revoked\n"
    assert command(config, "session", "revoke", "--before", "2020-01-01T00:00:00Z").returncode == 1
    assert command(config, "session", "revoke", "--before", "now").stdout == "1 revoked\n"


def test_tokens_are_revoked_and_listed(config: Path) -> None:
    for wish in (
        ["--jti", "t1", "--issuer", "https://a"],
        ["--sid", "s1"],
        ["--subject", "alice"],
        ["--before", "now"],
    ):
        made = command(config, "token", "revoke", *wish)
        assert made.returncode == 0, made.stderr
    listed = lines(command(config, "token", "list").stdout)
    assert {(found["kind"], found["value"], found["issuer"]) for found in listed} == {
        ("jti", "t1", "https://a"),
        ("sid", "s1", ""),
        ("sub", "alice", ""),
        ("before", "", ""),
    }


@pytest.mark.redis
def test_an_entry_that_no_one_can_read_is_named_and_removed(
    tmp_path: Path, shared_redis: RedisServer
) -> None:
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy("redis")))
    authz = {"listen": [f"unix:{tmp_path}/a.sock"], "policy": ["policy.yaml"]}
    file = tmp_path / "sidecars.yaml"
    file.write_text(yaml.safe_dump({"authz": authz, "redis": {"url": shared_redis.url}}))
    with Redis.from_url(shared_redis.url) as client:
        client.zadd("sidecars:revoked:list", {"gibberish": 1e12})
    listed = command(file, "token", "list")
    assert (listed.returncode, listed.stdout) == (1, "")
    assert "gibberish" in listed.stderr
    assert "sidecars token clean" in listed.stderr
    assert command(file, "token", "clean").stdout == "b'gibberish'\n"
    assert command(file, "token", "list").returncode == 0


def test_a_list_that_was_cut_says_so(config: Path) -> None:
    for _ in range(3):
        assert command(config, "session", "create", "--subject", "alice").returncode == 0
    cut = command(config, "session", "list", "--limit", "2")
    assert (len(cut.stdout.splitlines()), cut.stderr) == (2, "these are 2; there may be more\n")
    assert command(config, "session", "list", "--limit", "4").stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["session", "create", "--subject", "\udcff"],
        ["session", "create", "--subject", "a", "--scope", "\udcff"],
        ["session", "list", "--subject", "\udcff"],
        ["session", "revoke", "--subject", "\udcff"],
        ["token", "revoke", "--subject", "\udcff"],
        ["session", "create", "--subject", "a", "--claims", "{"],
        ["session", "create", "--subject", "a", "--claims", "[]"],
        ["session", "create", "--subject", ""],
        ["session", "create", "--subject", "a", "--claims", json.dumps({"a": "x" * 70_000})],
        ["session", "revoke"],
        ["session", "revoke", "x", "--subject", "alice"],
        ["session", "revoke", "--before", "yesterday"],
        ["token", "revoke"],
        ["token", "revoke", "--jti", "a", "--sid", "b"],
        ["token", "revoke", "--jti", ""],
        ["token", "revoke", "--before", "nan"],
        ["token", "revoke", "--before", "inf"],
        ["token", "revoke", "--before", "2999-01-01"],
        ["token", "revoke", "--before=-62135596801"],
        ["session", "revoke", "--before=-1e18"],
        ["session", "revoke", "--before", "nan"],
    ],
)
def test_bad_usage_is_reported_and_exits_with_2(
    tmp_path: Path, shared_redis: RedisServer, arguments: list[str]
) -> None:
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy("redis")))
    authz = {"listen": [f"unix:{tmp_path}/a.sock"], "policy": ["policy.yaml"]}
    file = tmp_path / "sidecars.yaml"
    file.write_text(yaml.safe_dump({"authz": authz, "redis": {"url": shared_redis.url}}))
    found = command(file, *arguments)
    assert found.returncode == 2
    assert found.stderr.strip()
    assert "Traceback" not in found.stderr


@pytest.mark.redis
def test_a_redis_that_is_away_is_reported_and_exits_with_1(tmp_path: Path, redis_server: RedisServer) -> None:
    redis_server.stop()
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy("redis")))
    authz = {"listen": [f"unix:{tmp_path}/a.sock"], "policy": ["policy.yaml"]}
    file = tmp_path / "sidecars.yaml"
    file.write_text(yaml.safe_dump({"authz": authz, "redis": {"url": redis_server.url}}))
    found = command(file, "session", "list")
    assert found.returncode == 1
    assert "Redis" in found.stderr
    assert "Traceback" not in found.stderr


def test_an_admin_port_that_does_not_answer_is_reported_in_our_words(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy("memory")))
    authz = {"listen": [f"unix:{tmp_path}/a.sock"], "policy": ["policy.yaml"], "session_admin": True}
    file = tmp_path / "sidecars.yaml"
    file.write_text(yaml.safe_dump({"authz": authz, "admin": {"listen": f"unix:{tmp_path}/none"}}))
    found = command(file, "session", "list")
    assert found.returncode == 1
    assert found.stderr.endswith("does not answer: no such file or folder\n")


def test_a_process_that_does_not_offer_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy("memory")))
    authz = {"listen": [f"unix:{tmp_path}/a.sock"], "policy": ["policy.yaml"]}
    with Running(tmp_path, {"authz": authz}, program=SIDECARS) as running:
        running.wait_until_ready()
        found = command(running.file, "session", "list")
        assert found.returncode == 2
        assert "session_admin" in found.stderr
        assert running.get("/authz/sessions")[0] == 404


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"credentials": {}}, "no sessions"),
        ({"credentials": {"sessions": {"store": "redis"}}}, "section redis"),
    ],
)
def test_a_configuration_without_sessions_is_reported(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump({"rules": RULES} | changes))
    authz = {"listen": [f"unix:{tmp_path}/a.sock"], "policy": ["policy.yaml"]}
    file = tmp_path / "sidecars.yaml"
    file.write_text(yaml.safe_dump({"authz": authz}))
    found = command(file, "session", "list")
    assert found.returncode == 2
    assert message in found.stderr


def test_with_several_workers_sessions_in_memory_cannot_be_asked(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy("memory")))
    file = tmp_path / "sidecars.yaml"
    authz = {"listen": [f"unix:{tmp_path}/a.{{worker}}.sock"], "policy": ["policy.yaml"]}
    file.write_text(yaml.safe_dump({"workers": 2, "authz": authz}))
    found = command(file, "session", "list")
    assert found.returncode == 2
    assert "write sessions.store: redis" in found.stderr
