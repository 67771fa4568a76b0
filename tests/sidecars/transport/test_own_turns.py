"""Turns of the loop: what one connection asks for, or fifty do, leaves others theirs."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Call, ClientStreaming
from sidecars.transport.http2 import frames
from sidecars.transport.http2.streams import HANDLER_COST_BYTES
from sidecars.transport.server.scheduler import MESSAGE_COST_BYTES, TURN_BYTES, FairScheduler
from sidecars.transport.server.server import GrpcServer
from tests.support.transport.harness import LOOPBACK, path, services, until, within
from tests.support.transport.wire import (
    CANCEL,
    OPENING,
    call,
    frame,
    message,
    opened,
    request,
    resets,
    settings_received,
    stream_ids,
)

STREAMS = 100
MESSAGES = 100


async def turn() -> None:
    """Let the loop go round once."""
    await asyncio.sleep(0)


async def test_each_connection_in_line_has_one_turn_after_the_other() -> None:
    scheduler, order = FairScheduler(asyncio.get_running_loop()), list[str]()
    for name in ("flood", "flood", "flood", "honest"):
        scheduler.enqueue(name, lambda name=name: order.append(name))  # type: ignore[misc]
    for expected in range(5):
        assert len(order) == min(expected, 4)
        await turn()
    assert order == ["flood", "honest", "flood", "flood"]


async def test_what_lines_up_in_its_turn_has_another() -> None:
    scheduler, order = FairScheduler(asyncio.get_running_loop()), list[str]()

    def go() -> None:
        order.append("again")
        scheduler.enqueue("again", go)

    scheduler.enqueue("again", go)
    scheduler.enqueue("other", lambda: order.append("other"))
    for _ in range(4):
        await turn()
    assert order == ["again", "other", "again", "again"]


async def test_a_turn_is_spent_by_large_messages_and_by_many_small_ones() -> None:
    scheduler = FairScheduler(asyncio.get_running_loop())
    for size, most in ((TURN_BYTES, 1), (0, TURN_BYTES // MESSAGE_COST_BYTES)):
        for _ in range(most):
            assert scheduler.has_room
            scheduler.spend(size)
        assert not scheduler.has_room
        await turn()


async def test_a_handler_that_is_cancelled_in_line_is_passed_over() -> None:
    scheduler = FairScheduler(asyncio.get_running_loop())
    first, second = (asyncio.create_task(scheduler.wait("a")) for _ in range(2))
    await turn()
    first.cancel()
    await within(second)
    assert first.cancelled()


async def test_the_handlers_of_a_thousand_streams_share_their_turns() -> None:
    """One connection, a hundred streams with a hundred messages each: all would be read in one turn."""
    read, ticks = 0, [0]

    async def join(messages: AsyncIterator[bytes], call: Call) -> bytes:
        nonlocal read
        async for _ in messages:
            read += 1
        return b""

    async def tick() -> None:
        while True:
            ticks.append(read)
            await asyncio.sleep(0)

    server = GrpcServer(services({"Join": ClientStreaming(join)}), [LOOPBACK], limits=Limits(turn_seconds=10))
    await within(server.start())
    ticking = asyncio.create_task(tick())
    _, writer = await within(asyncio.open_connection("127.0.0.1", server.ports[0]))
    numbers = list(stream_ids(STREAMS))
    head = [frame(frames.HEADERS, frames.END_HEADERS, number, request(path("Join"))) for number in numbers]
    body = [frame(frames.DATA, 0, number, message(b"") * MESSAGES) for number in numbers]
    writer.write(OPENING + b"".join(head) + b"".join(body))
    await until(lambda: read == STREAMS * MESSAGES)
    ticking.cancel()
    assert max(after - before for before, after in pairwise(ticks)) <= 2 * TURN_BYTES // MESSAGE_COST_BYTES
    writer.transport.abort()
    await within(server.drain(0))


A_FEW = 4


@pytest.mark.parametrize("method", ["/p/Join", "/p/Shout"])
def test_a_read_that_begins_many_handlers_is_left_in_the_middle(method: str) -> None:
    """Each runs in the next turn of the loop, and 19 bytes begin one."""
    bench = settings_received(Limits(max_bytes_per_turn=A_FEW * HANDLER_COST_BYTES - 1))
    bench.feed(b"".join(opened(number, method) for number in stream_ids(10)))
    counts = [len(bench.connection.streams.table)]
    while bench.connection.has_pending_input:
        bench.feed(b"")
        counts.append(len(bench.connection.streams.table))
    assert counts == [4, 8, 10]


def test_a_read_that_cancels_many_handlers_is_left_in_the_middle() -> None:
    bench = settings_received(Limits(max_bytes_per_turn=A_FEW * HANDLER_COST_BYTES - 1))
    bench.feed(b"".join(call(number, method="/p/Later") for number in stream_ids(10)))
    output = bench.feed(b"".join(frame(frames.RST_STREAM, 0, number, CANCEL) for number in stream_ids(10)))
    counts = [len(bench.connection.streams.table)]
    while bench.connection.has_pending_input:
        output += bench.feed(b"")
        counts.append(len(bench.connection.streams.table))
    assert counts == [6, 2, 0]
    assert resets(output) == []
