"""A rolling upgrade of ratelimit with its counters in Redis, under load: no call fails and no hit is lost."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from sidecars.demo.until import until
from tests.support.earlier import STOP_SECONDS, Version, redis_section, tree_of
from tests.support.manifests import ROOT
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.timeout(400)

SAME_FORM = "f4c983f"
"""The first commit that names counters as the present one does."""

OLDER_FORM = "9fe2bef"
"""Before a token bucket kept what was used."""

WAIT_SECONDS = 150.0
METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
CLIENTS = 8
LIMIT = 12_000
PAUSE_SECONDS = 0.003
"""Between two calls of a client, so that the limit lasts until both versions have counted."""

RULES = ("bucket", "window")
LIMITS = f"""
domain: edge
descriptors:
  - {{key: bucket, rate_limit: {{unit: day, requests_per_unit: {LIMIT}, algorithm: token_bucket}}}}
  - {{key: window, rate_limit: {{unit: day, requests_per_unit: {LIMIT}, algorithm: fixed_window}}}}
"""
REFILL = 60
"""The most tokens that a bucket of LIMIT a day gets back during the test: it takes less than 400 s."""


class Callers:
    """Clients that call without pause whichever process serves, as Envoy does, and count the answers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.serving: list[str] = []
        self.answers: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self.enough = False

    async def run(self, rule: str) -> None:
        """Call until enough; a process that stopped is left as soon as it refuses connections."""
        request = RateLimitRequest(domain="edge")
        request.descriptors.add().entries.add(key=rule, value="")
        message, number = request.SerializeToString(), 0
        channels: dict[str, Any] = {}
        while not self.enough:
            number += 1
            name = self.serving[number % len(self.serving)]
            if name not in channels:
                channels[name] = grpc.aio.insecure_channel(f"unix:{self._folder}/{name}.sock")
            try:
                answer = await channels[name].unary_unary(METHOD)(message, timeout=30)
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{name}: {error.code()} {error.details()}")
                continue
            code = RateLimitResponse.Code.Name(RateLimitResponse.FromString(answer).overall_code)
            self.answers[rule, code] += 1
            self.answers[name, code] += 1
            await asyncio.sleep(PAUSE_SECONDS)
        for channel in channels.values():
            await channel.close()

    async def until(self, who: str, code: str, number: int) -> None:
        """Wait until a rule, or a process, was answered so often with this code."""

        async def often() -> bool:
            return self.answers[who, code] >= number

        await until(often, f"{number} times {code} of {who}", WAIT_SECONDS)


def sections(folder: Path, name: str, redis_url: str) -> dict[str, Any]:
    """Return the settings of one ratelimit process."""
    ratelimit = {
        "listen": [f"unix:{folder}/{name}.sock"],
        "limits": ["limits.yaml"],
        "store": "redis",
        "redis_timeout_ms": 9_000,
    }
    return {"redis": redis_section(redis_url), "ratelimit": ratelimit}


async def upgraded(folder: Path, commit: str) -> Callers:
    """Replace two processes of an earlier commit in turn under load, and return what the callers saw."""
    (folder / "limits.yaml").write_text(LIMITS)
    before, after = Version(tree_of(commit, folder), folder), Version(ROOT, folder)
    callers = Callers(folder)
    with RedisServer() as redis:
        async with AsyncExitStack() as stack:
            names = ("one", "two")
            processes = {
                name: await stack.enter_async_context(
                    before.running(name, "ratelimit", **sections(folder, name, redis.url))
                )
                for name in names
            }
            callers.serving = list(names)
            tasks = [asyncio.create_task(callers.run(RULES[number % 2])) for number in range(CLIENTS)]
            for name in names:
                await callers.until(name, "OK", 100)
                callers.serving.remove(name)
                assert await processes[name].stop(STOP_SECONDS) == 0
                new = f"new-{name}"
                await stack.enter_async_context(
                    after.running(new, "ratelimit", **sections(folder, new, redis.url))
                )
                callers.serving.append(new)
                await callers.until(new, "OK", 100)
            for rule in RULES:
                await callers.until(rule, "OVER_LIMIT", 100)
            callers.enough = True
            await asyncio.gather(*tasks)
    return callers


async def test_both_versions_count_together(tmp_path_factory: pytest.TempPathFactory) -> None:
    callers = await upgraded(tmp_path_factory.mktemp("u"), SAME_FORM)
    print(dict(callers.answers))  # noqa: T201  # for docs/versions.md
    assert callers.failures == []
    assert callers.answers["window", "OK"] == LIMIT
    assert LIMIT <= callers.answers["bucket", "OK"] <= LIMIT + REFILL


async def test_counters_of_another_form_are_left_alone_and_a_limit_starts_again_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    callers = await upgraded(tmp_path_factory.mktemp("u"), OLDER_FORM)
    assert callers.failures == []
    for rule in RULES:
        assert LIMIT < callers.answers[rule, "OK"] <= 2 * (LIMIT + REFILL)
