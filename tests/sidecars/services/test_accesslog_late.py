"""Messages that Envoy sends before it knows that accesslog has ended its stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from sidecars.observability.call_metrics import CallMetrics
from sidecars.services.accesslog import MESSAGE_OVERHEAD_BYTES, build
from sidecars.transport.api.address import UnixAddress
from sidecars.transport.api.service import Call, ClientStreaming, Service
from tests.sidecars.services.test_accesslog import METHOD, Running, dependencies, lines_of, settings
from tests.support.entries import http_entry, message
from tests.support.ratelimiting import CALL
from tests.support.transport.harness import make_server, outcome, within
from tests.support.transport.rawclient import RawClient, request_headers
from tests.support.transport.rawclient import message as framed


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A sidecar in transport `native`, its calls counted as in a process: grpc.aio reads no further."""
    registry = CollectorRegistry()
    sidecar = build(
        settings(sinks=[{"type": "file", "path": str(tmp_path / "access.jsonl")}]), dependencies(registry)
    )
    address = UnixAddress(str(tmp_path / "accesslog.sock"))
    measured = map(CallMetrics(registry, lambda: 0.0).measured, sidecar.services)
    server = make_server("native", tuple(measured), (address,))
    await sidecar.start()
    await server.start()
    running = Running(sidecar, registry, server, f"unix:{address.path}")
    yield running
    await running.close()


async def test_what_was_under_way_when_its_stream_ended_is_written(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envoy sends nothing twice, and knows of the end later than we do."""
    monkeypatch.setattr("sidecars.services.accesslog.FINISH_SECONDS", 0.1)
    reader, writer = await asyncio.open_unix_connection(tmp_path / "accesslog.sock")
    client = RawClient(reader, writer)
    client.h2.initiate_connection()
    stream_id = client.open(request_headers(METHOD))
    data = framed(message(http_entry()).SerializeToString())
    client.send(stream_id, data)
    await running.received(1)
    await within(running.sidecar.finish_streams())
    assert (await client.answer(stream_id)).status == 0
    client.send(stream_id, data * 2)
    client.send(stream_id, data, end=True)
    await running.received(4)
    await running.close()
    writer.close()
    assert len(lines_of(tmp_path / "access.jsonl")) == 4
    assert client.answers[stream_id].reset_code is None


async def test_a_late_message_is_not_taken_of_a_stream_that_ended_by_a_fault(running: Running) -> None:
    [service] = running.sidecar.services
    method = service.methods["StreamAccessLogs"]
    assert isinstance(method, ClientStreaming)
    assert method.after_reply is not None
    await running.sidecar.finish_streams()
    assert not method.after_reply(message(http_entry()).SerializeToString(), CALL)


@asynccontextmanager
async def ended_streams(
    running: Running, folder: Path, most: int
) -> AsyncIterator[list[tuple[RawClient, int]]]:
    """Streams that accesslog has ended, each on a connection of its own."""
    opened: list[tuple[RawClient, int]] = []
    writers: list[asyncio.StreamWriter] = []
    for number in range(1, most + 1):
        reader, writer = await asyncio.open_unix_connection(folder / "accesslog.sock")
        writers.append(writer)
        client = RawClient(reader, writer)
        client.h2.initiate_connection()
        stream_id = client.open(request_headers(METHOD))
        client.send(stream_id, framed(message(http_entry()).SerializeToString()))
        await running.received(number)
        opened.append((client, stream_id))
    await within(running.sidecar.finish_streams())
    for client, stream_id in opened:
        assert (await client.answer(stream_id)).status == 0
    yield opened
    for writer in writers:
        writer.close()


async def test_late_messages_of_all_streams_share_a_bound(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is read at once, so without it a peer could send as fast as it likes while sinks are slow."""
    data = message(http_entry(request_headers={"x": "a" * 1000})).SerializeToString()
    monkeypatch.setattr(
        "sidecars.services.accesslog.MOST_LATE_BYTES", 2 * (len(data) + MESSAGE_OVERHEAD_BYTES)
    )
    [service] = running.sidecar.services
    method = service.methods["StreamAccessLogs"]
    assert isinstance(method, ClientStreaming)
    assert method.after_reply is not None
    async with ended_streams(running, tmp_path, 2):
        calls = [call for call, _ in running.sidecar._ended.values()]
        with capture_logs() as logs:
            assert [method.after_reply(data, call) for call in (*calls, *calls)] == [True, True, False, False]
        assert [log["message_bytes"] for log in logs] == [len(data)] * 2
        await running.received(4)
        assert method.after_reply(data, calls[0])
        await running.received(5)


async def test_hundreds_of_late_messages_are_written(running: Running, tmp_path: Path) -> None:
    """On a busy machine Envoy has hundreds of messages under way when it learns of the end."""
    async with ended_streams(running, tmp_path, 1) as [(client, stream_id)]:
        for _ in range(300):
            client.send(stream_id, framed(message(http_entry()).SerializeToString()))
        await running.received(301)
        await running.close()
    assert len(lines_of(tmp_path / "access.jsonl")) == 301


async def test_an_unreadable_late_message_costs_no_other(running: Running, tmp_path: Path) -> None:
    data = framed(message(http_entry()).SerializeToString())
    async with ended_streams(running, tmp_path, 1) as [(client, stream_id)]:
        client.send(stream_id, data + framed(b"\xff") + data, end=True)
        await running.received(3)
        await running.close()
    assert len(lines_of(tmp_path / "access.jsonl")) == 3


async def test_a_message_that_is_too_large_costs_its_stream_alone_and_is_counted(
    running: Running, tmp_path: Path
) -> None:
    """Envoy's batches are this large if its `buffer_size_bytes` is."""
    good = message(http_entry()).SerializeToString()
    large = message(http_entry(request_headers={"x": "a" * 4_200_000})).SerializeToString()
    stream = running.open()
    await stream.write(good)
    await running.received(1)
    with suppress(grpc.aio.AioRpcError):  # the call may end before all of it is written
        await stream.write(large)
    code, text = await outcome(stream)
    assert (code, "at most 4194304" in text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    again = running.open()
    await again.write(good)
    await running.received(2)
    again.cancel()
    await running.close()
    assert len(lines_of(tmp_path / "access.jsonl")) == 2


async def test_what_came_before_the_end_of_a_request_is_read_although_the_handler_left(
    tmp_path: Path,
) -> None:
    """The reply closes a stream that the client has ended, with what no handler has read."""
    late: list[bytes] = []
    begun, leave = asyncio.Semaphore(0), asyncio.Event()

    async def handler(messages: AsyncIterator[bytes], _call: Call) -> bytes:
        await anext(messages)
        begun.release()
        await leave.wait()
        return b""

    def take(body: bytes, _call: Call) -> bool:
        late.append(body)
        return True

    address = UnixAddress(str(tmp_path / "late.sock"))
    service = Service("p", {"Late": ClientStreaming(handler, after_reply=take)})
    server = make_server("native", (service,), (address,))
    await server.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "late.sock")
    client = RawClient(reader, writer)
    client.h2.initiate_connection()
    stream_id = client.open(request_headers("/p/Late"))
    client.send(stream_id, framed(b"a") + framed(b"b") + framed(b"c"), end=True)
    other = client.open(request_headers("/p/Late"))
    client.send(other, framed(b"d"), end=True)
    for _ in range(2):  # the second stream's message is read after the first stream's end
        await within(begun.acquire())
    leave.set()
    assert (await client.answer(stream_id)).status == 0
    assert (await client.answer(other)).status == 0
    assert late == [b"b", b"c"]
    writer.close()
    await within(server.drain(0))
