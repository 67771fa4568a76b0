"""What a handler sees of its call on every transport: metadata, peer, deadline, cancellation."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import grpc.aio
import pytest

from sidecars.transport.api.address import TcpAddress, UnixAddress
from sidecars.transport.api.service import (
    Bidirectional,
    Call,
    ClientStreaming,
    Code,
    Method,
    ServerStreaming,
    Unary,
)
from tests.support.transport.harness import WAIT_SECONDS, Connect, Gate, Serve, outcome, path, within
from tests.support.transport.rawclient import RawClient, raw_client, request_headers
from tests.support.transport.rawclient import message as framed


class Seen:
    """A handler that keeps the calls it got."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.notes: list[object] = []

    def unary(self, request: bytes, call: Call) -> bytes:
        self.calls.append(call)
        self.notes.append((call.peer, call.deadline, dict(call.metadata), call.cancelled, call.method))
        return b""


async def metadata_seen(
    serve: Serve, connect: Connect, *sent: tuple[str, str | bytes]
) -> dict[str, str | bytes]:
    seen: dict[str, str | bytes] = {}

    def handler(request: bytes, call: Call) -> bytes:
        seen.update(call.metadata)
        return b""

    served = await serve({"See": Unary(handler)})
    await within(connect(served).unary("See", b"", metadata=sent))
    return seen


async def test_text_metadata_arrives(serve: Serve, connect: Connect) -> None:
    seen = await metadata_seen(serve, connect, ("x-request-id", "abc 123"), ("empty", ""))
    assert (seen["x-request-id"], seen["empty"]) == ("abc 123", "")


@pytest.mark.parametrize("value", [b"", b"\x00", b"\x00\xff", b"abc", bytes(range(256))], ids=len)
async def test_binary_metadata_arrives_as_bytes(serve: Serve, connect: Connect, value: bytes) -> None:
    """Base64 on the wire, padded or not (gRPC HTTP/2 protocol, Binary-Header)."""
    assert (await metadata_seen(serve, connect, ("trace-bin", value)))["trace-bin"] == value


async def test_blanks_around_metadata_are_no_part_of_it(serve: Serve, connect: Connect) -> None:
    """Applications send them, and gRPC over HTTP/2 says that they may be stripped (Custom-Metadata)."""
    seen = await metadata_seen(serve, connect, ("x-a", "  v w "), ("x-b", " "), ("c-bin", b" v "))
    assert (seen["x-a"], seen["x-b"], seen["c-bin"]) == ("v w", "", b" v ")


async def test_the_last_of_a_repeated_name_counts(serve: Serve, connect: Connect) -> None:
    seen = await metadata_seen(serve, connect, ("x-a", "1"), ("x-a", "2"), ("b-bin", b"1"), ("b-bin", b"2"))
    assert (seen["x-a"], seen["b-bin"]) == ("2", b"2")


async def test_what_belongs_to_the_protocol_is_no_metadata(serve: Serve, connect: Connect) -> None:
    seen = await metadata_seen(serve, connect, ("x-a", "1"))
    assert set(seen) <= {"x-a", "user-agent"}


async def test_a_call_knows_its_method(serve: Serve, connect: Connect) -> None:
    seen = Seen()
    served = await serve({"See": Unary(seen.unary)})
    await within(connect(served).unary("See", b""))
    assert seen.calls[0].method == path("See")


@pytest.mark.parametrize(
    ("address", "peer"),
    [(TcpAddress("127.0.0.1", 0), "ipv4:127.0.0.1:"), (TcpAddress("::1", 0), "ipv6:[::1]:")],
    ids=["ipv4", "ipv6"],
)
async def test_a_tcp_peer_is_named_with_its_port(
    serve: Serve, connect: Connect, address: TcpAddress, peer: str
) -> None:
    seen = Seen()
    served = await serve({"See": Unary(seen.unary)}, address)
    await within(connect(served).unary("See", b""))
    name, port = seen.calls[0].peer[: len(peer)], seen.calls[0].peer[len(peer) :]
    assert name == peer
    assert port.isdigit()


async def test_a_unix_peer_has_no_name(serve: Serve, connect: Connect, socket_address: UnixAddress) -> None:
    seen = Seen()
    served = await serve({"See": Unary(seen.unary)}, socket_address)
    await within(connect(served).unary("See", b""))
    assert seen.calls[0].peer == "unix:"


async def test_a_call_without_a_timeout_has_no_deadline(serve: Serve, connect: Connect) -> None:
    seen = Seen()
    served = await serve({"See": Unary(seen.unary)})
    await within(connect(served).unary("See", b""))
    assert seen.calls[0].deadline is None


@pytest.mark.parametrize("timeout_seconds", [20, 2000, 200_000])
async def test_the_deadline_is_on_the_monotonic_clock(
    serve: Serve, connect: Connect, timeout_seconds: int
) -> None:
    seen = Seen()
    served = await serve({"See": Unary(seen.unary)})
    before = time.monotonic()
    await within(connect(served).unary("See", b"", timeout=timeout_seconds))
    after = time.monotonic()
    deadline = seen.calls[0].deadline
    assert deadline is not None
    # grpc rounds a long timeout up to a coarser unit: at most one part in a hundred.
    assert before + timeout_seconds * 0.99 - (after - before) <= deadline <= after + timeout_seconds * 1.01


async def test_a_handler_that_outlives_its_deadline_is_cancelled(serve: Serve, connect: Connect) -> None:
    gate = Gate()
    served = await serve({"Wait": Unary(gate.unary)})
    code, _ = await outcome(connect(served).unary("Wait", b"", timeout=0.2))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    await gate.wait_left()
    assert len(gate.cancelled) == 1


async def test_a_unary_handler_is_cancelled_when_the_caller_cancels(serve: Serve, connect: Connect) -> None:
    gate = Gate()
    served = await serve({"Wait": Unary(gate.unary)})
    call = connect(served).unary("Wait", b"")
    await gate.wait_entered()
    call.cancel()
    await gate.wait_left()
    assert gate.cancelled == [True]


async def test_a_call_in_progress_is_not_cancelled(serve: Serve, connect: Connect) -> None:
    seen: list[bool] = []

    async def look(request: bytes, call: Call) -> bytes:
        seen.append(call.cancelled)
        await asyncio.sleep(0)
        seen.append(call.cancelled)
        return b""

    served = await serve({"Look": Unary(look)})
    await within(connect(served).unary("Look", b""))
    assert seen == [False, False]


async def test_a_client_streaming_handler_is_cancelled_while_it_reads(
    serve: Serve, connect: Connect, transport: str
) -> None:
    """grpc.aio may end the messages instead, as if the client had finished: it cannot tell the two apart."""
    reading, left, seen = asyncio.Event(), asyncio.Event(), []

    async def read(messages: AsyncIterator[bytes], call: Call) -> bytes:
        try:
            async for _ in messages:
                reading.set()
        except asyncio.CancelledError:
            seen.append(call.cancelled)
            raise
        finally:
            left.set()
        return b""

    served = await serve({"Read": ClientStreaming(read)})
    call = connect(served).client_stream("Read")
    await within(call.write(b"one"))
    await within(reading.wait())
    call.cancel()
    await within(left.wait())
    assert seen == [True] or (transport == "grpcio" and seen == [])


async def test_a_server_streaming_handler_is_cancelled_while_it_waits(serve: Serve, connect: Connect) -> None:
    gate = Gate()

    async def wait(request: bytes, call: Call) -> AsyncIterator[bytes]:
        yield b"one"
        await gate.hold(call)

    served = await serve({"Wait": ServerStreaming(wait)})
    call = connect(served).server_stream("Wait", b"")
    assert await within(call.read()) == b"one"
    await gate.wait_entered()
    call.cancel()
    await gate.wait_left()
    assert gate.cancelled == [True]


async def test_a_server_streaming_handler_is_closed_while_its_peer_does_not_read(
    serve: Serve, connect: Connect
) -> None:
    """Its `finally` runs when the peer leaves, though it stands at a yield and not at an await."""
    left = asyncio.Event()

    async def pour(request: bytes, call: Call) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(64 * 1024)
        finally:
            left.set()

    served = await serve({"Pour": ServerStreaming(pour)})
    call = connect(served).server_stream("Pour", b"")
    await within(call.read())
    call.cancel()
    await within(left.wait())


async def test_a_bidirectional_handler_is_cancelled(serve: Serve, connect: Connect) -> None:
    gate = Gate()

    async def wait(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message
            await gate.hold(call)

    served = await serve({"Wait": Bidirectional(wait)})
    call = connect(served).both("Wait")
    await within(call.write(b"one"))
    assert await within(call.read()) == b"one"
    await gate.wait_entered()
    call.cancel()
    await gate.wait_left()
    assert gate.cancelled == [True]


async def test_a_lost_connection_cancels_its_calls(serve: Serve, connect: Connect) -> None:
    gate = Gate()
    served = await serve({"Wait": Unary(gate.unary)})
    client = connect(served)
    calls = [asyncio.ensure_future(outcome(client.unary("Wait", b""))) for _ in range(5)]
    await gate.wait_entered(5)
    await within(client.channel.close())
    await gate.wait_left(5)
    assert gate.cancelled == [True] * 5
    await asyncio.wait(calls, timeout=WAIT_SECONDS)


async def test_a_cancelled_call_leaves_its_connection_in_order(serve: Serve, connect: Connect) -> None:
    gate, seen = Gate(), Seen()
    served = await serve({"Wait": Unary(gate.unary), "See": Unary(seen.unary)})
    client = connect(served)
    for _ in range(5):
        call = client.unary("Wait", b"")
        await gate.wait_entered()
        call.cancel()
        await gate.wait_left()
        assert await within(client.unary("See", b"")) == b""


async def one_reply(request: bytes, call: Call) -> AsyncIterator[bytes]:
    yield request


@pytest.fixture
async def half_sent(serve: Serve) -> AsyncIterator[Callable[[str, str], Awaitable[tuple[RawClient, int]]]]:
    """Begins a call with a timeout, whose request is not whole; every connection is closed after the test."""
    gate = Gate()
    methods: dict[str, Method] = {
        "Echo": Unary(lambda request, call: request),
        "Wait": Unary(gate.unary),
        "Split": ServerStreaming(one_reply),
    }
    served = await serve(methods)
    async with raw_client(served) as client:

        async def begin(method: str, timeout: str) -> tuple[RawClient, int]:
            stream_id = client.open(request_headers(method, ("grpc-timeout", timeout)))
            client.send(stream_id, framed(b"request")[:7])
            return client, stream_id

        yield begin


@pytest.mark.parametrize("method", ["Echo", "Split"])
async def test_a_request_that_does_not_come_whole_ends_at_its_deadline(
    half_sent: Callable[[str, str], Awaitable[tuple[RawClient, int]]], method: str
) -> None:
    """The clock starts when the call does (gRPC over HTTP/2, Timeout), not with its last byte."""
    client, stream_id = await half_sent(method, "100m")
    answer = await client.answer(stream_id)
    assert answer.status == Code.DEADLINE_EXCEEDED
    assert answer.data == b""


@pytest.mark.parametrize("method", ["Echo", "Split"])
async def test_a_request_that_comes_whole_before_its_deadline_is_served(
    half_sent: Callable[[str, str], Awaitable[tuple[RawClient, int]]], method: str
) -> None:
    client, stream_id = await half_sent(method, "1H")
    await client.until(lambda: client.settings_acks)  # a read of its own
    client.send(stream_id, framed(b"request")[7:], end=True)
    answer = await client.answer(stream_id)
    assert answer.status == Code.OK
    assert answer.data == framed(b"request")


async def test_a_handler_that_began_late_still_ends_at_the_deadline_of_its_call(
    half_sent: Callable[[str, str], Awaitable[tuple[RawClient, int]]],
) -> None:
    client, stream_id = await half_sent("Wait", "300m")
    await client.until(lambda: client.settings_acks)
    client.send(stream_id, framed(b"request")[7:], end=True)
    assert (await client.answer(stream_id)).status == Code.DEADLINE_EXCEEDED
