import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from authz.engine.decision_log import DecisionLog
from authz.engine.decision_record import DecisionRecord, Masking
from tests.support.decisions import DENIED, entry


class Kept:
    """Keeps what it is given; fails while `broken`, waits while `stuck` is not set."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.broken = False
        self.go = asyncio.Event()
        self.go.set()
        self.closed = False

    async def write(self, lines: Sequence[bytes]) -> None:
        await self.go.wait()
        if self.broken:
            raise OSError("disk full")
        self.lines += [orjson.loads(line) for line in lines]

    async def close(self) -> None:
        self.closed = True


def log(
    writer: Kept, *, allow_sample_rate: float = 1.0, queue_lines: int = 100, number: float = 0.5
) -> DecisionLog:
    return DecisionLog(
        writer, Masking(), random=lambda: number, allow_sample_rate=allow_sample_rate, queue_lines=queue_lines
    )


async def written(writer: Kept, decisions: DecisionLog, *entries: DecisionRecord) -> list[dict[str, Any]]:
    decisions.start()
    for one in entries:
        decisions.put(one)
    await decisions.stop(5)
    return writer.lines


async def test_each_decision_is_a_line() -> None:
    writer = Kept()
    lines = await written(writer, log(writer), entry(1), entry(2, DENIED))
    assert [line["outcome"] for line in lines] == ["allow", "deny"]
    assert writer.closed


async def test_allows_are_sampled_and_denials_never() -> None:
    writer = Kept()
    decisions = log(writer, allow_sample_rate=0.4)
    lines = await written(writer, decisions, entry(1), entry(2, DENIED))
    assert [line["outcome"] for line in lines] == ["deny"]
    assert decisions.sampled_out == 1


async def test_an_allow_that_a_shadow_rule_would_deny_is_never_sampled_out() -> None:
    writer = Kept()
    shadowed = entry(1)._replace(shadow=DENIED)
    lines = await written(writer, log(writer, allow_sample_rate=0), shadowed)
    assert [line["shadow_outcome"] for line in lines] == ["deny"]


async def test_a_full_queue_drops_and_counts() -> None:
    writer = Kept()
    decisions = log(writer, queue_lines=2)
    lines = await written(writer, decisions, *(entry(number) for number in range(5)))
    assert (len(lines), decisions.dropped) == (2, 3)


async def test_a_writer_that_is_stuck_delays_no_one() -> None:
    """`put` returns while the writer hangs, and what did not fit is counted."""
    writer = Kept()
    writer.go.clear()
    decisions = log(writer, queue_lines=3)
    decisions.start()
    for number in range(10):
        decisions.put(entry(number))
    assert decisions.dropped == 7
    await decisions.stop(0.01)
    assert decisions.dropped == 10


async def test_what_a_broken_writer_did_not_take_is_written_later() -> None:
    writer = Kept()
    writer.broken = True
    decisions = log(writer)
    decisions.put(entry(1))
    assert not await decisions._write_batch()
    assert decisions.state()["failing"]
    writer.broken = False
    assert await decisions._write_batch()
    assert len(writer.lines) == 1


async def test_what_cannot_be_written_at_the_end_is_counted() -> None:
    writer = Kept()
    writer.broken = True
    decisions = log(writer)
    assert await written(writer, decisions, entry(1)) == []
    assert decisions.dropped == 1


async def test_the_counts_are_metrics() -> None:
    writer = Kept()
    registry = CollectorRegistry()
    decisions = log(writer)
    registry.register(decisions)
    await written(writer, decisions, entry(1), entry(2, DENIED))
    assert registry.get_sample_value("authz_decision_log_lines_total", {"result": "written"}) == 2
    assert registry.get_sample_value("authz_decision_log_lines_total", {"result": "dropped"}) == 0
