"""What honest clients do that looks like a flood: recorded frame by frame, and let pass by the defaults.

Recorded between each client and our server in November 2026: grpc-go 1.85, grpc-java 1.76 (Netty), grpc-js
1.14, tonic 0.14 (the h2 crate) and connect-go 1.21 (Go's net/http). The attacks that must not pass are in
test_native_attacks.py; each row of the table "What each guard costs" in docs/transport.md names one of these.
"""

from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from sidecars.transport.http2 import frames
from sidecars.transport.http2.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    ErrorCode,
)
from tests.support.transport.wire import (
    CANCEL,
    OPENING,
    Bench,
    call,
    frame,
    message,
    opened,
    parse,
    request,
    resets,
    settings_received,
    status,
    stream_ids,
)

CALLS = 12_000
"""More than the burst of any limit, and than what a second adds to it."""

Wait = float
Client = Iterator[bytes | Wait]
"""What a client sends, read by read, and the seconds it waits in between."""

CLOSED = int(ErrorCode.STREAM_CLOSED).to_bytes(4, "big")
BANDWIDTH_PING = frame(PING, 0, 0, bytes.fromhex("02041010090e0707"))


def timed(stream_id: int, method: str, timeout: str) -> bytes:
    return frame(HEADERS, END_HEADERS, stream_id, request(method, ("grpc-timeout", timeout)))


def asked(stream_id: int) -> bytes:
    return frame(DATA, END_STREAM, stream_id, message(b"x"))


def reset(stream_id: int, code: bytes = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream_id, code)


def grpc_go_calls(*, pause: float) -> Client:
    """One call after another; the first DATA of each reply is answered by a PING that measures bandwidth."""
    for number in stream_ids(CALLS):
        yield opened(number) + asked(number)
        yield frames.window_update(0, 7) + BANDWIDTH_PING
        yield pause


def grpc_go_closes_streams_together() -> Client:
    """A thousand log streams are half-closed at the same moment, and each reply may bring a PING."""
    numbers = stream_ids(1_000)
    yield b"".join(opened(number, "/p/Join") + frame(DATA, 0, number, message(b"x")) for number in numbers)
    yield b"".join(frame(DATA, END_STREAM, number) for number in numbers)
    for _ in numbers:
        yield frames.window_update(0, 5) + BANDWIDTH_PING


def grpc_go_gives_up() -> Client:
    """Sixty-four calls in flight with a deadline of 3 ms, at a server that takes longer."""
    for first in range(1, 2 * CALLS, 128):
        numbers = range(first, first + 128, 2)
        yield b"".join(timed(number, "/p/Later", "2950u") + asked(number) for number in numbers)
        yield 0.003
        yield b"".join(map(reset, numbers))


def grpc_go_gives_up_as_we_answer() -> Client:
    """An honest client whose answers are still on their way."""
    for first in range(1, 2 * CALLS, 128):
        numbers = range(first, first + 128, 2)
        yield b"".join(timed(number, "/p/Echo", "2950u") + asked(number) for number in numbers)
        yield b"".join(map(reset, numbers))


def grpc_go_finds_a_stalled_server() -> Client:
    """Each second call is given up before the server has read it: both come in one read."""
    for first in range(1, 2 * CALLS, 4):
        given_up = timed(first, "/p/Echo", "2950u") + asked(first) + reset(first)
        yield given_up + timed(first + 2, "/p/Echo", "2950u") + asked(first + 2)


def grpc_java_cancels_before_the_flush() -> Client:
    """RST_STREAM overtakes the DATA that was queued; a call that is not cancelled follows each of them."""
    for first in range(1, 2 * CALLS, 4):
        yield opened(first) + reset(first) + asked(first)
        yield opened(first + 2) + asked(first + 2)


def grpc_java_gives_up_as_we_answer() -> Client:
    """Netty answers each frame on a stream that it has reset with one more RST_STREAM."""
    for number in stream_ids(CALLS):
        yield timed(number, "/p/Echo", "2950u") + asked(number)
        yield reset(number) + reset(number, CLOSED) * 3


def grpc_js_calls() -> Client:
    """The HEADERS of all calls of a turn of Node's loop, then their DATA."""
    for first in range(1, 2 * CALLS, 128):
        numbers = range(first, first + 128, 2)
        yield b"".join(map(opened, numbers)) + b"".join(map(asked, numbers))
        yield frames.window_update(0, 64 * 6)


def tonic_calls() -> Client:
    """A request ends with an empty DATA frame of its own; bandwidth is measured as in grpc-go."""
    yield frames.settings({frames.Setting.ENABLE_PUSH: 0, frames.Setting.INITIAL_WINDOW_SIZE: 65_535})
    for number in stream_ids(CALLS):
        yield opened(number) + frame(DATA, 0, number, message(b"x")) + frame(DATA, END_STREAM, number)
        yield frames.window_update(0, 6) + frame(PING, 0, 0, bytes.fromhex("3b7cdb7a0b8716b4"))


def connect_go_gives_up() -> Client:
    """Go's net/http opens its windows once, and asks with a PING whether the peer is alive as it cancels."""
    yield frames.window_update(0, 0x40000000)
    for first in range(1, 2 * CALLS, 128):
        numbers = range(first, first + 128, 2)
        yield b"".join(timed(number, "/p/Later", "2950u") + asked(number) for number in numbers)
        yield 0.003
        yield b"".join(reset(number) + frame(PING, 0, 0, bytes(8)) for number in numbers)


def a_reader_of_large_replies() -> Client:
    """Both windows are opened again for every DATA frame of a reply."""
    for number in stream_ids(40):
        yield (
            opened(number, "/p/Echo")
            + b"".join(frame(DATA, 0, number, part) for part in pieces(message(bytes(1_000_000))))
            + frame(DATA, END_STREAM, number)
        )
        for _ in range(62):
            yield frames.window_update(0, 16_384) + frames.window_update(number, 16_384)


def pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + 16_000] for start in range(0, len(data), 16_000))


HONEST: dict[str, Callable[[], Client]] = {
    "grpc-go, a hundred calls a second": lambda: grpc_go_calls(pause=0.01),
    "grpc-go, as fast as it can": lambda: grpc_go_calls(pause=0.0),
    "grpc-go, a thousand streams half-closed together": grpc_go_closes_streams_together,
    "grpc-go, deadlines of 3 ms": grpc_go_gives_up,
    "grpc-go, deadlines that cross our answers": grpc_go_gives_up_as_we_answer,
    "grpc-go, deadlines at a stalled server": grpc_go_finds_a_stalled_server,
    "grpc-java, cancelled before the flush": grpc_java_cancels_before_the_flush,
    "grpc-java, deadlines that cross our answers": grpc_java_gives_up_as_we_answer,
    "grpc-js": grpc_js_calls,
    "tonic": tonic_calls,
    "connect-go, deadlines of 3 ms": connect_go_gives_up,
    "a reader of large replies": a_reader_of_large_replies,
}


def play(bench: Bench, client: Client) -> None:
    """Feed what the client sends; handlers go on as soon as a read is over, where they can."""
    for step in client:
        if isinstance(step, float):
            bench.now += step
        else:
            bench.feed(step)
            assert not bench.connection.over, bench.tally.reasons


@pytest.mark.parametrize("client", HONEST.values(), ids=HONEST.keys())
def test_an_honest_client_is_no_flood(client: Callable[[], Client]) -> None:
    bench = settings_received()
    play(bench, client())
    assert bench.tally.reasons == []
    assert bench.tally.goaways == []


def test_a_call_that_was_given_up_before_it_was_read_is_not_begun() -> None:
    """Once a peer has cancelled anything, the frame behind a request is looked at before the handler runs."""
    bench = settings_received()
    bench.feed(call(1) + reset(1))
    bench.calls.seen.clear()
    output = bench.feed(call(3, b"given up") + reset(3) + call(5, b"wanted"))
    assert bench.calls.seen == [("/p/Echo", b"wanted")]
    assert status(output, 5) == 0
    assert bench.tally.resets_received == 2


@pytest.mark.parametrize("cut", range(1, 13))
def test_a_reset_that_has_not_come_whole_is_waited_for_by_nobody(cut: int) -> None:
    """The call is begun, and what comes later of the reset ends it or crosses its answer."""
    bench = settings_received()
    bench.feed(call(1) + reset(1))
    bench.calls.seen.clear()
    bench.feed(call(3, b"begun") + reset(3)[:cut])
    assert bench.calls.seen == [("/p/Echo", b"begun")]
    bench.feed(reset(3)[cut:])
    assert status(bench.feed(call(5)), 5) == 0
    assert not bench.connection.over


def test_calls_that_are_given_up_unread_leave_the_window_as_it_was() -> None:
    bench = settings_received()
    bench.feed(call(1) + reset(1))
    for number in islice(stream_ids(400), 1, None):
        bench.feed(opened(number) + frame(DATA, END_STREAM, number, message(bytes(10_000))) + reset(number))
    assert bench.connection.streams.receive_flow.window > 0
    assert not bench.connection.over


def test_data_behind_its_own_reset_is_answered_once_and_no_fault_of_the_peer() -> None:
    """RFC 9113 section 5.1 asks for STREAM_CLOSED; more of the same is let pass."""
    bench = settings_received()
    output = bench.feed(opened(1, "/p/Join") + reset(1) + frame(DATA, 0, 1, b"x") + frame(DATA, 0, 1, b"y"))
    assert resets(output) == [(1, ErrorCode.STREAM_CLOSED)]
    assert bench.tally.reasons == []


def test_metadata_over_the_cap_is_refused_call_by_call() -> None:
    """grpc-js, connect-es and tonic ignore SETTINGS_MAX_HEADER_LIST_SIZE."""
    bench = settings_received()
    encoded = request("/p/Echo") + b"\x00\x05x-big\x7f\xa1\x9b\x01" + b"v" * 20_000
    for number in stream_ids(3_000):
        output = bench.feed(
            frame(HEADERS, 0, number, encoded[:16_384])
            + frame(frames.CONTINUATION, END_HEADERS, number, encoded[16_384:])
            + asked(number)
        )
        assert status(output, number) == 8  # RESOURCE_EXHAUSTED
    assert bench.tally.reasons == []
    assert bench.calls.seen == []


# -- a trusted peer ----------------------------------------------------------------------------------------


def test_a_trusted_peer_may_cancel_all_it_asks() -> None:
    bench = settings_received(trusted=True)
    for number in stream_ids(CALLS):
        bench.feed(call(number, method="/p/Later"))
        bench.feed(reset(number))
    assert not bench.connection.over
    assert bench.tally.resets_received == CALLS
    assert not bench.connection.streams.table
    assert bench.connection.streams.send_queue.unsent_bytes == 0


def test_the_same_of_a_peer_that_is_not_trusted_is_a_flood() -> None:
    bench = settings_received()
    for number in stream_ids(CALLS):
        bench.feed(call(number, method="/p/Later"))
        bench.feed(reset(number))
    assert bench.connection.over
    assert "rapid_reset" in bench.tally.reasons


def test_a_trusted_peer_that_cancels_at_once_has_nothing_begun() -> None:
    bench = settings_received(trusted=True)
    bench.feed(call(1, method="/p/Later") + reset(1))
    bench.calls.seen.clear()
    for number in islice(stream_ids(CALLS), 1, None):
        bench.feed(call(number, method="/p/Later") + reset(number))
    assert not bench.connection.over
    assert bench.calls.seen == []


@pytest.mark.parametrize("flood", [frame(PING, 0, 0, bytes(8)), frame(SETTINGS, ACK, 0)])
def test_a_trusted_peer_is_held_to_every_other_limit(flood: bytes) -> None:
    bench = Bench(trusted=True)
    output = bench.feed(OPENING + flood * 3_000)
    assert bench.connection.over
    assert parse(output)[-1][0] == frames.GOAWAY
