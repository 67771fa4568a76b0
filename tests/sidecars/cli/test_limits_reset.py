"""`sidecars limits reset`: a real process gives a key its limit back, in memory and in Redis."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from protos.ratelimit_pb2 import RateLimitResponse
from ratelimit.config import load_limits
from ratelimit.explain_request import plan_of
from ratelimit.plan import Modes
from ratelimit.reset import reset
from ratelimit.rules import Options
from ratelimit.stores.memory import MemoryStore
from tests.sidecars.cli.test_limits_explain_running import METHOD, section
from tests.support.command import Done, command
from tests.support.ratelimiting import LIMITS, request
from tests.support.redis_server import RedisServer
from tests.support.redis_topologies import PATIENT
from tests.support.running import SIDECARS, Running, call, connect

OVER = RateLimitResponse.OVER_LIMIT
TOKEN = "a-token-of-many-characters"
SECRETS = "  - {key: api_key, rate_limit: {unit: hour, requests_per_unit: 1}}\n"


def folder_with_limits(folders: pytest.TempPathFactory) -> Path:
    folder = folders.mktemp("x")  # short: a unix socket path has at most 107 bytes
    (folder / "edge.yaml").write_text(LIMITS + SECRETS)
    (folder / "token").write_text(TOKEN)
    return folder


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with_limits(tmp_path_factory)


def settings(folder: Path, *, token: bool = True, **more: object) -> dict[str, Any]:
    admin = {"listen": "127.0.0.1:0", "port_file": "admin.port"} | ({"token_file": "token"} if token else {})
    return {"admin": admin, "ratelimit": section(folder, **more)}


@pytest.fixture
def running(folder: Path) -> Iterator[Running]:
    with Running(folder, settings(folder), program=SIDECARS) as process:
        yield process.wait_until_ready()


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One process for all the requests that reset nothing."""
    folder = folder_with_limits(tmp_path_factory)
    with Running(folder, settings(folder), program=SIDECARS) as process:
        yield process.wait_until_ready()


def ask(running: Running, **descriptor: str) -> int:
    """Return the code that ratelimit answers."""
    with connect(f"unix:{running.folder}/s") as channel:
        answer = call(channel, METHOD, request(descriptor))
    return RateLimitResponse.FromString(answer).overall_code


def resetting(running: Running, *descriptors: str, domain: str = "edge") -> Done:
    return command(running.file, "limits", "reset", "--domain", domain, *descriptors)


def test_a_key_passes_again_and_others_keep_their_count(running: Running) -> None:
    for value in ("a", "b"):
        while ask(running, closed=value) != OVER:
            pass
    done = resetting(running, "closed=a")
    assert (done.returncode, done.stdout) == (0, "reset closed=a  (edge.closed): 3 left\n"), done.stderr
    assert ask(running, closed="a") != OVER
    assert ask(running, closed="b") == OVER
    assert "limit reset" in running.stderr
    assert "closed=a" in running.stderr


def test_the_log_has_secrets_as_hashes(running: Running) -> None:
    assert resetting(running, "api_key=hunter2").returncode == 0
    running.wait_until(lambda: "api_key=sha256:" in running.stderr)
    assert "hunter2" not in running.stderr


@pytest.mark.parametrize(
    ("descriptor", "domain", "code", "text"),
    [
        ("free=1", "edge", 1, "no limit that counts"),
        ("none=1", "edge", 1, "no limit that counts"),
        ("closed", "edge", 2, "expected KEY=VALUE"),
        ("closed=1", "shop", 2, "unknown domain"),
    ],
)
def test_what_has_no_limit_is_said(
    unchanged: Running, descriptor: str, domain: str, code: int, text: str
) -> None:
    done = resetting(unchanged, descriptor, domain=domain)
    assert done.returncode == code
    assert text in " ".join(done.stderr.replace("│", " ").split())


def test_without_a_token_on_tcp_it_is_refused(folder: Path) -> None:
    with Running(folder, settings(folder, token=False), program=SIDECARS) as running:
        running.wait_until_ready()
        done = resetting(running, "closed=a")
    assert done.returncode == 1
    assert "needs admin.token_file, or a unix socket" in done.stderr
    assert "limit reset" not in running.stderr


def test_a_form_of_another_site_is_refused(unchanged: Running) -> None:
    port = int((unchanged.folder / "admin.port").read_text())
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "text/plain"}
    body = json.dumps({"domain": "edge", "descriptors": ["closed=a"]})
    connection.request("POST", "/limits/reset", body, headers)
    assert connection.getresponse().status == 415
    connection.close()


@pytest.mark.redis
def test_in_redis_it_passes_at_once_in_spite_of_the_deny_cache(folder: Path) -> None:
    with RedisServer() as redis:
        # A busy machine may not answer in the milliseconds that a request waits.
        shared = settings(folder, store="redis", deny_cache_max_entries=100, redis_timeout_ms=1_000)
        more = shared | {"redis": {"url": redis.url, **PATIENT}}
        with Running(folder, more, program=SIDECARS) as running:
            running.wait_until_ready()
            running.wait_until(lambda: ask(running, closed="a") == OVER)
            assert ask(running, closed="a") == OVER  # by the deny cache
            done = resetting(running, "closed=a")
            assert (done.returncode, done.stdout) == (0, "reset closed=a  (edge.closed): 3 left\n")
            assert ask(running, closed="a") != OVER
            redis.stop()
            done = resetting(running, "closed=a")
    assert done.returncode == 1
    assert "the store gives no answer" in done.stderr


@pytest.mark.parametrize("algorithm", ["token_bucket", "fixed_window", "sliding_window"])
async def test_each_algorithm_begins_again(tmp_path: Path, algorithm: str) -> None:
    limit = f"{{unit: minute, requests_per_unit: 4, algorithm: {algorithm}, charge_rejected: true}}"
    file = tmp_path / "limits.yaml"
    file.write_text(f"domain: d\ndescriptors: [{{key: a, rate_limit: {limit}}}]\n")
    limits = load_limits([file], Options())
    now_us = 1_800_000_000 * 1_000_000  # a full minute, so that three requests are in the last window
    store = MemoryStore(lambda: now_us)
    plan = plan_of(limits, "d", ["a=1"], Modes())
    [take] = plan.takes
    for _ in range(9):
        store.take([take])
        now_us += 10_000_000
    assert not store.take([take._replace(hits=4)])[0].allowed
    [one] = await reset(plan, store, store, lambda _: None)
    assert (one.descriptor, one.rule, one.remaining) == ("a=1", "d.a", 4)
    assert store.take([take._replace(hits=4)])[0].allowed
