"""Our own server against sockets: back-pressure, memory, and what an idle connection costs."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sidecars.transport.api.address import UnixAddress
from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Call, Code, ServerStreaming, StatusError, Unary, UnaryHandler
from sidecars.transport.http2 import frames
from sidecars.transport.http2.errors import Reason
from sidecars.transport.server.protocol import WRITE_BUFFER_BYTES, SocketProtocol
from sidecars.transport.server.scheduler import MESSAGE_COST_BYTES, TURN_BYTES
from sidecars.transport.server.server import GrpcServer
from tests.support.transport.harness import LOOPBACK, Served, path, services, settled, until, within
from tests.support.transport.rawclient import raw_client, request_headers
from tests.support.transport.wire import OPENING, Tally, frame, message, request

REPLY = bytes(100_000)
MANY = 80


def large(request: bytes, call: Call) -> bytes:
    return REPLY


Start = Callable[..., Awaitable[tuple[GrpcServer, Served]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a server of our own; every one is closed after the test."""
    servers: list[GrpcServer] = []

    async def start_one(handler: UnaryHandler = large, **options: Any) -> tuple[GrpcServer, Served]:
        server = GrpcServer(services({"Large": Unary(handler)}), [LOOPBACK], **options)
        await within(server.start())
        servers.append(server)
        return server, Served(server, (LOOPBACK,))

    yield start_one
    for server in servers:
        await within(server.drain(0))


def only_protocol(server: GrpcServer) -> SocketProtocol:
    assert server._connections is not None
    (protocol,) = server._connections._open
    return protocol


def is_paused(server: GrpcServer) -> bool:
    assert server._connections is not None
    return any(
        protocol._connection is not None and protocol._connection.streams.paused
        for protocol in server._connections._open
    )


def greedy_client(port: int) -> socket.socket:
    """A peer with all windows open that asks and does not read, with a small buffer in its kernel."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    client.connect(("127.0.0.1", port))
    most = frames.MAX_WINDOW_BYTES
    client.sendall(
        OPENING
        + frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: most})
        + frames.window_update(0, most - frames.DEFAULT_WINDOW_BYTES)
    )
    client.setblocking(False)
    return client


def call(stream_id: int, method: str = "Large") -> bytes:
    return frame(frames.HEADERS, frames.END_HEADERS, stream_id, request(path(method))) + frame(
        frames.DATA, frames.END_STREAM, stream_id, message(b"x")
    )


async def test_a_peer_that_does_not_read_its_replies_is_not_read_either(start: Start) -> None:
    """CVE-2019-9517: what waits in our process has a limit, however much is asked for."""
    server, served = await start()
    client = greedy_client(served.port)
    asked = 0
    with suppress(BlockingIOError):
        while asked < 3000:  # 300 MB of replies
            client.send(b"".join(call(2 * number + 1) for number in range(asked, asked + 100)))
            asked += 100
            await asyncio.sleep(0)
    await until(lambda: is_paused(server))
    transport = only_protocol(server)._transport
    assert transport is not None
    waiting = await settled(transport.get_write_buffer_size)
    assert 0 < waiting < WRITE_BUFFER_BYTES + 2 * Limits().max_bytes_per_turn
    client.close()


async def test_a_peer_that_reads_again_gets_every_reply(start: Start) -> None:
    server, served = await start()
    client = greedy_client(served.port)
    client.send(b"".join(call(2 * number + 1) for number in range(MANY)))
    await until(lambda: is_paused(server))
    loop = asyncio.get_running_loop()
    received = bytearray()
    while len(received) < MANY * len(REPLY) or received.count(b"grpc-status") < MANY:
        received += await within(loop.sock_recv(client, 1_000_000))
    assert received.count(message(REPLY)[:5]) == MANY
    client.close()


@pytest.mark.parametrize("max_bytes_per_turn", [1024, 10 * len(REPLY)])
async def test_a_read_of_many_calls_leaves_others_their_turn(start: Start, max_bytes_per_turn: int) -> None:
    """One read may hold hours of work: after so many bytes the loop goes on with what else waits."""
    order: list[str] = []

    def answer(request: bytes, call: Call) -> bytes:
        if not order:
            asyncio.get_running_loop().call_soon(order.append, "another")
        order.append("call")
        return REPLY

    _, served = await start(answer, limits=Limits(max_bytes_per_turn=max_bytes_per_turn, turn_seconds=10))
    client = greedy_client(served.port)
    client.send(b"".join(call(2 * number + 1) for number in range(10)))
    received = b""
    while received.count(b"grpc-status") < 10:
        received += await within(asyncio.get_running_loop().sock_recv(client, 1_000_000))
    client.close()
    assert order.index("another") == (1 if max_bytes_per_turn == 1024 else 10)


async def test_streamed_replies_that_nobody_reads_do_not_pile_up() -> None:
    """Neither in our process, as the windows are open, nor in the time of others: a handler need not wait."""
    sent = 0

    async def pour(request: bytes, call: Call) -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 3000:  # 300 MB of replies
            sent += 1
            yield REPLY

    server = GrpcServer(services({"Pour": ServerStreaming(pour)}), [LOOPBACK])
    await within(server.start())
    client = greedy_client(server.ports[0])
    client.send(call(1, method="Pour"))
    await until(lambda: is_paused(server))
    transport = only_protocol(server)._transport
    assert transport is not None
    assert (
        0
        < await settled(transport.get_write_buffer_size)
        < WRITE_BUFFER_BYTES + 2 * Limits().max_bytes_per_turn
    )
    assert sent < 3000
    client.close()
    await within(server.drain(0))


async def test_a_handler_that_streams_without_waiting_leaves_others_their_turn() -> None:
    scheduler = 0

    async def pour(request: bytes, call: Call) -> AsyncIterator[bytes]:
        nonlocal scheduler
        scheduler = 0
        for _ in range(10_000):
            yield b""

    async def others() -> None:
        nonlocal scheduler
        while True:
            scheduler += 1
            await asyncio.sleep(0)

    server = GrpcServer(services({"Pour": ServerStreaming(pour)}), [LOOPBACK])
    await within(server.start())
    another = asyncio.create_task(others())
    client = greedy_client(server.ports[0])
    client.send(call(1, method="Pour"))
    received = b""
    while b"grpc-status" not in received:
        received = received[-50:] + await within(asyncio.get_running_loop().sock_recv(client, 1_000_000))
    assert scheduler >= 10_000 * MESSAGE_COST_BYTES // TURN_BYTES
    another.cancel()
    client.close()
    await within(server.drain(0))


async def test_a_peer_that_never_reads_again_is_closed(start: Start) -> None:
    tally = Tally()
    server, served = await start(limits=Limits(write_stall_timeout_seconds=0.2), observer=tally)
    client = greedy_client(served.port)
    for number in range(100):
        client.send(call(2 * number + 1))
    await until(lambda: not server._connections._open and bool(tally.reasons))  # type: ignore[union-attr]
    assert tally.reasons == [Reason.STALLED]
    client.close()


async def test_replies_that_still_leave_are_not_cut_off_by_a_drain(start: Start) -> None:
    server, served = await start()
    async with raw_client(served) as client:
        client.replenish = False
        stream_id = client.open(request_headers("Large"))
        client.send(stream_id, message(b"x"), end=True)
        await client.until(lambda: len(client.answers[stream_id].data) == frames.DEFAULT_WINDOW_BYTES)
        drain = asyncio.create_task(server.drain(20))
        await client.until(lambda: client.goaways)
        client.h2.increment_flow_control_window(2**20)
        client.h2.increment_flow_control_window(2**20, stream_id)
        client.flush()
        assert len((await client.answer(stream_id)).data) == len(message(REPLY))
    await within(drain)


async def test_a_server_can_be_drained_before_it_starts_and_twice() -> None:
    server = GrpcServer(services({}), [LOOPBACK])
    await within(server.drain(0))
    await within(server.start())
    await within(server.drain(0))
    await within(server.drain(0))


def owned(file: Path) -> bool:
    return file.is_socket()


async def test_a_socket_file_that_another_server_took_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "own.sock"
    address = UnixAddress(str(file))
    old = GrpcServer(services({}), [address])
    await within(old.start())
    file.rename(tmp_path / "moved.sock")
    new = GrpcServer(services({}), [address])
    await within(new.start())
    await within(old.drain(0))
    assert owned(file)
    await within(new.drain(0))
    assert not owned(file)


async def test_a_handler_that_is_not_asked_again_ends_with_its_status() -> None:
    """A status raised at once needs no task, and keeps its text."""

    def refuse(request: bytes, call: Call) -> bytes:
        raise StatusError(Code.NOT_FOUND, "no such thing")

    server = GrpcServer(services({"Refuse": Unary(refuse)}), [LOOPBACK])
    await within(server.start())
    async with raw_client(Served(server, (LOOPBACK,))) as client:
        answer = await client.call("Refuse", b"x")
    assert (answer.status, answer.headers["grpc-message"]) == (5, "no such thing")
    await within(server.drain(0))


IDLE = """
import asyncio, gc, resource, sys, uvloop
from sidecars.transport.api.address import UnixAddress
from sidecars.transport.server.server import GrpcServer
from sidecars.transport.api.service import Service, Unary

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

async def main():
    probe = Service("test.v1.Probe", {"Large": Unary(lambda message, call: b"")})
    server = GrpcServer((probe,), [UnixAddress(sys.argv[1])])
    await server.start()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        gc.collect()
        print(len(server._connections._open), resident_bytes(), flush=True)

uvloop.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_connection_costs_at_most_ten_kilobytes(tmp_path: Path) -> None:
    """Each has made its first call, so that its table and its caches are filled."""
    address = str(tmp_path / "idle.sock")
    server = subprocess.Popen(
        [sys.executable, "-c", IDLE, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == "ready\n"

        def measure() -> tuple[int, int]:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write("\n")
            server.stdin.flush()
            count, resident = server.stdout.readline().split()
            return int(count), int(resident)

        clients = [idle_client(address) for _ in range(50)]  # what is allocated once is behind us then
        before = measure()
        clients += [idle_client(address) for _ in range(400)]
        after = measure()
        for client in clients:
            client.close()
    finally:
        server.kill()
        server.communicate()
    assert after[0] - before[0] == 400
    assert (after[1] - before[1]) / 400 <= 10 * 1024


def idle_client(address: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(30)
    client.connect(address)
    extra = [("grpc-timeout", "200m"), ("x-envoy-internal", "true"), ("x-forwarded-for", "10.0.0.1")]
    first = frame(frames.HEADERS, frames.END_HEADERS, 1, request(path("Large"), *extra))
    client.sendall(OPENING + first + frame(frames.DATA, frames.END_STREAM, 1, message(b"x")))
    received = b""
    while b"grpc-status" not in received:
        received += client.recv(65_536)
    return client
