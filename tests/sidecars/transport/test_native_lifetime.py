"""How connections of our own transport begin, stay alive, grow old and end."""

import asyncio
from contextlib import suppress

import pytest

from sidecars.transport.api.limits import Lifetime, Limits
from sidecars.transport.api.service import Call, Unary
from sidecars.transport.http2 import frames
from sidecars.transport.http2.control import DRAIN_PING_SECONDS
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    ErrorCode,
)
from sidecars.transport.server.server import GrpcServer
from tests.support.transport.harness import LOOPBACK, Gate, Served, services, until, within
from tests.support.transport.rawclient import message as framed
from tests.support.transport.rawclient import raw_client, request_headers
from tests.support.transport.wire import OPENING, Bench, frame, message, parse, request

FOREVER = Lifetime(keepalive_seconds=None)


def opened(stream_id: int, method: str = "/p/Echo") -> bytes:
    return frame(HEADERS, END_HEADERS, stream_id, request(method))


def call(stream_id: int, method: str = "/p/Echo") -> bytes:
    return opened(stream_id, method) + frame(DATA, END_STREAM, stream_id, message(b"x"))


def goaways(output: bytes) -> list[tuple[int, ErrorCode]]:
    """Last stream and code of each GOAWAY."""
    return [
        (int.from_bytes(payload[:4], "big"), ErrorCode(int.from_bytes(payload[4:8], "big")))
        for kind, _, _, payload in parse(output)
        if kind == GOAWAY
    ]


def pings(output: bytes) -> list[bytes]:
    return [payload for kind, flags, _, payload in parse(output) if kind == PING and not flags]


def answered(output: bytes) -> set[int]:
    return {row[2] for row in parse(output) if row[0] == HEADERS and row[1] & END_STREAM}


def drained(bench: Bench) -> bytes:
    bench.connection.drain(bench.now)
    return bench.connection.take()


class TestDrain:
    """RFC 9113 section 6.8: twice GOAWAY, so that no stream is lost that was on its way."""

    def test_the_first_goaway_names_no_stream_and_a_ping_follows(self) -> None:
        bench = Bench()
        bench.feed(OPENING + call(1))
        output = drained(bench)
        assert goaways(output) == [(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR)]
        assert len(pings(output)) == 1
        assert not bench.connection.drained

    def test_what_arrives_before_the_ping_comes_back_is_served(self) -> None:
        bench = Bench()
        bench.feed(OPENING + call(1))
        (ping,) = pings(drained(bench))
        assert answered(bench.feed(call(3))) == {3}
        output = bench.feed(call(5) + frames.ping(ping, ack=True))
        assert answered(output) == {5}
        assert goaways(output) == [(5, ErrorCode.NO_ERROR)]
        assert bench.connection.drained

    def test_what_arrives_after_the_second_goaway_is_not_begun(self) -> None:
        bench = Bench()
        bench.feed(OPENING + call(1, "/p/Later"))
        (ping,) = pings(drained(bench))
        bench.feed(frames.ping(ping, ack=True))
        late = call(3) + frame(RST_STREAM, 0, 3, bytes(4)) + frames.window_update(3, 5)
        assert bench.feed(late) == b""
        assert answered(bench.run()) == {1}
        assert [method for method, _ in bench.calls.seen] == ["/p/Later"]

    def test_the_header_table_stays_in_step_with_blocks_that_are_not_read(self) -> None:
        """A call in flight may still send trailers that use it."""
        bench = Bench()
        bench.feed(OPENING + opened(1, "/p/Join"))
        (ping,) = pings(drained(bench))
        bench.feed(frames.ping(ping, ack=True))
        bench.feed(frame(HEADERS, END_HEADERS, 3, b"\x40\x01a\x01b"))  # enters the table as its first entry
        bench.feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xbe"))
        assert answered(bench.run()) == {1}

    def test_a_peer_that_does_not_answer_the_ping_is_not_waited_for(self) -> None:
        bench = Bench()
        bench.feed(OPENING + call(1))
        drained(bench)
        bench.connection.tick(bench.now + DRAIN_PING_SECONDS + 0.1, FOREVER)
        assert goaways(bench.connection.take()) == [(1, ErrorCode.NO_ERROR)]

    def test_a_connection_is_drained_when_its_last_stream_has_ended(self) -> None:
        bench = Bench()
        bench.feed(OPENING + call(1, "/p/Later") + opened(3, "/p/Join"))
        (ping,) = pings(drained(bench))
        bench.feed(frames.ping(ping, ack=True))
        bench.run()
        assert not bench.connection.drained
        bench.feed(frame(DATA, END_STREAM, 3, message(b"x")))
        bench.run()
        assert bench.connection.drained

    def test_a_second_drain_says_nothing(self) -> None:
        bench = Bench()
        bench.feed(OPENING)
        drained(bench)
        assert drained(bench) == b""

    def test_a_client_that_has_not_greeted_is_told_that_nothing_is_served(self) -> None:
        bench = Bench()
        bench.connection.take()
        assert goaways(drained(bench)) == [(0, ErrorCode.NO_ERROR)]
        assert bench.connection.drained


class TestKeepalive:
    LIFETIME = Lifetime(keepalive_seconds=60, keepalive_timeout_seconds=20)

    def waited(self, bench: Bench, seconds: float) -> bytes:
        bench.now += seconds
        bench.connection.tick(bench.now, self.LIFETIME)
        return bench.connection.take()

    def test_a_silent_peer_is_pinged(self) -> None:
        bench = Bench()
        bench.feed(OPENING)
        assert self.waited(bench, 59) == b""
        assert len(pings(self.waited(bench, 1))) == 1
        assert self.waited(bench, 10) == b""

    def test_a_peer_that_answers_lives_on(self) -> None:
        bench = Bench()
        bench.feed(OPENING)
        for _ in range(5):
            (ping,) = pings(self.waited(bench, 60))
            bench.now += 10
            bench.feed(frames.ping(ping, ack=True))
            assert self.waited(bench, 50) == b""
        assert not bench.connection.over

    def test_a_peer_that_talks_is_not_pinged(self) -> None:
        bench = Bench()
        bench.feed(OPENING)
        for stream_id in range(1, 20, 2):
            bench.now += 50
            bench.feed(call(stream_id))
            assert self.waited(bench, 5) == b""

    def test_a_peer_that_is_gone_loses_its_calls(self) -> None:
        bench = Bench()
        bench.feed(OPENING + call(1, "/p/Later"))
        self.waited(bench, 60)
        self.waited(bench, 21)
        assert bench.tally.reasons == [Reason.KEEPALIVE_TIMEOUT]
        assert bench.connection.over
        assert not bench.connection.streams.table


class TestGreeting:
    def test_our_settings_say_what_the_limits_are(self) -> None:
        limits = Limits(max_concurrent_streams=7, stream_window_bytes=80_000, max_header_list_bytes=9_000)
        (settings, window) = parse(Bench(limits).connection.take())
        assert settings[0] == SETTINGS
        assert frames.parse_settings(settings[3]) == [(1, 0), (3, 7), (4, 80_000), (6, 9_000)]
        assert window[3] == (limits.connection_window_bytes - 65_535).to_bytes(4, "big")

    def test_the_default_window_counts_until_ours_is_acknowledged(self) -> None:
        """RFC 9113 section 6.9.2: the client may have sent before it knew."""
        bench = Bench(Limits(stream_window_bytes=20_000))
        bench.feed(frames.PREFACE + frame(SETTINGS, 0, 0) + opened(1, "/p/Join"))
        for _ in range(4):
            bench.feed(frame(DATA, 0, 1, message(bytes(16_000))))
        assert bench.tally.reasons == []
        bench.feed(frames.SETTINGS_ACK + opened(3, "/p/Join"))
        for _ in range(2):
            bench.feed(frame(DATA, 0, 3, message(bytes(16_000))))
        assert bench.tally.reasons == [Reason.FLOW_CONTROL]

    def test_settings_are_acknowledged_before_what_they_set_free(self) -> None:
        """A client holds us to its old window until it sees the acknowledgement."""
        bench = Bench()
        bench.feed(OPENING + frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 0}) + call(1))
        output = bench.feed(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 100}))
        assert [row[0] for row in parse(output)] == [SETTINGS, DATA, HEADERS]


async def start(*, lifetime: Lifetime, gate: Gate | None = None, random: float = 0.5) -> Served:
    def echo(request: bytes, call: Call) -> bytes:
        return request

    handler = gate.unary if gate is not None else echo
    server = GrpcServer(
        services({"Echo": Unary(handler)}), [LOOPBACK], lifetime=lifetime, random=lambda: random
    )
    await within(server.start())
    return Served(server, (LOOPBACK,))


async def test_an_old_connection_finishes_its_calls_and_ends() -> None:
    gate = Gate()
    served = await start(lifetime=Lifetime(max_age_seconds=0.1), gate=gate)
    async with raw_client(served) as client:
        stream_id = client.open(request_headers("Echo"))
        client.send(stream_id, framed(b"x"), end=True)
        await gate.wait_entered()
        await client.until(lambda: len(client.goaways) == 2)
        gate.open.set()
        assert (await client.answer(stream_id)).data == framed(b"x")
        with pytest.raises(ConnectionError):
            await client.until(lambda: False)
    assert [(goaway.code, goaway.last_stream_id) for goaway in client.goaways] == [
        (ErrorCode.NO_ERROR, frames.MAX_STREAM_ID),
        (ErrorCode.NO_ERROR, stream_id),
    ]
    await within(served.server.drain(0))


async def test_an_old_connection_whose_calls_do_not_end_is_closed_after_the_grace() -> None:
    gate = Gate()
    served = await start(
        lifetime=Lifetime(max_age_seconds=0.1, max_age_grace_seconds=0.2, keepalive_timeout_seconds=0.1),
        gate=gate,
    )
    async with raw_client(served) as client:
        client.send(client.open(request_headers("Echo")), framed(b"x"), end=True)
        await gate.wait_left()
    assert gate.cancelled == [True]
    await within(served.server.drain(0))


@pytest.mark.parametrize(("random", "age_seconds"), [(0.0, 90.0), (0.5, 100.0), (1.0, 110.0)])
async def test_connections_that_began_together_do_not_end_together(random: float, age_seconds: float) -> None:
    served = await start(lifetime=Lifetime(max_age_seconds=100, max_age_jitter=0.1), random=random)
    connections = served.server._connections  # type: ignore[attr-defined]
    assert connections.age_seconds() == pytest.approx(age_seconds)
    await within(served.server.drain(0))


async def test_connections_over_the_limit_are_closed_at_once() -> None:
    limited = GrpcServer(services({}), [LOOPBACK], limits=Limits(max_connections=2))
    await within(limited.start())
    limited_served = Served(limited, (LOOPBACK,))
    async with raw_client(limited_served) as first, raw_client(limited_served) as second:
        await first.until(lambda: first.settings_acks)
        await second.until(lambda: second.settings_acks)
        reader, writer = await asyncio.open_connection("127.0.0.1", limited_served.port)
        with suppress(ConnectionResetError):
            assert await within(reader.read()) == b""
        writer.transport.abort()
        first.hang_up()
        await until(lambda: len(limited._connections._open) == 1)  # type: ignore[union-attr]
        async with raw_client(limited_served) as third:
            await third.until(lambda: third.settings_acks)
    await within(limited.drain(0))
