"""Windows, ours and the peer's, against a peer that abuses them (RFC 9113 sections 5.2 and 6.9)."""

import pytest

from sidecars.transport.api.limits import Limits
from sidecars.transport.http2 import frames
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import (
    DATA,
    END_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
)
from tests.support.transport.wire import (
    Bench,
    ends_at,
    frame,
    goaway_code,
    message,
    opened,
    parse,
    resets,
    settings_received,
    stream_ids,
    waited,
)


def test_a_window_update_of_nothing_ends_the_connection_or_the_stream() -> None:
    bench = settings_received()
    output = bench.feed(opened(1, "/p/Join") + frame(WINDOW_UPDATE, 0, 1, bytes(4)))
    assert resets(output) == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert goaway_code(bench.feed(frame(WINDOW_UPDATE, 0, 0, bytes(4)))) is ErrorCode.PROTOCOL_ERROR
    assert bench.tally.reasons == [Reason.ZERO_INCREMENT] * 2


def test_a_window_does_not_grow_past_its_largest_size() -> None:
    """RFC 9113 section 6.9.1: FLOW_CONTROL_ERROR, of the stream or of the connection."""
    bench = settings_received()
    most = frames.MAX_WINDOW_BYTES
    output = bench.feed(opened(1, "/p/Join") + frames.window_update(1, most))
    assert resets(output) == [(1, ErrorCode.FLOW_CONTROL_ERROR)]
    assert goaway_code(bench.feed(frames.window_update(0, most))) is ErrorCode.FLOW_CONTROL_ERROR
    assert bench.tally.reasons == [Reason.WINDOW_OVERFLOW] * 2


def test_settings_do_not_grow_the_window_of_a_stream_past_its_largest_size() -> None:
    """RFC 9113 section 6.9.2."""
    bench = settings_received()
    bench.feed(opened(1, "/p/Join") + frames.window_update(1, 1000))
    output = bench.feed(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW_BYTES}))
    assert goaway_code(output) is ErrorCode.FLOW_CONTROL_ERROR


def test_a_peer_that_ignores_our_windows_is_stopped() -> None:
    limits = Limits(stream_window_bytes=70_000, connection_window_bytes=100_000)
    bench = settings_received(limits)
    bench.feed(opened(1, "/p/Join"))
    output = b""
    for _ in range(5):  # whole messages that no handler reads: the window is not opened again
        output += bench.feed(frame(DATA, 0, 1, message(bytes(16_000))))
    assert resets(output) == [(1, ErrorCode.FLOW_CONTROL_ERROR)]
    bench.feed(opened(3, "/p/Join") + opened(5, "/p/Join"))
    for stream_id in (3, 3, 3, 3, 5, 5, 5):
        output = bench.feed(frame(DATA, 0, stream_id, message(bytes(16_000))))
    assert goaway_code(output) is ErrorCode.FLOW_CONTROL_ERROR
    assert set(bench.tally.reasons) == {Reason.FLOW_CONTROL}


def test_replies_that_wait_for_a_window_have_a_limit() -> None:
    """CVE-2019-9511, CVE-2019-9517: asks for much and opens no window."""
    bench = settings_received(Limits(max_unsent_bytes=50_000))
    bench.feed(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 0}))
    calls = (
        opened(stream_id) + frame(DATA, END_STREAM, stream_id, message(bytes(9_995)))
        for stream_id in stream_ids(50)
    )
    assert ends_at(bench, calls) == 6
    assert bench.tally.reasons == [Reason.UNSENT_REPLIES]


def test_a_connection_window_that_stays_shut_ends_the_connection() -> None:
    bench = settings_received(Limits(write_stall_timeout_seconds=60))
    size = frames.DEFAULT_WINDOW_BYTES // 5
    for stream_id in stream_ids(6):
        bench.feed(opened(stream_id) + frame(DATA, END_STREAM, stream_id, message(bytes(size))))
    assert waited(bench, 61) == b""
    output = waited(bench, 61)
    assert goaway_code(output) is ErrorCode.ENHANCE_YOUR_CALM
    assert bench.tally.reasons == [Reason.STALLED]


def test_a_stream_window_that_stays_shut_ends_the_stream() -> None:
    bench = settings_received(Limits(write_stall_timeout_seconds=60))
    bench.feed(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 10}))
    bench.feed(opened(1) + frame(DATA, END_STREAM, 1, message(bytes(100))))
    waited(bench, 1)
    bench.feed(frames.window_update(1, 10))  # it takes something: that restarts its time
    waited(bench, 59)
    assert waited(bench, 59) == b""
    assert resets(waited(bench, 2)) == [(1, ErrorCode.CANCEL)]
    assert bench.connection.streams.send_queue.unsent_bytes == 0


# -- a window below the default ----------------------------------------------------------------------------


def granted(output: bytes, stream_id: int) -> int:
    """By how much `output` opens the window of a stream."""
    rows = parse(output)
    return sum(
        int.from_bytes(row[3], "big") for row in rows if row[0] == WINDOW_UPDATE and row[2] == stream_id
    )


@pytest.mark.parametrize("early", [0, 10_000, 16_384, 60_000, 65_535])
def test_a_small_window_counts_for_streams_opened_before_it_was_known(early: int) -> None:
    """RFC 9113 section 6.9.2: applying SETTINGS moves the windows of open streams, on both sides alike.

    Else a client that sent its first call with its preface would wait forever for a WINDOW_UPDATE.
    """
    bench = Bench(Limits(stream_window_bytes=16_384))
    bench.feed(frames.PREFACE + frame(SETTINGS, 0, 0) + opened(1))
    body = message(bytes(200_000))
    output = b"".join(
        bench.feed(frame(DATA, 0, 1, body[at : min(at + 5_000, early)])) for at in range(0, early, 5_000)
    )
    window = 65_535 - early + granted(output, 1) + 16_384 - 65_535  # as the client sees it
    window += granted(bench.feed(frames.SETTINGS_ACK), 1)
    sent = early
    while sent < len(body):
        assert window > 0, f"shut forever after {sent} bytes"
        part = body[sent : sent + min(window, 16_384)]
        sent += len(part)
        window -= len(part)
        window += granted(bench.feed(frame(DATA, int(sent == len(body)), 1, part)), 1)
    assert bench.calls.seen == [("/p/Echo", bytes(200_000))]
    assert bench.tally.reasons == []


def test_a_second_acknowledgement_moves_no_window() -> None:
    bench = settings_received(Limits(stream_window_bytes=16_384))
    bench.feed(opened(1, "/p/Join"))
    assert bench.feed(frames.SETTINGS_ACK) == b""
    assert bench.connection.streams.table[1].receive_window == 16_384
