"""Client streaming, server streaming and both at once on every transport."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from sidecars.transport.api.service import Bidirectional, Call, ClientStreaming, ServerStreaming
from tests.support.transport.harness import Connect, Gate, Serve, read_all, settled, until, within

CHUNK = bytes(64 * 1024)
MANY = 1000
"""64 MB in chunks: more than any client or kernel is willing to buffer."""


async def join(messages: AsyncIterator[bytes], call: Call) -> bytes:
    return b"|".join([message async for message in messages])


async def count_down(request: bytes, call: Call) -> AsyncIterator[bytes]:
    for number in range(int(request), 0, -1):
        yield b"%d" % number


async def shout(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message.upper()


async def stream_of(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


@pytest.mark.parametrize("count", [0, 1, 2, 500])
async def test_a_client_stream_arrives_whole_and_in_order(serve: Serve, connect: Connect, count: int) -> None:
    served = await serve({"Join": ClientStreaming(join)})
    messages = [b"%d" % i for i in range(count)]
    assert await within(connect(served).client_stream("Join", stream_of(*messages))) == b"|".join(messages)


async def test_empty_messages_of_a_stream_are_messages(serve: Serve, connect: Connect) -> None:
    served = await serve({"Join": ClientStreaming(join)})
    assert await within(connect(served).client_stream("Join", stream_of(b"", b"", b""))) == b"||"


async def test_a_large_client_stream_passes_through_the_windows(serve: Serve, connect: Connect) -> None:
    async def total(messages: AsyncIterator[bytes], call: Call) -> bytes:
        return b"%d" % sum([len(message) async for message in messages])

    served = await serve({"Total": ClientStreaming(total)})
    reply = await within(connect(served).client_stream("Total", stream_of(*[CHUNK] * 100)))
    assert reply == b"%d" % (100 * len(CHUNK))


async def test_a_client_stream_may_be_answered_before_it_ends(serve: Serve, connect: Connect) -> None:
    async def first(messages: AsyncIterator[bytes], call: Call) -> bytes:
        async for message in messages:
            return message
        return b"none"

    served = await serve({"First": ClientStreaming(first)})
    call = connect(served).client_stream("First")
    await within(call.write(b"one"))
    assert await within(call) == b"one"


async def test_a_client_stream_may_be_answered_without_reading_it(serve: Serve, connect: Connect) -> None:
    async def ignore(messages: AsyncIterator[bytes], call: Call) -> bytes:
        return b"enough"

    served = await serve({"Ignore": ClientStreaming(ignore)})
    call = connect(served).client_stream("Ignore")
    assert await within(call) == b"enough"


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
async def test_a_server_stream_arrives_whole_and_in_order(serve: Serve, connect: Connect, count: int) -> None:
    served = await serve({"CountDown": ServerStreaming(count_down)})
    replies = await read_all(connect(served).server_stream("CountDown", b"%d" % count))
    assert replies == [b"%d" % i for i in range(count, 0, -1)]


async def test_a_large_server_stream_passes_through_the_windows(serve: Serve, connect: Connect) -> None:
    async def pour(request: bytes, call: Call) -> AsyncIterator[bytes]:
        for _ in range(100):
            yield CHUNK

    served = await serve({"Pour": ServerStreaming(pour)})
    replies = await read_all(connect(served).server_stream("Pour", b""))
    assert [len(reply) for reply in replies] == [len(CHUNK)] * 100


async def test_both_directions_flow_at_once(serve: Serve, connect: Connect) -> None:
    served = await serve({"Shout": Bidirectional(shout)})
    call = connect(served).both("Shout")
    for word in (b"ping", b"pong", b""):
        await within(call.write(word))
        assert await within(call.read()) == word.upper()
    await within(call.done_writing())
    assert await within(call.read()) is grpc.aio.EOF
    assert await within(call.code()) is grpc.StatusCode.OK


async def test_a_bidirectional_handler_may_speak_after_the_client_has_finished(
    serve: Serve, connect: Connect
) -> None:
    async def tally(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        count = len([message async for message in messages])
        yield b"%d" % count
        yield b"done"

    served = await serve({"Tally": Bidirectional(tally)})
    assert await read_all(connect(served).both("Tally", stream_of(b"a", b"b"))) == [
        b"2",
        b"done",
    ]


async def test_watchers_are_told_of_each_change_until_they_leave(serve: Serve, connect: Connect) -> None:
    """The shape of grpc.health.v1 Watch: the state now, then every change, for as long as the peer likes."""
    state, changed, watching = b"SERVING", asyncio.Condition(), 0

    async def watch(request: bytes, call: Call) -> AsyncIterator[bytes]:
        nonlocal watching
        watching += 1
        try:
            while True:
                sent = state
                yield sent
                async with changed:
                    while state == sent:
                        await changed.wait()
        finally:
            watching -= 1

    served = await serve({"Watch": ServerStreaming(watch)})
    client = connect(served)
    watchers = [client.server_stream("Watch", b"") for _ in range(3)]
    assert [await within(watcher.read()) for watcher in watchers] == [b"SERVING"] * 3
    async with changed:
        state = b"NOT_SERVING"
        changed.notify_all()
    assert [await within(watcher.read()) for watcher in watchers] == [b"NOT_SERVING"] * 3
    for watcher in watchers:
        watcher.cancel()
    await until(lambda: watching == 0)


async def test_a_handler_that_does_not_read_stops_its_peer(serve: Serve, connect: Connect) -> None:
    """A full accesslog pipeline stops reading: no end of the stream, no buffer without end."""
    gate, written, read = Gate(), 0, 0

    async def swallow(messages: AsyncIterator[bytes], call: Call) -> bytes:
        nonlocal read
        await gate.hold(call)
        async for message in messages:
            read += len(message)
        return b"%d" % read

    served = await serve({"Swallow": ClientStreaming(swallow)})
    call = connect(served).client_stream("Swallow")

    async def write() -> None:
        nonlocal written
        for _ in range(MANY):
            await call.write(CHUNK)
            written += 1
        await call.done_writing()

    writer = asyncio.create_task(write())
    await gate.wait_entered()
    assert await settled(lambda: written) < MANY
    gate.open.set()
    await within(writer)
    assert await within(call) == b"%d" % (MANY * len(CHUNK))


async def test_a_stream_that_is_not_read_does_not_stop_other_calls(serve: Serve, connect: Connect) -> None:
    """One stream must not use up the connection window permanently (RFC 9113 section 5.2.2)."""
    gate = Gate()

    async def stuck(messages: AsyncIterator[bytes], call: Call) -> bytes:
        await gate.hold(call)
        return b""

    served = await serve({"Stuck": ClientStreaming(stuck), "Join": ClientStreaming(join)})
    client = connect(served)
    call = client.client_stream("Stuck")

    async def write() -> None:
        while True:
            await call.write(CHUNK)

    writer = asyncio.create_task(write())
    await gate.wait_entered()
    other = await within(client.client_stream("Join", stream_of(b"still", b"served")))
    assert other == b"still|served"
    writer.cancel()
    call.cancel()
    await asyncio.gather(writer, return_exceptions=True)


async def test_a_peer_that_does_not_read_stops_the_handler(serve: Serve, connect: Connect) -> None:
    yielded = 0

    async def pour(request: bytes, call: Call) -> AsyncIterator[bytes]:
        nonlocal yielded
        for _ in range(MANY):
            yielded += 1
            yield CHUNK

    served = await serve({"Pour": ServerStreaming(pour)})
    call = connect(served).server_stream("Pour", b"")
    assert await within(call.read()) == CHUNK
    assert await settled(lambda: yielded) < MANY
    assert len(await read_all(call)) == MANY - 1
