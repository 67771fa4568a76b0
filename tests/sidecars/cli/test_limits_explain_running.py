"""`sidecars limits explain --running`: a real process says what is left of the buckets that it counts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Done, command
from tests.support.ratelimiting import LIMITS, request
from tests.support.redis_server import RedisServer
from tests.support.running import SIDECARS, Running, call, connect

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
HITS = 'ratelimit_service_rate_limit_total_hits{domain="edge",key1="closed"}'


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("x")  # short: a unix socket path has at most 107 bytes
    (folder / "edge.yaml").write_text(LIMITS)
    return folder


def section(folder: Path, **more: object) -> dict[str, object]:
    return {"listen": [f"unix:{folder}/s"], "limits": [str(folder / "edge.yaml")], **more}


@pytest.fixture
def running(folder: Path) -> Iterator[Running]:
    with Running(folder, {"ratelimit": section(folder)}, program=SIDECARS) as process:
        yield process.wait_until_ready()


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One process for all the requests that change nothing."""
    folder = tmp_path_factory.mktemp("x")
    (folder / "edge.yaml").write_text(LIMITS)
    with Running(folder, {"ratelimit": section(folder)}, program=SIDECARS) as process:
        yield process.wait_until_ready()


def explained(process: Running, *arguments: str, domain: str = "edge") -> Done:
    return command(process.file, "limits", "explain", "--running", "--domain", domain, *arguments)


def test_what_is_left_in_the_memory_of_the_process(running: Running) -> None:
    with connect(f"unix:{running.folder}/s") as channel:
        call(channel, METHOD, request({"closed": "a"}, hits=2))
    for _ in range(3):
        done = explained(running, "--json", "closed=a", "closed=b", "free=1", "none=1")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert [one["remaining"] for one in found] == [1, 3, None, None]
        assert [one["rule"] for one in found] == ["edge.closed", "edge.closed", "edge.free", None]
    assert f"{HITS} 2.0\n" in running.get("/metrics")[1]
    assert "descriptor_not_found{" not in running.get("/metrics")[1]


def test_a_banned_key_is_said_to_be_banned(folder: Path) -> None:
    ban = "domain: edge\ndescriptors: [{key: closed, rate_limit: %s}]\n"
    limit = "{unit: second, requests_per_unit: 1, ban: {after: 1, for: 1h}}"
    (folder / "edge.yaml").write_text(ban % limit)
    with Running(folder, {"ratelimit": section(folder)}, program=SIDECARS) as process:
        process.wait_until_ready()
        with connect(f"unix:{folder}/s") as channel:
            call(channel, METHOD, request({"closed": "a"}, hits=2))
        found = json.loads(explained(process, "--json", "closed=a", "closed=b", "none=1").stdout)
        assert [one["banned_seconds"] is None for one in found] == [False, True, True]
        assert 3_500 < found[0]["banned_seconds"] <= 3_600
        assert "sidecars limits bans lift" in explained(process, "closed=a").stdout


@pytest.mark.parametrize(
    ("arguments", "domain", "problem"),
    [
        (["closed"], "edge", "expected KEY=VALUE[,KEY=VALUE...], found 'closed'"),
        (["closed=1"], "shop", "unknown domain 'shop'; known are edge"),
        (["closed=1"] * 257, "edge", "must not be longer than 256"),
    ],
)
def test_bad_usage_is_2(unchanged: Running, arguments: list[str], domain: str, problem: str) -> None:
    done = explained(unchanged, *arguments, domain=domain)
    assert done.returncode == 2
    assert problem in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    "body", ["", "{", "[]", '{"domain": "edge"}', '{"domain": "edge", "descriptors": []}', '"\\ud800"']
)
def test_another_body_is_400(unchanged: Running, body: str) -> None:
    status, text = unchanged.get("/limits/explain", body)
    assert status == 400
    assert text


def test_a_process_that_is_gone_is_1(running: Running) -> None:
    running.process.kill()
    running.process.wait()
    done = explained(running, "closed=a")
    assert done.returncode == 1
    assert "does not answer" in done.stderr


@pytest.mark.redis
def test_a_redis_that_is_gone_is_1(folder: Path) -> None:
    with RedisServer() as redis:
        settings = {"ratelimit": section(folder, store="redis"), "redis": {"url": redis.url}}
        with Running(folder, settings, program=SIDECARS) as process:
            process.wait_until_ready()
            redis.stop()
            done = explained(process, "closed=a")
    assert done.returncode == 1
    assert "the store gives no answer: store_" in done.stderr
