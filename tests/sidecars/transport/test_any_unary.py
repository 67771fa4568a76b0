"""What a unary call must do on every transport."""

import asyncio
from functools import partial

import pytest

from sidecars.transport.api.service import Call, Unary
from tests.support.transport.harness import Connect, Gate, Serve, within


def echo(request: bytes, call: Call) -> bytes:
    return request


async def echo_later(request: bytes, call: Call) -> bytes:
    await asyncio.sleep(0)
    return request


@pytest.mark.parametrize("handler", [echo, echo_later], ids=["at_once", "awaited"])
@pytest.mark.parametrize("size", [0, 1, 1200, 16_384, 16_385, 65_535, 65_536, 1_000_000])
async def test_a_request_of_any_size_comes_back_whole(
    serve: Serve, connect: Connect, handler: object, size: int
) -> None:
    """Around the frame size (16,384) and the first window (65,535) as well: RFC 9113 sections 4.2, 6.9.2."""
    served = await serve({"Echo": Unary(handler)})  # type: ignore[arg-type]
    request = bytes(i % 251 for i in range(size))
    assert await within(connect(served).unary("Echo", request)) == request


async def test_a_handler_may_return_any_awaitable(serve: Serve, connect: Connect) -> None:
    def handler(request: bytes, call: Call) -> asyncio.Future[bytes]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(request[::-1])
        return future

    served = await serve({"Echo": Unary(handler)})
    assert await within(connect(served).unary("Echo", b"abc")) == b"cba"


async def test_many_calls_at_once_each_get_their_own_reply(serve: Serve, connect: Connect) -> None:
    served = await serve({"Echo": Unary(echo), "Later": Unary(echo_later)})
    client = connect(served)
    requests = [b"%d" % i for i in range(300)]
    replies = await within(
        asyncio.gather(
            *(client.unary(("Echo", "Later")[i % 2], request) for i, request in enumerate(requests))
        )
    )
    assert replies == requests


async def test_a_slow_call_does_not_hold_up_others_on_its_connection(serve: Serve, connect: Connect) -> None:
    gate = Gate()
    served = await serve({"Slow": Unary(gate.unary), "Echo": Unary(echo)})
    client = connect(served)
    slow = client.unary("Slow", b"slow")
    waiting = asyncio.ensure_future(slow)
    await gate.wait_entered()
    assert await within(client.unary("Echo", b"fast")) == b"fast"
    gate.open.set()
    assert await within(waiting) == b"slow"


async def test_many_connections_are_served_at_once(serve: Serve, connect: Connect) -> None:
    served = await serve({"Echo": Unary(echo)})
    calls = [connect(served).unary("Echo", b"%d" % i) for i in range(20)]
    assert await within(asyncio.gather(*calls)) == [b"%d" % i for i in range(20)]


async def test_a_connection_outlives_many_calls(serve: Serve, connect: Connect) -> None:
    """Windows, stream numbers and caches must not run out: 3 MB pass here, 46 first windows."""
    served = await serve({"Echo": Unary(echo)})
    method = partial(connect(served).unary, "Echo")
    for i in range(1500):
        request = b"%d" % i * 500
        assert await within(method(request)) == request
