"""`sidecars limits bans`: real processes that share a Redis ban, list and lift together."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from protos.ratelimit_pb2 import RateLimitResponse
from tests.support.command import Done, command
from tests.support.ratelimiting import request
from tests.support.redis_server import RedisServer
from tests.support.running import SIDECARS, WAIT_SECONDS, Running, call, connect

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
LIMITS = """
domain: edge
descriptors:
  - key: remote_address
    normalise: address
    rate_limit: {unit: day, requests_per_unit: 1, ban: {after: 2, within: 1h, for: 1h}}
"""
TOKEN = "a-token-of-many-characters"
CLIENT = {"remote_address": "2001:db8::1"}
SAME_CLIENT = {"remote_address": "2001:db8::2"}


def section(folder: Path, **more: object) -> dict[str, Any]:
    (folder / "edge.yaml").write_text(LIMITS)
    return {"listen": [f"unix:{folder}/s"], "limits": [str(folder / "edge.yaml")], **more}


def admin(folder: Path) -> dict[str, str]:
    """Return the settings of an admin port with a token, which lifting a ban on TCP needs."""
    (folder / "token").write_text(TOKEN)
    return {"listen": "127.0.0.1:0", "port_file": "admin.port", "token_file": "token"}


@contextmanager
def one_process(folders: pytest.TempPathFactory) -> Iterator[Running]:
    folder = folders.mktemp("x")
    settings = {"admin": admin(folder), "ratelimit": section(folder)}
    with Running(folder, settings, program=SIDECARS, token=TOKEN) as process:
        yield process.wait_until_ready()


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with one_process(tmp_path_factory) as process:
        yield process


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One process for all the requests that change nothing."""
    with one_process(tmp_path_factory) as process:
        yield process


def bans(process: Running, *arguments: str) -> Done:
    return command(process.file, "limits", "bans", *arguments)


def refused(process: Running, descriptor: dict[str, str]) -> bool:
    with connect(f"unix:{process.folder}/s") as channel:
        answer = RateLimitResponse.FromString(call(channel, METHOD, request(descriptor)))
    return answer.overall_code == RateLimitResponse.OVER_LIMIT


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_a_ban_is_listed_and_lifted(alone: Running) -> None:
    assert bans(alone).stdout == "no bans\n"
    for descriptor in (CLIENT, SAME_CLIENT, CLIENT):
        refused(alone, descriptor)
    [ban] = json.loads(bans(alone, "--json").stdout)
    assert (ban["rule"], round(ban["until"] - ban["since"])) == ("edge.remote_address", 3600)
    listed = bans(alone).stdout
    assert listed.startswith(f"{ban['id']}  until 20")
    assert "remote_address=2001:db8::1  (edge.remote_address)" in listed

    metrics = alone.get("/metrics")[1]
    assert "ratelimit_bans 1.0\n" in metrics
    assert 'ratelimit_bans_imposed_total{domain="edge",key1="remote_address",key2=""} 1.0\n' in metrics

    done = bans(alone, "lift", ban["id"], "nonsense")
    assert done.returncode == 1
    assert done.stdout.startswith(f"lifted {ban['id']}")
    assert done.stderr == "nonsense is not banned\n"
    assert bans(alone).stdout == "no bans\n"
    assert "ban lifted" in (alone.folder / "stdout").read_text() + alone.stderr


@pytest.mark.parametrize(
    "body", ["", "{", "[]", '{"names": []}', '{"names": [1]}', '{"names": ["a"], "b": 1}']
)
def test_another_body_is_400(unchanged: Running, body: str) -> None:
    assert unchanged.post_json("/limits/bans/lift", body)[0] == 400


def test_a_form_of_another_site_lifts_nothing(alone: Running) -> None:
    for descriptor in (CLIENT, SAME_CLIENT, CLIENT):
        refused(alone, descriptor)
    [ban] = json.loads(bans(alone, "--json").stdout)
    assert alone.get("/limits/bans/lift", json.dumps({"names": [ban["id"]]}))[0] == 415
    assert ban["id"] in bans(alone).stdout


def test_bad_usage_is_2(alone: Running) -> None:
    assert bans(alone, "--compat").returncode == 2
    alone.process.kill()
    alone.process.wait()
    done = bans(alone)
    assert done.returncode == 1
    assert "does not answer" in done.stderr


@pytest.mark.redis
def test_sidecars_with_one_redis_ban_and_lift_together(tmp_path_factory: pytest.TempPathFactory) -> None:
    folders = [tmp_path_factory.mktemp("x") for _ in range(2)]
    with RedisServer() as server:
        redis = {"url": server.url}
        sections = [
            {"admin": admin(one), "ratelimit": section(one, store="redis", redis_timeout_ms=5000)}
            for one in folders
        ]
        _ban_and_lift(folders, [{"redis": redis, **one} for one in sections])


def _ban_and_lift(folders: list[Path], settings: list[dict[str, Any]]) -> None:
    with (
        Running(folders[0], settings[0], program=SIDECARS, token=TOKEN) as one,
        Running(folders[1], settings[1], program=SIDECARS, token=TOKEN) as two,
    ):
        one.wait_until_ready()
        two.wait_until_ready()
        # The first requests may be counted without Redis, to which a busy machine connects slowly.
        until(lambda: refused(one, CLIENT) and refused(two, SAME_CLIENT))
        until(lambda: "remote_address=" in bans(one).stdout and "remote_address=" in bans(two).stdout)
        [ban] = json.loads(bans(one, "--json").stdout)
        assert bans(one, "lift", ban["id"]).returncode == 0
        until(lambda: bans(two).stdout == "no bans\n")
        # The limit is as if never used, also where the deny cache knew better.
        until(lambda: not refused(one, CLIENT))
