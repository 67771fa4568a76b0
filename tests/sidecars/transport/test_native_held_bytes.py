"""The limit of unfinished messages over all connections: a flood is cut, and a trusted Envoy waits."""

import asyncio
import re

import pytest

from sidecars.transport.api.limits import Lifetime, Limits
from sidecars.transport.api.service import ClientStreaming, Code
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import DATA, END_STREAM, RST_STREAM
from sidecars.transport.http2.held_bytes import HeldBytes
from sidecars.transport.server.server import GrpcServer
from tests.support.transport.harness import LOOPBACK, path, services, until, within
from tests.support.transport.wire import (
    CANCEL,
    OPENING,
    Bench,
    frame,
    message,
    opened,
    parse,
    settings_received,
    status,
    stream_ids,
)

MOST = 200_000
PART = 16_000
LIMITS = Limits(connection_window_bytes=100_000)
BODY = bytes(3 * PART)


def hold(bench: Bench, streams: int, method: str = "/p/Join", begin: int = 0) -> bytes:
    """Begin as many messages of 48 KB, with their first 16 KB; returns the output."""
    return b"".join(
        bench.feed(opened(number, method) + frame(DATA, 0, number, message(BODY)[:PART]))
        for number in list(stream_ids(begin + streams))[begin:]
        if bench.connection.streams.receive_flow.window > PART
    )


def finish(bench: Bench, number: int) -> bytes:
    """Send the rest of the message of a stream, and its end."""
    rest = message(BODY)[PART:]
    bench.feed(b"".join(frame(DATA, 0, number, rest[at : at + PART]) for at in range(0, len(rest), PART)))
    return bench.feed(frame(DATA, END_STREAM, number, b""))


def window(bench: Bench) -> int:
    return bench.connection.streams.receive_flow.window


@pytest.mark.parametrize("method", ["/p/Join", "/p/Echo"])
def test_a_flood_of_unfinished_messages_over_all_connections_is_cut(method: str) -> None:
    held = HeldBytes(MOST)
    honest, flood = settings_received(LIMITS, held_by_all=held), settings_received(LIMITS, held_by_all=held)
    held.connections = 2
    hold(honest, 3)
    output = hold(flood, 10, method)
    assert status(output, 1) == Code.RESOURCE_EXHAUSTED
    assert set(flood.tally.reasons) == {Reason.TOO_MANY_HELD_BYTES}
    assert held.total < MOST
    finish(honest, 1)
    honest.calls.run()
    assert honest.calls.seen == [("/p/Join", BODY)]
    assert honest.tally.reasons == []


def test_a_trusted_peer_waits_and_loses_nothing() -> None:
    held = HeldBytes(MOST)
    envoy = settings_received(LIMITS, trusted=True, held_by_all=held)
    held.connections = 10
    hold(envoy, 2)
    held.total += MOST  # others
    hold(envoy, 100, begin=2)
    assert window(envoy) <= PART
    assert envoy.tally.reasons == []
    held.total -= MOST
    envoy.connection.tick(envoy.now, Lifetime())
    assert window(envoy) > PART
    finish(envoy, 1)
    envoy.calls.run()
    assert envoy.calls.seen == [("/p/Join", BODY)]


def test_a_connection_may_always_hold_its_share() -> None:
    held = HeldBytes(MOST)
    envoy = settings_received(LIMITS, held_by_all=held)
    held.connections, held.total = 2, 10 * MOST
    for number in stream_ids(20):
        envoy.feed(opened(number, "/p/Join") + frame(DATA, 0, number, message(BODY)[:PART]))
        finish(envoy, number)
        envoy.calls.run()
    assert len(envoy.calls.seen) == 20
    assert envoy.tally.reasons == []


def test_a_peer_that_holds_too_much_is_cut_though_it_sends_nothing_more() -> None:
    """It had its part before others filled the rest, and would keep it for `message_timeout_seconds`."""
    held = HeldBytes(MOST)
    flood = settings_received(LIMITS, held_by_all=held)
    hold(flood, 3)
    held.connections, held.total = 10, held.total + MOST
    flood.connection.tick(flood.now, Lifetime())
    assert flood.tally.reasons == 3 * [Reason.TOO_MANY_HELD_BYTES]
    assert held.total == MOST


def test_what_is_finished_reset_or_gone_is_not_held() -> None:
    held = HeldBytes(MOST)
    bench = settings_received(LIMITS, held_by_all=held)
    hold(bench, 4)
    assert held.total == 4 * PART
    finish(bench, 1)
    assert held.total == 3 * PART
    bench.feed(frame(RST_STREAM, 0, 3, CANCEL))
    assert held.total == 2 * PART
    bench.connection.lost()
    assert held.total == 0


async def test_the_connections_of_a_server_share_the_limit() -> None:
    async def join(messages: object, call: object) -> bytes:
        return b""

    limits = Limits(max_total_held_bytes=MOST, max_message_bytes=MOST)
    methods = services({"Join": ClientStreaming(join, waits_for_message=True)})
    server = GrpcServer(methods, [LOOPBACK], limits=limits)
    await within(server.start())
    try:
        half = b"".join(
            opened(number, path("Join")) + frame(DATA, 0, number, message(BODY)[:PART])
            for number in stream_ids(4)
        )
        connected = []
        for _ in range(2):
            connected.append(await within(asyncio.open_connection("127.0.0.1", server.ports[0])))
            connected[-1][1].write(OPENING + half[: len(half)])
        await until(lambda: server.held_bytes == 8 * PART)
        reader, writer = connected[0]
        more = list(stream_ids(20))[4:]
        writer.write(
            b"".join(opened(n, path("Join")) + frame(DATA, 0, n, message(BODY)[:PART]) for n in more)
        )
        received = b""
        while b"grpc-status" not in received:
            received += await within(reader.read(65_536))
        assert any(re.search(rb"unfinished messages", payload) for _, _, _, payload in parse(received))
        for _, one in connected:
            one.transport.abort()
        await until(lambda: server.held_bytes == 0)
    finally:
        await within(server.drain(0))


def test_the_largest_message_must_fit() -> None:
    with pytest.raises(ValueError, match="max_total_held_bytes"):
        Limits(max_total_held_bytes=100_000)
