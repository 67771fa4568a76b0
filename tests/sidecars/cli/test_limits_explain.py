"""`sidecars limits explain`, by limits files alone and with a real Redis."""

import asyncio
import json
from pathlib import Path

import pytest
import yaml

from common.buckets import SECOND_US, TokenBucket
from common.circuit_breaker import CircuitBreaker
from ratelimit.stores.redis import RedisStore
from ratelimit.stores.store import Take
from sidecars.process.redis import connect
from sidecars.settings.redis import RedisSettings
from tests.support.command import Done, command
from tests.support.redis_server import RedisServer, _session_redis, redis_server, shared_redis

__all__ = ["_session_redis", "redis_server", "shared_redis"]

LIMITS = """
domain: edge
descriptors:
  - {key: address, rate_limit: {period: 1h, requests_per_unit: 10, name: address, cost: 2}}
  - key: route
    value: login
    descriptors: [{key: address, rate_limit: {unit: day, requests_per_unit: 5, algorithm: fixed_window}}]
  - {key: friend, rate_limit: {unlimited: true, replaces: [{name: address}]}}
"""


def settings_file(folder: Path, **ratelimit: object) -> Path:
    (folder / "limits.yaml").write_text(LIMITS)
    section = {"listen": [f"unix:{folder}/r"], "limits": [str(folder / "limits.yaml")], **ratelimit}
    file = folder / "sidecars.yaml"
    file.write_text(yaml.safe_dump({"ratelimit": section}))
    return file


def explained(file: Path, *descriptors: str) -> Done:
    return command(file, "limits", "explain", "--domain", "edge", *descriptors)


def test_it_names_the_rule_its_line_the_way_and_the_limit(tmp_path: Path) -> None:
    done = explained(settings_file(tmp_path), "address=192.0.2.1", "route=login,address=192.0.2.1")
    assert done.returncode == 0, done.stderr
    text = "".join(done.stdout.split())  # long values are folded
    for words in (
        "edge.address (",
        "limits.yaml:4)",
        "address: any value, counts as '192.0.2.1'",
        "10 per hour, token_bucket, cost 2, on_failure local",
        "route_login: exact value",
        "5 per day, fixed_window",
    ):
        assert words.replace(" ", "") in text


@pytest.mark.parametrize("period", ["month", "quarter", "year"])
def test_a_calendar_period_is_named(tmp_path: Path, period: str) -> None:
    file = settings_file(tmp_path)
    (tmp_path / "limits.yaml").write_text(LIMITS.replace("period: 1h", f"period: {period}"))
    [one] = json.loads(explained(file, "--json", "address=192.0.2.1").stdout)
    assert one["limit"] == f"10 per calendar {period}, fixed_window, cost 2, on_failure local"


def test_a_descriptor_without_a_limit_says_why(tmp_path: Path) -> None:
    file = settings_file(tmp_path)
    done = explained(file, "--json", "friend=1", "address=192.0.2.1", "x=1")
    rules = [(one["rule"], one["limit"], one["reason"]) for one in json.loads(done.stdout)]
    assert rules == [
        ("edge.friend", "unlimited", ""),
        (None, None, "another rule of this request replaces its rule"),
        (None, None, "no descriptor with the key 'x' at level 1; there are address, route_login, friend"),
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--domain", "edge", "address"], "expected KEY=VALUE[,KEY=VALUE...], found 'address'"),
        (["--domain", "other", "address=1"], "unknown domain 'other'; known are edge"),
        (["--domain", "edge", "--limits", ".", "address=1"], "give one of --config, --compat and --limits"),
    ],
)
def test_bad_usage_is_2_and_says_what_is_right(tmp_path: Path, arguments: list[str], problem: str) -> None:
    done = command(settings_file(tmp_path), "limits", "explain", *arguments)
    assert done.returncode == 2
    assert problem in " ".join(done.stderr.replace("│", " ").split())


def test_problems_of_the_limits_are_1(tmp_path: Path) -> None:
    file = settings_file(tmp_path)
    (tmp_path / "limits.yaml").write_text("domain: edge\ndescriptors: [{key: a, rate_limit: {unit: eon}}]\n")
    done = explained(file, "a=1")
    assert done.returncode == 1
    assert "limits.yaml:2: descriptors[0].rate_limit.unit" in done.stderr


async def use(url: str, key: str, bucket: TokenBucket, hits: int) -> None:
    async with connect(RedisSettings(url=url)) as client:
        store = RedisStore(client, CircuitBreaker(lambda: 0.0, lambda: 0.0), timeout_seconds=5.0)
        await store.take([Take(key, bucket, hits)])
        await store.close()


@pytest.mark.redis
def test_redis_says_what_is_left_and_nothing_is_charged(tmp_path: Path, redis_server: RedisServer) -> None:
    file = settings_file(tmp_path, store="redis")
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**content, "redis": {"url": redis_server.url}}))
    [fresh] = json.loads(explained(file, "--json", "address=192.0.2.1").stdout)
    assert (fresh["remaining"], fresh["reset_seconds"]) == (10, 0)
    bucket = TokenBucket(10, 10, 3_600 * SECOND_US)
    asyncio.run(use(redis_server.url, fresh["key"].removeprefix("ratelimit:"), bucket, 7))
    for _ in range(2):
        [used] = json.loads(explained(file, "--json", "address=192.0.2.1").stdout)
        assert used["remaining"] == 3
    redis_server.stop()
    done = explained(file, "address=192.0.2.1")
    assert done.returncode == 1
    assert "Redis gives no answer" in done.stderr


@pytest.mark.redis
def test_a_short_window_is_looked_up_in_the_redis_that_counts_it(tmp_path: Path) -> None:
    with RedisServer() as common, RedisServer() as short:
        file = settings_file(tmp_path, store="redis")
        limits = LIMITS.replace("period: 1h", "period: 30s")
        (tmp_path / "limits.yaml").write_text(limits)
        content = yaml.safe_load(file.read_text())
        both = {"redis": {"url": common.url}, "redis_per_second": {"url": short.url}}
        file.write_text(yaml.safe_dump({**content, **both}))
        asked = ("--json", "address=192.0.2.1", "route=login,address=192.0.2.1")
        key = json.loads(explained(file, *asked).stdout)[0]["key"].removeprefix("ratelimit:")
        asyncio.run(use(common.url, key, TokenBucket(10, 10, 30 * SECOND_US), 10))
        assert [one["remaining"] for one in json.loads(explained(file, *asked).stdout)] == [10, 5]
        short.stop()
        assert explained(file, *asked).returncode == 1
