"""Every transport ends in order: what is in flight finishes, nothing new begins."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from functools import partial

import grpc
import grpc.aio
import pytest

from sidecars.transport.api.service import Call, ClientStreaming, ServerStreaming, Unary
from tests.support.transport.harness import (
    LOOPBACK,
    Connect,
    Gate,
    Serve,
    make_server,
    outcome,
    read_all,
    until,
    within,
)


def echo(request: bytes, call: Call) -> bytes:
    return request


async def test_calls_in_flight_finish(serve: Serve, connect: Connect) -> None:
    gate = Gate()
    served = await serve({"Wait": Unary(gate.unary)})
    method = partial(connect(served).unary, "Wait")
    calls = [asyncio.ensure_future(method(b"%d" % i)) for i in range(20)]
    await gate.wait_entered(20)
    drain = asyncio.create_task(served.server.drain(30))
    await asyncio.sleep(0)
    gate.open.set()
    assert await within(asyncio.gather(*calls)) == [b"%d" % i for i in range(20)]
    await within(drain)


async def test_streams_in_flight_finish(serve: Serve, connect: Connect) -> None:
    gate = Gate()

    async def total(messages: AsyncIterator[bytes], call: Call) -> bytes:
        await gate.hold(call)
        return b"%d" % sum([len(message) async for message in messages])

    async def two(request: bytes, call: Call) -> AsyncIterator[bytes]:
        yield b"before"
        await gate.hold(call)
        yield b"after"

    served = await serve({"Total": ClientStreaming(total), "Two": ServerStreaming(two)})
    client = connect(served)
    sending = client.client_stream("Total")
    await within(sending.write(b"abc"))
    receiving = client.server_stream("Two", b"")
    assert await within(receiving.read()) == b"before"
    await gate.wait_entered(2)
    drain = asyncio.create_task(served.server.drain(30))
    await asyncio.sleep(0.05)
    await within(sending.write(b"defg"))
    await within(sending.done_writing())
    gate.open.set()
    assert await within(sending) == b"7"
    assert await read_all(receiving) == [b"after"]
    await within(drain)


async def test_a_drain_waits_for_what_is_in_flight(serve: Serve, connect: Connect) -> None:
    gate = Gate()
    served = await serve({"Wait": Unary(gate.unary)})
    call = asyncio.ensure_future(connect(served).unary("Wait", b""))
    await gate.wait_entered()
    drain = asyncio.create_task(served.server.drain(30))
    await asyncio.wait([drain], timeout=0.2)
    assert not drain.done()
    gate.open.set()
    await within(call)
    await within(drain)


async def test_nobody_is_let_in_after_the_drain_began(serve: Serve, connect: Connect) -> None:
    gate = Gate()
    served = await serve({"Wait": Unary(gate.unary)})
    port = served.port
    call = asyncio.ensure_future(connect(served).unary("Wait", b""))
    await gate.wait_entered()
    drain = asyncio.create_task(served.server.drain(30))

    def refused() -> bool:
        with socket.socket() as probe:
            probe.settimeout(5)  # the kernel answers on the loopback at once
            return probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED

    await until(refused)
    gate.open.set()
    await within(call)
    await within(drain)


async def test_no_call_that_was_taken_in_is_lost(serve: Serve, connect: Connect) -> None:
    """Two-step GOAWAY (RFC 9113 section 6.8): a call is answered, or never begun and free to be retried."""
    begun: list[bytes] = []

    async def handler(request: bytes, call: Call) -> bytes:
        begun.append(request)
        await asyncio.sleep(0.001)
        return request

    served = await serve({"Echo": Unary(handler)})
    method = partial(connect(served).unary, "Echo")
    answered: list[bytes] = []

    async def ask(number: int) -> None:
        for i in range(100_000):
            request = b"%d-%d" % (number, i)
            code, _ = await outcome(method(request))
            if code is not grpc.StatusCode.OK:
                assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
                return
            answered.append(request)

    clients = [asyncio.create_task(ask(number)) for number in range(8)]
    await until(lambda: len(answered) >= 50)
    await within(served.server.drain(30))
    await within(asyncio.gather(*clients))
    assert sorted(begun) == sorted(answered)


async def test_after_the_grace_what_is_left_is_cancelled(serve: Serve, connect: Connect) -> None:
    gate = Gate()
    served = await serve({"Wait": Unary(gate.unary)})
    call = asyncio.ensure_future(outcome(connect(served).unary("Wait", b"")))
    await gate.wait_entered()
    await within(served.server.drain(0.1))
    await gate.wait_left()
    code, _ = await within(call)
    assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_an_idle_connection_does_not_hold_up_the_drain(serve: Serve, connect: Connect) -> None:
    served = await serve({"Echo": Unary(echo)})
    client = connect(served)
    await within(client.unary("Echo", b""))
    await within(served.server.drain(1000))


@pytest.mark.parametrize("drains", [1, 2])
async def test_a_server_that_never_started_may_be_drained(transport: str, drains: int) -> None:
    server = make_server(transport, (), [LOOPBACK])
    for _ in range(drains):
        await within(server.drain(1000))


async def test_a_second_drain_is_harmless(serve: Serve) -> None:
    served = await serve({"Echo": Unary(echo)})
    for _ in range(2):
        await within(served.server.drain(1000))
