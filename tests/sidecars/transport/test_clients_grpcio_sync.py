"""The synchronous grpcio client, from a thread of its own, against every transport."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest

from sidecars.transport.api.service import (
    Bidirectional,
    Call,
    ClientStreaming,
    Code,
    ServerStreaming,
    StatusError,
    Unary,
)
from tests.support.transport.harness import CLIENT_OPTIONS, WAIT_SECONDS, Serve, path, within


def echo(request: bytes, call: Call) -> bytes:
    return request


def refuse(request: bytes, call: Call) -> bytes:
    raise StatusError(Code.PERMISSION_DENIED, "nein, weil: ü")


async def forever(request: bytes, call: Call) -> bytes:
    await asyncio.Event().wait()
    return b""


async def join(messages: AsyncIterator[bytes], call: Call) -> bytes:
    return b"|".join([message async for message in messages])


async def thrice(request: bytes, call: Call) -> AsyncIterator[bytes]:
    for _ in range(3):
        yield request


async def shout(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message.upper()


METHODS = {
    "Echo": Unary(echo),
    "Refuse": Unary(refuse),
    "Forever": Unary(forever),
    "Join": ClientStreaming(join),
    "Thrice": ServerStreaming(thrice),
    "Shout": Bidirectional(shout),
}

Ask = Callable[[Any], object]


def unary(channel: Any) -> object:
    return channel.unary_unary(path("Echo"))(b"x" * 100_000, timeout=WAIT_SECONDS)


def client_stream(channel: Any) -> object:
    return channel.stream_unary(path("Join"))(iter([b"a", b"b"]), timeout=WAIT_SECONDS)


def server_stream(channel: Any) -> object:
    return list(channel.unary_stream(path("Thrice"))(b"x", timeout=WAIT_SECONDS))


def both(channel: Any) -> object:
    def words() -> Iterator[bytes]:
        yield b"a"
        yield b"b"

    return list(channel.stream_stream(path("Shout"))(words(), timeout=WAIT_SECONDS))


def refused(channel: Any) -> object:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path("Refuse"))(b"", timeout=WAIT_SECONDS)
    return caught.value.code(), caught.value.details()


def too_late(channel: Any) -> object:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path("Forever"))(b"", timeout=0.2)
    return caught.value.code()


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (unary, b"x" * 100_000),
        (client_stream, b"a|b"),
        (server_stream, [b"x"] * 3),
        (both, [b"A", b"B"]),
        (refused, (grpc.StatusCode.PERMISSION_DENIED, "nein, weil: ü")),
        (too_late, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_the_synchronous_client_is_served(serve: Serve, ask: Ask, expected: object) -> None:
    served = await serve(METHODS)

    def talk() -> object:
        with grpc.insecure_channel(served.target, options=CLIENT_OPTIONS) as channel:
            return ask(channel)

    assert await within(asyncio.to_thread(talk)) == expected
