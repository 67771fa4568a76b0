"""Turns of the loop: what one connection asks for, or fifty do, leaves others theirs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Call, ClientStreaming, Method, Unary
from sidecars.transport.http2 import frames
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.stream import Stream
from sidecars.transport.http2.streams import HANDLER_COST_BYTES, Streams
from sidecars.transport.server.admission import ALWAYS_ADMITTED
from sidecars.transport.server.protocol import SMALL_READ_BYTES
from sidecars.transport.server.scheduler import (
    HANDLERS_A_TURN,
    MESSAGE_COST_BYTES,
    TURN_BYTES,
    TURN_SECONDS,
)
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


async def test_large_reads_of_many_connections_share_the_turns() -> None:
    """All can be read in the same turn of the loop; each would take its millisecond in it."""
    now, asked, per_turn = 0.0, 0, [0]

    def ask(request: bytes, call: Call) -> bytes:
        nonlocal asked, now
        asked += 1
        now += 2 * TURN_SECONDS
        return b""

    async def tick() -> None:
        while True:
            before = asked
            await asyncio.sleep(0)
            per_turn.append(asked - before)

    connected, calls = 10, 5
    server = GrpcServer(services({"Ask": Unary(ask)}), [LOOPBACK], clock=lambda: now)
    await within(server.start())
    writers = []
    for _ in range(connected):
        reader, writer = await within(asyncio.open_connection("127.0.0.1", server.ports[0]))
        writer.write(OPENING)
        assert await within(reader.read(1))
        writers.append(writer)
    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)  # the first reads must not come before the first tick
    body = bytes(SMALL_READ_BYTES)
    for writer in writers:
        writer.write(b"".join(call(number, body, method=path("Ask")) for number in stream_ids(calls)))
    await until(lambda: asked == connected * calls)
    ticking.cancel()
    for writer in writers:
        writer.transport.abort()
    await within(server.drain(0))
    assert max(per_turn) < connected / 2, per_turn


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


def test_a_read_whose_unary_calls_wait_is_left_in_the_middle() -> None:
    """Each is a task, which runs in the next turn of the loop."""
    bench = settings_received(Limits(max_bytes_per_turn=A_FEW * HANDLER_COST_BYTES - 1))
    bench.feed(b"".join(call(number, method="/p/Later") for number in stream_ids(10)))
    counts = [len(bench.connection.streams.table)]
    while bench.connection.has_pending_input:
        bench.feed(b"")
        counts.append(len(bench.connection.streams.table))
    assert counts == [4, 8, 10]


def test_a_read_that_cancels_many_handlers_is_left_in_the_middle() -> None:
    bench = settings_received(Limits(max_bytes_per_turn=A_FEW * HANDLER_COST_BYTES - 1))
    for number in stream_ids(10):
        bench.feed(call(number, method="/p/Later"))
    output = bench.feed(b"".join(frame(frames.RST_STREAM, 0, number, CANCEL) for number in stream_ids(10)))
    counts = [len(bench.connection.streams.table)]
    while bench.connection.has_pending_input:
        output += bench.feed(b"")
        counts.append(len(bench.connection.streams.table))
    assert counts == [6, 2, 0]
    assert resets(output) == []


class Holding:
    """A server with handlers that wait for a message that never comes, and what a second connection sees."""

    def __init__(self, limits: Limits) -> None:
        self.held = self.most_ended = self.ended = 0
        self.ended_at_answer: list[int] = []
        methods: dict[str, Method] = {
            "Join": ClientStreaming(self.join),
            "Log": ClientStreaming(self.join, waits_for_message=True),
            "Ask": Unary(self.ask),
            "Wait": Unary(self.wait),
        }
        self.server = GrpcServer(services(methods), [LOOPBACK], limits=limits)
        self.writers: list[asyncio.StreamWriter] = []
        """Every connection, because asyncio closes one whose writer is garbage."""

    async def join(self, messages: AsyncIterator[bytes], call: Call) -> bytes:
        self.held += 1
        try:
            async for _ in messages:
                pass
        finally:
            self.held -= 1
            self.ended += 1
        return b""

    async def wait(self, request: bytes, call: Call) -> bytes:
        self.held += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.held -= 1
            self.ended += 1
        return request

    def ask(self, request: bytes, call: Call) -> bytes:
        self.ended_at_answer.append(self.ended)
        return request

    async def watch(self) -> None:
        """Note the most handlers that end in one turn of the loop."""
        while True:
            before = self.ended
            await asyncio.sleep(0)
            self.most_ended = max(self.most_ended, self.ended - before)

    async def connect(self, streams: int) -> asyncio.StreamWriter:
        """A connection with as many calls of Join, whose handlers have a message and wait for the next."""
        _, writer = await within(asyncio.open_connection("127.0.0.1", self.server.ports[0]))
        head, body = request(path("Join")), message(b"")
        numbers = list(stream_ids(streams))
        opening = [frame(frames.HEADERS, frames.END_HEADERS, number, head) for number in numbers]
        opening += [frame(frames.DATA, 0, number, body) for number in numbers]
        writer.write(OPENING + b"".join(opening))
        self.writers.append(writer)
        return writer

    async def begin(self, streams: int, *fields: tuple[str, str]) -> asyncio.StreamWriter:
        """A connection with as many calls of Log, which send no message."""
        _, writer = await within(asyncio.open_connection("127.0.0.1", self.server.ports[0]))
        block = request(path("Log"), *fields)
        opening = [frame(frames.HEADERS, frames.END_HEADERS, number, block) for number in stream_ids(streams)]
        writer.write(OPENING + b"".join(opening))
        self.writers.append(writer)
        await until(lambda: self.server.open_streams >= streams)
        return writer


@asynccontextmanager
async def holding(limits: Limits) -> AsyncIterator[Holding]:
    """A server that is drained even if the test fails: uvloop never closes while a server listens."""
    log = Holding(limits)
    await within(log.server.start())
    try:
        yield log
    finally:
        await within(log.server.drain(0))
        for writer in log.writers:
            writer.transport.abort()


HELD = 1_000


async def test_a_handler_that_waits_for_messages_starts_with_the_first_or_the_end() -> None:
    """Thousands of log streams that send nothing cost no task each."""
    async with holding(Limits()) as log:
        writer = await log.begin(3)
        assert log.held == 0
        writer.write(frame(frames.DATA, 0, 1, message(b"x")[:3]))
        writer.write(frame(frames.DATA, 0, 3, message(b"x")))
        await until(lambda: log.held == 1)
        writer.write(frame(frames.DATA, 0, 1, message(b"x")[3:]))
        await until(lambda: log.held == 2)
        writer.write(frame(frames.DATA, frames.END_STREAM, 5, b""))
        await until(lambda: log.ended == 1)
        assert log.server.open_streams == 2


async def test_streams_that_sent_nothing_have_a_limit_and_give_their_room_back() -> None:
    async with holding(Limits(max_handlers=20)) as log:
        resetting = await log.begin(20)
        await log.connect(20)
        await until(lambda: log.held == ALWAYS_ADMITTED)
        resetting.write(b"".join(frame(frames.RST_STREAM, 0, number, CANCEL) for number in stream_ids(10)))
        await until(lambda: log.server.open_streams == 10 + ALWAYS_ADMITTED)
        closing = await log.connect(20)
        await until(lambda: log.held == 2 * ALWAYS_ADMITTED)
        resetting.transport.abort()
        closing.transport.abort()
        await until(lambda: log.held == ALWAYS_ADMITTED)
        await log.connect(20)
        await until(lambda: log.held == 20)


SHORT_LINGERING = Limits(lingering_timeout_seconds=0.05)
"""A connection whose client does not close it ends soon after its last stream."""


async def test_a_stream_that_sent_nothing_ends_at_its_deadline() -> None:
    async with holding(SHORT_LINGERING) as log:
        await log.begin(2, ("grpc-timeout", "50m"))
        await until(lambda: log.server.open_streams == 0)
        assert log.ended == 0


async def test_a_drain_starts_the_handlers_of_streams_that_sent_nothing() -> None:
    """Only handlers know how to end their streams: otherwise the drain would wait for its whole grace."""
    ended = asyncio.Event()

    async def log(messages: AsyncIterator[bytes], call: Call) -> bytes:
        await ended.wait()
        return b""

    methods = services({"Log": ClientStreaming(log, waits_for_message=True)})
    server = GrpcServer(methods, [LOOPBACK], limits=SHORT_LINGERING)
    await within(server.start())
    _, writer = await within(asyncio.open_connection("127.0.0.1", server.ports[0]))
    writer.write(OPENING + frame(frames.HEADERS, frames.END_HEADERS, 1, request(path("Log"))))
    await until(lambda: server.open_streams == 1)
    draining = asyncio.create_task(server.drain(3600))
    writer.write(frame(frames.HEADERS, frames.END_HEADERS, 3, request(path("Log"))))
    await asyncio.sleep(0)
    ended.set()
    await within(draining)
    writer.transport.abort()


async def test_a_connection_that_closes_ends_its_handlers_a_few_a_turn() -> None:
    """A thousand that end in one turn take 100 ms; a call of another connection is answered in between."""
    async with holding(Limits()) as log:
        flood = await log.connect(HELD)
        await until(lambda: log.held == HELD)
        reader, other = await within(asyncio.open_connection("127.0.0.1", log.server.ports[0]))
        other.write(OPENING)
        await within(reader.read(1))
        watching = asyncio.create_task(log.watch())
        flood.transport.abort()
        other.write(call(1, b"x", method=path("Ask")))
        await until(lambda: log.held == 0)
        watching.cancel()
        assert log.most_ended <= 2 * HANDLERS_A_TURN
        assert len(log.ended_at_answer) == 1
        assert log.ended_at_answer[0] < HELD
        other.transport.abort()


async def test_a_connection_that_closes_ends_its_unary_handlers_at_once() -> None:
    """Only `max_concurrent_streams` bounds them: those of closed connections must not pile up in line."""
    async with holding(Limits()) as log:
        flood = await log.connect(0)
        flood.write(b"".join(call(number, b"x", method=path("Wait")) for number in stream_ids(HELD)))
        await until(lambda: log.held == HELD)
        watching = asyncio.create_task(log.watch())
        flood.transport.abort()
        await until(lambda: log.most_ended > 0)
        watching.cancel()
        assert log.most_ended == HELD


async def test_a_drain_waits_for_the_handlers_of_connections_that_are_gone() -> None:
    async with holding(Limits()) as log:
        await log.connect(HELD)
        await until(lambda: log.held == HELD)
        await within(log.server.drain(0))
        assert log.ended == HELD


async def test_calls_that_are_reset_in_line_give_their_room_back() -> None:
    """Opened and reset in one write: most are gone before the turn of their handler comes."""
    async with holding(Limits(max_handlers=HELD)) as log:
        writer = await log.connect(HELD)
        writer.write(b"".join(frame(frames.RST_STREAM, 0, number, CANCEL) for number in stream_ids(HELD)))
        await within(writer.drain())
        await log.connect(1)
        await until(lambda: log.server.open_streams == 1 and log.held == 1)
        await log.connect(HELD - 1)
        await until(lambda: log.held == HELD)
    assert log.held == 0


async def test_streaming_calls_have_a_limit_over_all_connections() -> None:
    """What one connection takes leaves every other its own few, and comes back when its handlers end."""
    most = 20
    async with holding(Limits(max_handlers=most)) as log:
        greedy = await log.connect(2 * most)
        await until(lambda: log.held == most)
        await log.connect(most)
        await until(lambda: log.held == most + ALWAYS_ADMITTED)
        greedy.transport.abort()
        await until(lambda: log.held == ALWAYS_ADMITTED)
        await log.connect(most)
        await until(lambda: log.held == most)


@pytest.mark.parametrize("method", ["/p/Join", "/p/Shout", "/p/Split"])
def test_a_streaming_call_without_room_may_be_tried_again(method: str) -> None:
    bench = settings_received()
    bench.calls.room = False
    output = bench.feed(call(1, method=method))
    assert resets(output) == [(1, frames.ErrorCode.REFUSED_STREAM)]
    assert bench.tally.reasons == [Reason.TOO_MANY_HANDLERS]
    assert not bench.connection.streams.table
    bench.calls.room = True
    assert resets(bench.feed(call(3, method=method))) == []


def test_frames_without_a_payload_take_their_time_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """DATA that ends a stream and brings nothing: its nine bytes resume a handler."""
    bench = settings_received(Limits(turn_seconds=0.001))
    bench.feed(b"".join(opened(number, "/p/Join") for number in stream_ids(9)))
    resumed = []

    def resume(_streams: Streams, stream: Stream) -> None:
        resumed.append(stream.id)
        bench.now += 0.0004

    monkeypatch.setattr(bench.calls, "resume", resume)
    bench.feed(b"".join(frame(frames.DATA, frames.END_STREAM, number, b"") for number in stream_ids(9)))
    counts = [len(resumed)]
    while bench.connection.has_pending_input:
        bench.feed(b"")
        counts.append(len(resumed))
    assert counts == [3, 6, 9]
