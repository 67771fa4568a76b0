"""What Envoy does with assignments. The bound of docs/quota.md is built on it."""

import asyncio
import os
from collections.abc import AsyncIterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ratelimit.quota.assignment import MOST_FILL_SECONDS, Abandon, Assign, Strategy, TokenQuota
from ratelimit.quota.limit import Blanket, BucketId
from ratelimit.quota.wire import read_report, write_actions
from sidecars.demo.configuration import http_manager
from sidecars.demo.envoy import find_envoy, scripts_folder, serve_envoy
from sidecars.demo.until import until
from sidecars.services.ratelimit_quota import SERVICE
from sidecars.transport.api.address import UnixAddress
from sidecars.transport.api.service import Bidirectional, Call, Service
from tests.envoy.test_quota import envoy_configuration
from tests.support.transport.harness import make_server

pytestmark = pytest.mark.envoy

SLOW = 1000
"""Seconds of a fill, so that nothing refills during the test."""


LOGIN, MARKER = {"route": "login"}, {"route": "marker"}


class Assigner:
    """Sends what the test says to one Envoy."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.reported: list[BucketId] = []

    async def stream(self, messages: AsyncIterator[bytes], _call: Call) -> AsyncIterator[bytes]:
        reading = asyncio.create_task(self._read(messages))
        try:
            while True:
                yield await self.messages.get()
        finally:
            reading.cancel()

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        async for message in messages:
            self.reported += [usage.bucket_id for usage in read_report(message).usages]


class Driven:
    """An Envoy, and who assigns to it."""

    def __init__(self, assigner: Assigner, port: int) -> None:
        self._assigner = assigner
        self._port = port
        self._marked = False

    async def passed(self, requests: int, path: str = "/login") -> int:
        """Return how many of so many requests pass."""
        async with aiohttp.ClientSession() as session:
            statuses = []
            for _ in range(requests):
                async with session.get(f"http://127.0.0.1:{self._port}{path}") as answer:
                    statuses.append(answer.status)
        return statuses.count(200)

    async def passed_one(self) -> bool:
        """Whether a request passes."""
        return await self.passed(1) == 1

    async def reported(self) -> None:
        """Make both buckets known."""

        async def told() -> bool:
            return MARKER in self._assigner.reported and LOGIN in self._assigner.reported

        await self.passed(1)
        await self.passed(1, "/marker")
        await until(told, "the buckets are reported")

    async def assign(self, strategy: Strategy | None) -> None:
        """Assign, or abandon. Returns once the bucket of the marker, which comes after it, has changed."""
        self._marked = not self._marked
        marker = Assign(Blanket.ALLOW_ALL if self._marked else Blanket.DENY_ALL, 300)
        action = Abandon() if strategy is None else Assign(strategy, 300)
        self._assigner.messages.put_nowait(write_actions([(LOGIN, action), (MARKER, marker)]))

        async def applied() -> bool:
            return await self.passed(1, "/marker") == self._marked

        await until(applied, "Envoy has applied the assignment")


def with_marker(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with a second bucket, MARKER, for the path /marker."""
    [listener] = configuration["static_resources"]["listeners"]
    quota = http_manager(listener)["http_filters"][0]["typed_config"]
    matchers = quota["bucket_matchers"]["matcher_list"]["matchers"]
    marker = deepcopy(matchers[0])
    marker["predicate"]["single_predicate"]["value_match"] = {"prefix": "/marker"}
    settings = marker["on_match"]["action"]["typed_config"]
    settings["bucket_id_builder"]["bucket_id_builder"]["route"] = {"string_value": "marker"}
    matchers.append(marker)
    return configuration


async def test_what_a_changed_assignment_leaves_in_the_bucket(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder: Path = tmp_path_factory.mktemp("f")
    address = UnixAddress(str(folder / "ratelimit.sock"))
    assigner = Assigner()
    service = Service(SERVICE, {"StreamRateLimitQuotas": Bidirectional(assigner.stream)})
    server = make_server("native", (service,), (address,))
    await server.start()
    program = find_envoy(os.environ, scripts_folder())
    configuration = with_marker(envoy_configuration(folder / "ratelimit.sock"))
    try:
        async with serve_envoy(program, configuration, folder) as envoy:
            driven = Driven(assigner, envoy.ports["edge"])
            await driven.reported()
            await _is_as_the_ledger_counts(driven)
    finally:
        await server.drain(0)


async def _is_as_the_ledger_counts(driven: Driven) -> None:
    await driven.assign(TokenQuota(20, 1, SLOW))
    assert await driven.passed(15) == 15  # it begins full
    await driven.assign(TokenQuota(20, 1, SLOW))
    assert await driven.passed(1) == 1  # the same again changes nothing: 4 of 20 are left
    await driven.assign(TokenQuota(10, 2, SLOW))
    assert await driven.passed(20) == 2  # 4 of 20 are 2 of 10
    await driven.assign(TokenQuota(10, 2, 1))
    assert await driven.passed(20) == 0  # the interval alone is ignored
    await driven.assign(TokenQuota(40, 3, SLOW))
    assert await driven.passed(20) == 0  # nothing of 10 is nothing of 40
    await driven.assign(Blanket.DENY_ALL)
    assert await driven.passed(1) == 0
    await driven.assign(TokenQuota(10, 3, SLOW))
    assert await driven.passed(5) == 5  # after a blanket rule it begins full
    await driven.assign(TokenQuota(30, 3, SLOW))
    assert await driven.passed(40) == 15  # the size alone is not ignored: 5 of 10 are 15 of 30
    await driven.assign(Blanket.DENY_ALL)
    await driven.assign(TokenQuota(1, 4 * MOST_FILL_SECONDS, MOST_FILL_SECONDS))
    assert await driven.passed(1) == 1
    await until(driven.passed_one, "a long interval refills evenly: four a second")
    await driven.assign(Blanket.ALLOW_ALL)
    assert await driven.passed(5) == 5
    await driven.assign(None)
    assert await driven.passed(5) == 0  # no_assignment_behavior
