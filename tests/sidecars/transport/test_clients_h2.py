"""The `h2` package as a raw client: the corners of HTTP/2 and of gRPC over it that no gRPC library shows."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sidecars.transport.api.service import Call, ClientStreaming, Code, ServerStreaming, Unary
from sidecars.transport.http2.frames import MAX_STREAM_ID, ErrorCode
from tests.support.transport.harness import Gate, Serve, Served, within
from tests.support.transport.rawclient import message, raw_client, request_headers

CANCEL = 8
own_only = pytest.mark.parametrize("transport", ["native"], indirect=True)
"""grpc refuses padding in DATA and answers INTERNAL to an unknown encoding: neither is as it is written."""


def echo(request: bytes, call: Call) -> bytes:
    return request


async def join(messages: AsyncIterator[bytes], call: Call) -> bytes:
    return b"|".join([message async for message in messages])


def ten_chunks(request: bytes, call: Call) -> AsyncIterator[bytes]:
    async def replies() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield bytes(10_000)

    return replies()


@pytest.fixture
async def served(serve: Serve) -> Served:
    return await serve(
        {"Echo": Unary(echo), "Join": ClientStreaming(join), "Chunks": ServerStreaming(ten_chunks)}
    )


async def test_the_shape_of_an_answer(served: Served) -> None:
    """GRPC HTTP/2 protocol, Responses: 200, content-type, one message, trailers with grpc-status."""
    async with raw_client(served) as client:
        answer = await client.call("Echo", b"hello")
    assert answer.headers[":status"] == "200"
    assert answer.headers["content-type"].startswith("application/grpc")
    assert answer.data == message(b"hello")
    assert answer.trailers["grpc-status"] == "0"


async def test_a_call_that_fails_before_any_message_has_no_message(served: Served) -> None:
    async with raw_client(served) as client:
        answer = await client.call("Nope", b"x")
    assert (answer.headers[":status"], answer.data, answer.status) == ("200", b"", Code.UNIMPLEMENTED)


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto"])
async def test_grpc_content_types_are_served(served: Served, content_type: str) -> None:
    async with raw_client(served) as client:
        headers = request_headers("Echo", ("content-type", content_type))
        assert (await client.call("Echo", b"x", headers=headers)).status == Code.OK


async def test_a_message_may_come_byte_by_byte(served: Served) -> None:
    async with raw_client(served) as client:
        stream_id = client.open(request_headers("Echo"))
        for byte in message(b"slowly"):
            client.send(stream_id, bytes([byte]))
            await asyncio.sleep(0)
        client.send(stream_id, b"", end=True)
        assert (await client.answer(stream_id)).data == message(b"slowly")


@own_only
async def test_padding_is_no_data(served: Served) -> None:
    """RFC 9113 section 6.1; it counts against the windows all the same."""
    async with raw_client(served) as client:
        stream_id = client.open(request_headers("Echo"))
        for byte in message(b"padded"):
            client.send(stream_id, bytes([byte]), pad=200)
        client.send(stream_id, b"", end=True, pad=255)
        assert (await client.answer(stream_id)).data == message(b"padded")


@own_only
async def test_padding_spends_no_window_for_good(served: Served) -> None:
    async with raw_client(served) as client:
        for _ in range(60):
            stream_id = client.open(request_headers("Join"))
            for byte in message(b"padded"):
                client.send(stream_id, bytes([byte]), pad=255)
            client.send(stream_id, b"", end=True)
            assert (await client.answer(stream_id)).data == message(b"padded")


async def test_messages_need_not_keep_to_frames(served: Served) -> None:
    async with raw_client(served) as client:
        stream_id = client.open(request_headers("Join"))
        body = b"".join(message(word) for word in (b"one", b"", b"three"))
        for cut in (3, 9, 14):
            client.send(stream_id, body[:cut])
            body = body[cut:]
            await asyncio.sleep(0)
        client.send(stream_id, body, end=True)
        assert (await client.answer(stream_id)).data == message(b"one||three")


async def test_streams_may_interleave(served: Served) -> None:
    async with raw_client(served) as client:
        first, second = client.open(request_headers("Echo")), client.open(request_headers("Echo"))
        body = {first: message(b"first"), second: message(b"other")}
        for i in range(10):
            for stream_id in (second, first):
                client.send(stream_id, body[stream_id][i : i + 1], end=i == 9)
        assert (await client.answer(first)).data == body[first]
        assert (await client.answer(second)).data == body[second]


async def test_a_header_block_may_span_frames(served: Served) -> None:
    """CONTINUATION: RFC 9113 section 6.10. `h2` splits what is over the frame size."""
    async with raw_client(served) as client:
        headers = [*request_headers("Echo"), ("x-long", "%" * 3000)]
        client.h2.max_outbound_frame_size = 1000
        assert (await client.call("Echo", b"x", headers=headers)).status == Code.OK


async def test_trailers_of_a_request_end_it(served: Served) -> None:
    async with raw_client(served) as client:
        stream_id = client.open(request_headers("Echo"))
        client.send(stream_id, message(b"x"))
        client.h2.send_headers(stream_id, [("x-trailer", "1")], end_stream=True)
        client.flush()
        answer = await client.answer(stream_id)
        assert (answer.status, answer.data) == (Code.OK, message(b"x"))


async def test_a_ping_is_answered(served: Served) -> None:
    async with raw_client(served) as client:
        client.h2.ping(b"12345678")
        client.flush()
        await client.until(lambda: client.pongs)


async def test_settings_are_acknowledged(served: Served) -> None:
    async with raw_client(served, INITIAL_WINDOW_SIZE=100_000) as client:
        await client.until(lambda: client.settings_acks)


async def test_a_reply_waits_for_the_windows(served: Served) -> None:
    """RFC 9113 section 6.9: `h2` raises when more comes than was allowed."""
    async with raw_client(served, INITIAL_WINDOW_SIZE=10) as client:
        client.replenish = False
        stream_id = client.open(request_headers("Echo"))
        client.send(stream_id, message(b"a" * 100), end=True)
        answer = client.answers[stream_id]
        await client.until(lambda: len(answer.data) == 10)
        client.h2.increment_flow_control_window(15, stream_id)
        client.flush()
        await client.until(lambda: len(answer.data) == 25)
        client.h2.update_settings({4: 200})
        client.flush()
        assert (await client.answer(stream_id)).data == message(b"a" * 100)


async def test_a_smaller_window_setting_may_make_a_window_negative(served: Served) -> None:
    """RFC 9113 section 6.9.2: the server then waits until it is positive again."""
    async with raw_client(served, INITIAL_WINDOW_SIZE=50) as client:
        client.replenish = False
        stream_id = client.open(request_headers("Echo"))
        client.send(stream_id, message(b"a" * 100), end=True)
        answer = client.answers[stream_id]
        await client.until(lambda: len(answer.data) == 50)
        acks = client.settings_acks
        client.h2.update_settings({4: 20})
        client.flush()
        await client.until(lambda: client.settings_acks > acks)
        client.h2.increment_flow_control_window(31, stream_id)
        client.flush()
        await client.until(lambda: len(answer.data) == 51)
        client.h2.increment_flow_control_window(1000, stream_id)
        client.flush()
        assert (await client.answer(stream_id)).data == message(b"a" * 100)


async def test_the_connection_window_bounds_all_streams_together(served: Served) -> None:
    async with raw_client(served, INITIAL_WINDOW_SIZE=1_000_000) as client:
        client.replenish = False
        streams = [client.open(request_headers("Chunks")) for _ in range(2)]
        for stream_id in streams:
            client.send(stream_id, message(b""), end=True)
        answers = [client.answers[stream_id] for stream_id in streams]
        await client.until(lambda: sum(len(answer.data) for answer in answers) == 65_535)
        client.h2.increment_flow_control_window(1_000_000)
        client.flush()
        for stream_id in streams:
            assert len((await client.answer(stream_id)).data) == 10 * 10_005


async def test_a_reset_stream_is_cancelled_and_the_rest_goes_on(serve: Serve) -> None:
    gate = Gate()
    served = await serve({"Wait": Unary(gate.unary), "Echo": Unary(echo)})
    async with raw_client(served) as client:
        stream_id = client.open(request_headers("Wait"))
        client.send(stream_id, message(b""), end=True)
        await gate.wait_entered()
        client.h2.reset_stream(stream_id, CANCEL)
        client.flush()
        await gate.wait_left()
        assert gate.cancelled == [True]
        assert (await client.call("Echo", b"x")).status == Code.OK


async def test_a_lost_connection_cancels_its_calls(serve: Serve) -> None:
    gate = Gate()
    served = await serve({"Wait": Unary(gate.unary)})
    async with raw_client(served) as client:
        for _ in range(3):
            client.send(client.open(request_headers("Wait")), message(b""), end=True)
        await gate.wait_entered(3)
        client.hang_up()
        await gate.wait_left(3)
    assert gate.cancelled == [True] * 3


async def test_the_server_itself_ends_a_call_at_its_deadline(serve: Serve) -> None:
    """A caller that has hung up inside will not reset the stream."""
    gate = Gate()
    served = await serve({"Wait": Unary(gate.unary)})
    async with raw_client(served) as client:
        stream_id = client.open(request_headers("Wait", ("grpc-timeout", "100m")))
        client.send(stream_id, message(b""), end=True)
        answer = await client.answer(stream_id)
        await gate.wait_left()
    assert answer.status == Code.DEADLINE_EXCEEDED or answer.reset_code is not None


@own_only
async def test_an_encoding_that_is_not_known_is_unimplemented(served: Served) -> None:
    """The gRPC HTTP/2 protocol: UNIMPLEMENTED, and grpc-accept-encoding tells what would be taken."""
    async with raw_client(served) as client:
        headers = request_headers("Echo", ("grpc-encoding", "snappy"))
        stream_id = client.open(headers)
        client.send(stream_id, message(b"x", flag=1), end=True)
        answer = await client.answer(stream_id)
    assert answer.status == Code.UNIMPLEMENTED
    assert "gzip" in answer.headers["grpc-accept-encoding"]


async def test_a_compressed_message_without_an_encoding_is_internal(served: Served) -> None:
    """GRPC doc/compression.md: the compressed flag without grpc-encoding is INTERNAL."""
    async with raw_client(served) as client:
        stream_id = client.open(request_headers("Echo"))
        client.send(stream_id, message(b"x", flag=1), end=True)
        assert (await client.answer(stream_id)).status == Code.INTERNAL


async def test_a_drain_says_goaway_and_finishes_what_is_in_flight(serve: Serve) -> None:
    """RFC 9113 section 6.8: first a GOAWAY that refuses nothing, then one with the last stream taken."""
    gate = Gate()
    served = await serve({"Wait": Unary(gate.unary)})
    async with raw_client(served) as client:
        stream_id = client.open(request_headers("Wait"))
        client.send(stream_id, message(b"x"), end=True)
        await gate.wait_entered()
        drain = asyncio.create_task(served.server.drain(30))
        await client.until(lambda: client.goaways)
        gate.open.set()
        assert (await client.answer(stream_id)).data == message(b"x")
        await client.until(lambda: client.closed)
        await within(drain)
    assert [goaway.code for goaway in client.goaways] == [ErrorCode.NO_ERROR] * 2
    assert [goaway.last_stream_id for goaway in client.goaways] == [MAX_STREAM_ID, stream_id]
