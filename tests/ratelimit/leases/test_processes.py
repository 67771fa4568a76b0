"""Processes with leases on one real Redis, one of them killed: what passes is within the bound."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Final

import pytest

from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

SIZE: Final = 600
SHARE: Final = 0.5
PROCESSES: Final = 3
SECONDS: Final = 3.0
HITS_BEFORE_THE_KILL: Final = 150
ROOT: Final = Path(__file__).parents[3]


async def start(url: str, seconds: float = SECONDS) -> Process:
    arguments = [url, str(SIZE), str(SHARE), str(PROCESSES), str(seconds)]
    command = [sys.executable, "-m", "tests.support.lease_taker", *arguments]
    return await asyncio.create_subprocess_exec(*command, stdout=PIPE, cwd=ROOT)


def hits_in(lines: list[bytes]) -> list[tuple[float, float]]:
    """When each hit was asked and answered. The last line of a killed process may be cut off."""
    pairs = [line.split() for line in lines if line.endswith(b"\n") and not line.startswith(b"#")]
    return [(float(asked), float(answered)) for asked, answered in pairs]


def hold(hits: list[tuple[float, float]], allowance: float) -> None:
    """In every span: at most the size, what is refilled, and what was leased out at its beginning."""
    begins = sorted({asked for asked, _ in hits})
    for index in range(0, len(begins), 7):
        begin = begins[index]
        answers = sorted(answered for asked, answered in hits if asked >= begin)
        leased_out = allowance if index else 0
        for count, end in enumerate(answers, 1):
            assert count <= SIZE * (1 + end - begin) + leased_out, (count, end - begin)


async def test_what_passes_is_within_the_bound_although_a_process_is_killed(
    shared_redis: RedisServer,
) -> None:
    processes = [await start(shared_redis.url) for _ in range(PROCESSES)]
    killed = processes[0]
    assert killed.stdout is not None
    lines = [await killed.stdout.readline() for _ in range(HITS_BEFORE_THE_KILL)]
    killed.kill()
    lines += (await killed.stdout.read()).splitlines(keepends=True)
    await killed.wait()
    processes[0] = await start(shared_redis.url, SECONDS / 2)
    outputs = await asyncio.gather(*[process.communicate() for process in processes])
    assert [process.returncode for process in processes] == [0] * PROCESSES
    for output, _ in outputs:
        lines += output.splitlines(keepends=True)
    ends = [line.split() for line in lines if line.startswith(b"#")]
    assert len(ends) == PROCESSES
    assert sum(int(answered) for _, answered, _ in ends) > SIZE / 4, "leases answer"
    assert [int(out) for *_, out in ends] == [0] * PROCESSES, "all is returned"
    hits = hits_in(lines)
    assert len(hits) > SIZE
    hold(hits, SHARE * SIZE)
