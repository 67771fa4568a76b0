"""Peers that take their time: each wait has an end."""

import pytest

from sidecars.transport.api.limits import Lifetime, Limits
from sidecars.transport.http2 import frames
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import (
    DATA,
    END_STREAM,
    HEADERS,
    SETTINGS,
    ErrorCode,
)
from tests.support.transport.wire import (
    Bench,
    frame,
    goaway_code,
    message,
    opened,
    parse,
    request,
    resets,
    settings_received,
    stream_ids,
    waited,
)


@pytest.mark.parametrize(
    "said", [b"", frames.PREFACE[:10], frames.PREFACE], ids=["nothing", "part", "preface"]
)
def test_a_socket_that_does_not_greet_is_closed(said: bytes) -> None:
    bench = Bench(Limits(preface_timeout_seconds=10))
    bench.feed(said)
    assert waited(bench, 9) == b""
    assert goaway_code(waited(bench, 2)) is ErrorCode.PROTOCOL_ERROR
    assert bench.tally.reasons == [Reason.SLOW_START]


def test_settings_must_be_acknowledged() -> None:
    """RFC 9113 section 6.5.3."""
    bench = Bench(Limits(settings_ack_seconds=30))
    bench.feed(frames.PREFACE + frame(SETTINGS, 0, 0))
    assert waited(bench, 29) == b""
    assert goaway_code(waited(bench, 2)) is ErrorCode.SETTINGS_TIMEOUT
    assert bench.tally.reasons == [Reason.SETTINGS_TIMEOUT]


@pytest.mark.parametrize("method", ["/p/Echo", "/p/Split", "/p/Join"])
def test_a_byte_a_minute_does_not_hold_a_stream(method: str) -> None:
    bench = settings_received(Limits(message_timeout_seconds=30))
    bench.feed(opened(1, method))
    request = message(bytes(100))
    output = b""
    for i in range(3):
        bench.feed(frame(DATA, 0, 1, request[i : i + 1]))
        output += waited(bench, 15)
    assert resets(output) == [(1, ErrorCode.CANCEL)]
    assert bench.tally.reasons == [Reason.SLOW_MESSAGE]
    assert not bench.connection.streams.table


@pytest.mark.parametrize("method", ["/p/Echo", "/p/Split"])
def test_a_request_of_one_message_has_its_time_as_a_whole(method: str) -> None:
    """From HEADERS to END_STREAM: otherwise an empty message every 29 seconds would restart it forever."""
    bench = settings_received(Limits(message_timeout_seconds=30))
    bench.feed(opened(1, method))
    assert waited(bench, 29) == b""
    assert bench.feed(frame(DATA, 0, 1, message(b""))) == b""
    assert resets(waited(bench, 2)) == [(1, ErrorCode.CANCEL)]
    assert bench.tally.reasons == [Reason.SLOW_MESSAGE]


def test_a_peer_that_we_do_not_read_from_is_not_slow() -> None:
    """Its socket takes none of our replies, which has a limit of its own."""
    bench = settings_received(Limits(message_timeout_seconds=30))
    bench.feed(opened(1) + opened(3)[:20])
    bench.connection.streams.paused = True
    for _ in range(10):
        bench.now += 20
        bench.connection.tick(bench.now, Lifetime(keepalive_seconds=60))
    bench.connection.streams.resume()
    assert bench.connection.take() == b""
    assert waited(bench, 20) == b""
    assert bench.tally.reasons == []


def test_a_read_with_more_replies_than_fit_is_left_in_the_middle() -> None:
    """A peer that does not read may still write much: what it gets ready is bounded, and nothing is lost."""
    bench = settings_received(Limits(max_bytes_per_turn=30_000))
    bench.feed(frames.window_update(0, 2**20))
    calls = b"".join(
        opened(stream_id) + frame(DATA, END_STREAM, stream_id, message(bytes(10_000)))
        for stream_id in stream_ids(10)
    )
    output = bench.feed(calls)
    outputs = [output]
    while bench.connection.has_pending_input:
        outputs.append(bench.feed(b""))
    assert len(outputs) == 4
    assert all(len(output) < 45_000 for output in outputs)
    assert [row[2] for row in parse(b"".join(outputs)) if row[0] == DATA] == list(stream_ids(10))


def test_a_connection_that_ends_is_not_behind() -> None:
    bench = settings_received(Limits(max_bytes_per_turn=10, max_unsent_bytes=10_000))
    bench.feed(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 100}))
    call = message(bytes(11_000))
    bench.feed(opened(1) + frame(DATA, END_STREAM, 1, call) + opened(3))
    assert bench.connection.over
    assert not bench.connection.has_pending_input


def test_a_stream_of_messages_may_rest_between_two() -> None:
    """Envoy keeps its access-log stream open for days."""
    bench = settings_received(Limits(message_timeout_seconds=30))
    bench.feed(opened(1, "/p/Join"))
    for _ in range(3):
        assert waited(bench, 86_400) == b""
        bench.feed(frame(DATA, 0, 1, message(b"x")[:3]))
        bench.now += 1
        bench.feed(frame(DATA, 0, 1, message(b"x")[3:]))
    assert 1 in bench.connection.streams.table


@pytest.mark.parametrize(
    "part",
    [opened(1)[:20], frame(HEADERS, 0, 1, request("/p/Echo"))],
    ids=["half a frame", "a header block without end"],
)
def test_a_frame_that_does_not_end_is_not_waited_for(part: bytes) -> None:
    bench = settings_received(Limits(message_timeout_seconds=30))
    bench.feed(part)
    assert waited(bench, 29) == b""
    assert goaway_code(waited(bench, 2)) is ErrorCode.ENHANCE_YOUR_CALM
    assert bench.tally.reasons == [Reason.SLOW_MESSAGE]


def test_a_request_that_was_answered_early_is_not_waited_for() -> None:
    bench = settings_received(Limits(lingering_timeout_seconds=10))
    bench.feed(opened(1, "/p/Nowhere"))
    assert waited(bench, 9) == b""
    assert resets(waited(bench, 2)) == [(1, ErrorCode.NO_ERROR)]
    assert not bench.connection.streams.table


def test_a_request_that_was_answered_early_is_not_taken_in() -> None:
    """RFC 9113 section 8.1: RST_STREAM (NO_ERROR) asks the client to stop sending."""
    bench = settings_received(Limits(stream_window_bytes=100_000))
    bench.feed(opened(1, "/p/Nowhere"))
    output = b""
    for _ in range(4):
        output += bench.feed(frame(DATA, 0, 1, bytes(16_000)))
    assert resets(output) == [(1, ErrorCode.NO_ERROR)]
    assert bench.connection.streams.receive_flow.held_bytes == 0
