"""What a connection leaves behind when it is over: nothing that waits for a collection of garbage."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from sidecars.services.message_reader import Reader
from sidecars.transport.api.service import Bidirectional, Call, ClientStreaming, Method, Unary
from sidecars.transport.http2 import frames
from sidecars.transport.http2.connection import Connection
from sidecars.transport.http2.stream import ServerCall
from sidecars.transport.server.server import GrpcServer
from tests.support.transport.harness import LOOPBACK, path, services, until, within
from tests.support.transport.wire import (
    CANCEL,
    OPENING,
    Bench,
    Tally,
    frame,
    message,
    request,
    stream_ids,
)

FAULTS = {
    "no preface": b"GET / HTTP/1.1\r\n\r\n" + b"x" * 24,
    "a broken block": OPENING + frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff" * 40),
    "an even stream": OPENING + frame(frames.HEADERS, frames.END_HEADERS, 2, request("/p/Echo")),
    "a short ping": OPENING + frame(frames.PING, 0, 0, b"x"),
}


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def connections() -> int:
    return sum(isinstance(one, Connection) for one in gc.get_objects())


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("wire", FAULTS.values(), ids=FAULTS)
def test_a_connection_that_ended_by_a_fault_is_freed_at_once(wire: bytes) -> None:
    """A client that opens and breaks thousands of connections must not keep their memory in use."""
    before = connections()
    bench = Bench()
    bench.feed(wire)
    assert bench.connection.fault is not None
    assert connections() == before + 1
    bench.connection.lost()
    del bench
    assert connections() == before


@pytest.mark.usefixtures("no_collections")
async def test_a_connection_that_its_client_closes_is_freed_at_once() -> None:
    """It and its socket hold each other: each left a cycle, with the rest of its last read."""
    server = GrpcServer(services({}), [LOOPBACK])
    await within(server.start())
    before = connections()
    for _ in range(5):
        reader, writer = await within(asyncio.open_connection("127.0.0.1", server.ports[0]))
        writer.write(OPENING)
        assert await within(reader.read(1))
        assert connections() == before + 1
        writer.close()
        await until(lambda: connections() == before)
    await within(server.drain(0))


async def read_all(messages: AsyncIterator[bytes], call: Call) -> bytes:
    async for _ in messages:
        pass
    return b""


async def read_until_stopped(messages: AsyncIterator[bytes], call: Call) -> bytes:
    reader = Reader(messages)
    while await reader.next() is not None:
        pass
    return b""


async def shout(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    async for one in messages:
        yield one


async def wait(request: bytes, call: Call) -> bytes:
    await asyncio.get_running_loop().create_future()
    return b""


CANCELLED = {
    "unary": Unary(wait),
    "client streaming": ClientStreaming(read_all),
    "client streaming, by a reader": ClientStreaming(read_until_stopped),
    "both streaming": Bidirectional(shout),
}


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("method", CANCELLED.values(), ids=CANCELLED)
async def test_a_cancelled_call_is_freed_at_once(method: Method) -> None:
    """Full collections of the garbage of a thousand cancelled streams took 80 ms each."""

    def open_calls() -> int:
        return sum(isinstance(one, ServerCall) for one in gc.get_objects())

    tally = Tally()
    server = GrpcServer(services({"Method": method}), [LOOPBACK], observer=tally)
    await within(server.start())
    before = open_calls()
    _, writer = await within(asyncio.open_connection("127.0.0.1", server.ports[0]))
    numbers = list(stream_ids(10))
    writer.write(OPENING + b"".join(begun(number, unary=isinstance(method, Unary)) for number in numbers))
    await until(lambda: server.open_streams == len(numbers))
    assert open_calls() == before + len(numbers)
    writer.write(b"".join(frame(frames.RST_STREAM, 0, number, CANCEL) for number in numbers))
    await until(lambda: tally.resets_received == len(numbers))
    await until(lambda: open_calls() == before)
    writer.transport.abort()
    await within(server.drain(0))


def begun(stream_id: int, *, unary: bool) -> bytes:
    head = frame(frames.HEADERS, frames.END_HEADERS, stream_id, request(path("Method")))
    return head + (frame(frames.DATA, frames.END_STREAM, stream_id, message(b"")) if unary else b"")
