"""Several processes on one real Redis: what passes in any span of time is within the stated bound."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

SIZE = 40
PROCESSES = 3
SECONDS = 2.5
ROOT = Path(__file__).parents[2]


async def passed(url: str, kind: str) -> list[tuple[float, float]]:
    """The hits that passed, over all processes: when each was asked and answered."""
    command = [sys.executable, "-m", "tests.support.limit_taker", url, kind, str(SIZE), str(SECONDS)]
    processes = [
        await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
        for _ in range(PROCESSES)
    ]
    outputs = await asyncio.gather(*[process.communicate() for process in processes])
    assert [process.returncode for process in processes] == [0] * PROCESSES
    found = [json.loads(output) for output, _ in outputs]
    # All three may pass, but one that the machine runs late finds each window empty.
    assert sum(map(bool, found)) > 1, "processes share the bucket"
    return sorted((asked, answered) for hits in found for asked, answered in hits)


def most_within(hits: list[tuple[float, float]], bound: Callable[[float], float]) -> None:
    """Hold every span: a hit that was asked and answered within it was counted within it."""
    for begin in [asked for asked, _ in hits]:
        answers = sorted(answered for asked, answered in hits if asked >= begin)
        for count, end in enumerate(answers, 1):
            assert count <= bound(end - begin), (count, end - begin)


async def test_a_token_bucket_admits_its_size_and_what_is_refilled(shared_redis: RedisServer) -> None:
    hits = await passed(shared_redis.url, "token_bucket")
    assert len(hits) > SIZE
    most_within(hits, lambda seconds: SIZE + SIZE * seconds)


async def test_a_sliding_window_admits_at_most_twice_its_limit(shared_redis: RedisServer) -> None:
    hits = await passed(shared_redis.url, "sliding_window")
    assert len(hits) >= SIZE
    most_within(hits, lambda seconds: 2 * SIZE * (1 + seconds))


async def test_a_fixed_window_admits_its_limit_in_each_window(shared_redis: RedisServer) -> None:
    hits = await passed(shared_redis.url, "fixed_window")
    assert len(hits) > SIZE
    windows = {int(asked) for asked, _ in hits}
    for window in windows:
        inside = [asked for asked, answered in hits if window <= asked and answered < window + 1]
        assert len(inside) <= SIZE
    assert len(hits) <= SIZE * (max(windows) - min(windows) + 2)
