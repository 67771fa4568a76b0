"""Floods of frames, header blocks and streams, and the limit that ends each.

Each goes against the sans-IO connection, with the limit made small, so that the frame that is one too many is
known. Others are in test_native_windows.py, test_native_slow.py and test_native_costs.py; what neighbours
notice of them is in test_native_attacked.py.
"""

from collections.abc import Callable

import pytest

from sidecars.transport.api.limits import Limits, Rate
from sidecars.transport.http2 import frames
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
)
from tests.support.transport.wire import (
    CANCEL,
    OPENING,
    Bench,
    block,
    call,
    ends_at,
    frame,
    goaway_code,
    gzip_call,
    message,
    opened,
    parse,
    request,
    request_fields,
    resets,
    settings_received,
    status,
    stream_ids,
    zeros,
)

FIVE = Rate(5, 1.0)

# -- floods of frames --------------------------------------------------------------------------------------


def priority(number: int) -> bytes:
    return frame(PRIORITY, 0, 2 * number + 1, bytes(5))


FLOODS: dict[str, tuple[Limits, Callable[[int], bytes], Reason]] = {
    "ping (CVE-2019-9512)": (Limits(pings=FIVE), lambda n: frame(PING, 0, 0, bytes(8)), Reason.PING_FLOOD),
    "ping answers": (Limits(pings=FIVE), lambda n: frame(PING, frames.ACK, 0, bytes(8)), Reason.PING_FLOOD),
    "priority (CVE-2019-9513)": (Limits(idle_frames=FIVE), priority, Reason.IDLE_FRAME_FLOOD),
    "unknown frames": (
        Limits(idle_frames=FIVE),
        lambda n: frame(0xFA, 0, n, b"whatever"),
        Reason.IDLE_FRAME_FLOOD,
    ),
    "goaway": (Limits(idle_frames=FIVE), lambda n: frame(GOAWAY, 0, 0, bytes(8)), Reason.IDLE_FRAME_FLOOD),
    "rapid reset (CVE-2023-44487)": (
        Limits(resets=FIVE),
        lambda n: opened(2 * n + 1) + frame(RST_STREAM, 0, 2 * n + 1, CANCEL),
        Reason.RAPID_RESET,
    ),
    "rapid reset of calls that wait for their answer": (
        Limits(resets=FIVE),
        lambda n: call(2 * n + 1, method="/p/Later") + frame(RST_STREAM, 0, 2 * n + 1, CANCEL),
        Reason.RAPID_RESET,
    ),
    "rapid reset with a deadline": (
        Limits(resets=FIVE),
        lambda n: (
            frame(HEADERS, END_HEADERS, 2 * n + 1, request("/p/Join", ("grpc-timeout", "1u")))
            + frame(RST_STREAM, 0, 2 * n + 1, CANCEL)
        ),
        Reason.RAPID_RESET,
    ),
    "resets that we are made to send (CVE-2025-8671)": (
        Limits(resets=FIVE),
        lambda n: opened(2 * n + 1, "/p/Join") + frame(WINDOW_UPDATE, 0, 2 * n + 1, bytes(4)),
        Reason.RAPID_RESET,
    ),
    "malformed requests": (
        Limits(resets=FIVE),
        lambda n: frame(HEADERS, END_HEADERS, 2 * n + 1, block((":method", "POST"))),
        Reason.RAPID_RESET,
    ),
    "streams over the limit": (
        Limits(resets=FIVE, max_concurrent_streams=1),
        lambda n: (
            opened(2 * n + 1, "/p/Join") + opened(2 * n + 3, "/p/Join") if n == 0 else opened(2 * n + 3)
        ),
        Reason.RAPID_RESET,
    ),
}


@pytest.mark.parametrize(("limits", "build", "reason"), FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_is_ended_at_its_limit(limits: Limits, build: Callable[[int], bytes], reason: Reason) -> None:
    bench = settings_received(limits)
    assert ends_at(bench, map(build, range(50))) == 6
    assert bench.tally.reasons[-1] is reason


@pytest.mark.parametrize(("limits", "build", "reason"), FLOODS.values(), ids=FLOODS.keys())
def test_the_same_frames_at_leisure_are_no_flood(
    limits: Limits, build: Callable[[int], bytes], reason: Reason
) -> None:
    bench = settings_received(limits)
    for number in range(50):
        bench.now += 2.0
        bench.feed(build(number))
        assert not bench.connection.over, number


def test_a_settings_flood_is_ended_at_its_limit() -> None:
    """CVE-2019-9515: each asks for an answer. Those of the greeting count as well."""
    bench = settings_received(Limits(settings=FIVE))
    assert ends_at(bench, [frame(SETTINGS, 0, 0)] * 50) == 4
    assert bench.tally.reasons == [Reason.SETTINGS_FLOOD]


@pytest.mark.parametrize(
    "empty", [frame(DATA, 0, 1), frame(DATA, PADDED, 1, b"\x04" + bytes(4))], ids=["empty", "padding only"]
)
def test_empty_data_is_ended_at_its_limit(empty: bytes) -> None:
    """CVE-2019-9518."""
    bench = settings_received(Limits(empty_frames=FIVE))
    bench.feed(opened(1, "/p/Join"))
    assert ends_at(bench, [empty] * 50) == 6
    assert bench.tally.reasons == [Reason.EMPTY_FRAME_FLOOD]


def test_window_updates_are_ended_at_their_limit() -> None:
    bench = settings_received(Limits(window_updates=FIVE))
    assert ends_at(bench, [frames.window_update(0, 1)] * 50) == 6
    assert bench.tally.reasons == [Reason.WINDOW_UPDATE_FLOOD]


def test_each_stream_earns_window_updates() -> None:
    """A client that opens both windows after each reply does not count as a flood, however long."""
    bench = settings_received(Limits(window_updates=FIVE))
    for stream_id in stream_ids(200):
        bench.feed(
            opened(stream_id)
            + frame(DATA, END_STREAM, stream_id, message(b"x"))
            + frames.window_update(0, 1)
            + frames.window_update(stream_id, 1)
        )
    assert not bench.connection.over


# -- header blocks -----------------------------------------------------------------------------------------


def test_a_continuation_flood_is_ended_at_its_limit() -> None:
    """CVE-2024-27316: empty frames that never end the block."""
    bench = settings_received(Limits(max_continuation_frames=5))
    bench.feed(frame(HEADERS, 0, 1, request("/p/Echo")))
    assert ends_at(bench, [frame(CONTINUATION, 0, 1)] * 50) == 6
    assert bench.tally.reasons == [Reason.CONTINUATION_FLOOD]


def test_a_block_is_not_collected_beyond_its_limit() -> None:
    bench = settings_received(Limits(max_header_block_bytes=5000))
    bench.feed(frame(HEADERS, 0, 1, bytes(1000)))
    assert ends_at(bench, [frame(CONTINUATION, 0, 1, bytes(1000))] * 50) == 5
    assert bench.tally.reasons == [Reason.HEADER_LIST_SIZE]


def test_a_hpack_bomb_is_ended() -> None:
    """CVE-2016-6581: one entry as large as the table, then a byte for each copy of it."""
    entry = b"\x40" + b"\x01x" + b"\x7f\x81\x1e" + b"y" * 3968
    bomb = entry + b"\xbe" * 10_000
    bench = settings_received()
    assert ends_at(bench, [frame(HEADERS, END_HEADERS, 1, bomb)]) == 1
    assert bench.tally.reasons == [Reason.HEADER_LIST_SIZE]


def test_a_header_list_over_the_cap_is_refused_alone() -> None:
    """The cap counts 32 bytes a field (RFC 9113 section 6.5.2); grpc-js, connect-es and tonic ignore it."""
    usual = request_fields("/p/Echo")
    size = sum(len(name) + len(value) + 32 for name, value in usual) + len("x-pad") + 32
    fits, too_large = (block(*usual, ("x-pad", "p" * (2000 - size + extra))) for extra in (0, 1))
    bench = settings_received(Limits(max_header_list_bytes=2000))
    bench.feed(frame(HEADERS, END_HEADERS, 1, fits))
    assert not bench.connection.over
    held = bench.connection.streams.stream_table.header_bytes
    output = bench.feed(frame(HEADERS, END_HEADERS, 3, too_large))
    assert status(output, 3) == 8  # RESOURCE_EXHAUSTED
    assert b"metadata of 2001 bytes with 32 for each field: at most 2000" in output
    assert status(bench.feed(call(5)), 5) == 0
    assert bench.connection.streams.stream_table.header_bytes == held  # nothing of the refused one is kept
    assert bench.tally.reasons == []


def test_a_header_list_over_the_absolute_cap_ends_the_connection() -> None:
    bench = settings_received(Limits(max_header_list_bytes=1000, absolute_max_header_list_bytes=2000))
    assert ends_at(bench, [frame(HEADERS, END_HEADERS, 1, request("/p/Echo", ("x-pad", "p" * 2000)))]) == 1
    assert bench.tally.reasons == [Reason.HEADER_LIST_SIZE]


def test_fields_are_not_decoded_beyond_the_absolute_cap() -> None:
    """A byte each: the list of them is refused before it is made."""
    bench = settings_received(Limits(absolute_max_header_list_bytes=32_000))
    assert ends_at(bench, [frame(HEADERS, END_HEADERS, 1, b"\x82" * 16_000)]) == 1
    assert bench.tally.reasons == [Reason.HEADER_LIST_SIZE]


def test_the_table_is_not_resized_without_end() -> None:
    bench = settings_received(Limits(absolute_max_header_list_bytes=32_000))
    output = bench.feed(frame(HEADERS, END_HEADERS, 1, b"\x20" * 16_000 + request("/p/Echo")))
    assert goaway_code(output) is ErrorCode.COMPRESSION_ERROR


def test_a_refused_header_list_leaves_the_table_in_step() -> None:
    """Its entries are in the table, and what refers to them is held to the rules like any literal field."""
    bench = settings_received(Limits(max_header_list_bytes=1000))
    entry = b"\x40\x05x-bad\x03a b"[:-3] + b"a\x00b"
    bench.feed(frame(HEADERS, END_HEADERS, 1, request("/p/Echo", ("x-pad", "p" * 1000)) + entry))
    assert resets(bench.feed(frame(HEADERS, END_HEADERS, 3, request("/p/Echo") + b"\xbe"))) == [
        (3, ErrorCode.PROTOCOL_ERROR)
    ]
    assert status(bench.feed(call(5)), 5) == 0


def test_trailers_over_the_cap_cost_their_stream() -> None:
    bench = settings_received(Limits(max_header_list_bytes=1000))
    bench.feed(opened(1, "/p/Join"))
    trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, block(("x-pad", "p" * 1000)))
    assert resets(bench.feed(trailers)) == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert status(bench.feed(call(3)), 3) == 0


@pytest.mark.parametrize(
    ("opening", "most", "more"),
    [
        (frames.PREFACE + frame(SETTINGS, 0, 0), b"\x3f\xe1\x1f", b"\x3f\xe2\x1f"),  # 4,096 and 4,097
        (OPENING, b"\x20", b"\x21"),  # 0 and 1
    ],
    ids=["before our SETTINGS are acknowledged", "after"],
)
def test_the_table_grows_to_what_we_allow_and_no_further(opening: bytes, most: bytes, more: bytes) -> None:
    """RFC 7541 section 6.3: a larger size is a decoding error."""
    bench = Bench()
    bench.feed(opening)
    bench.feed(frame(HEADERS, END_HEADERS, 1, most + request("/p/Echo")))
    assert not bench.connection.over
    output = bench.feed(frame(HEADERS, END_HEADERS, 3, more + request("/p/Echo")))
    assert goaway_code(output) is ErrorCode.COMPRESSION_ERROR
    assert bench.tally.reasons == [Reason.HEADER_BLOCK]


@pytest.mark.parametrize("size", [b"\x3f\xff\xff\xff\xff\xff\xff\x7f", b"\xff\xff\xff\xff\xff\xff\xff\x7f"])
def test_numbers_without_end_are_refused(size: bytes) -> None:
    """RFC 7541 section 5.1: an integer over the limit of the implementation is a decoding error."""
    output = settings_received().feed(frame(HEADERS, END_HEADERS, 1, size))
    assert goaway_code(output) is ErrorCode.COMPRESSION_ERROR


# -- streams and messages ----------------------------------------------------------------------------------


def test_streams_over_the_limit_are_refused_alone() -> None:
    """RFC 9113 section 5.1.2; REFUSED_STREAM says that the call may be tried again."""
    bench = settings_received(Limits(max_concurrent_streams=3))
    output = bench.feed(b"".join(opened(stream_id, "/p/Join") for stream_id in stream_ids(4)))
    assert resets(output) == [(7, ErrorCode.REFUSED_STREAM)]
    assert sorted(bench.connection.streams.table) == [1, 3, 5]


def test_calls_that_have_only_begun_count_as_streams() -> None:
    bench = settings_received(Limits(max_concurrent_streams=3))
    output = bench.feed(b"".join(opened(stream_id, "/p/Echo") for stream_id in stream_ids(4)))
    assert resets(output) == [(7, ErrorCode.REFUSED_STREAM)]


def test_a_length_larger_than_the_cap_is_refused_before_it_is_sent() -> None:
    bench = settings_received(Limits(max_message_bytes=1000))
    output = bench.feed(opened(1) + frame(DATA, 0, 1, b"\x00\xff\xff\xff\xff"))
    assert status(output, 1) == 8  # RESOURCE_EXHAUSTED
    assert bench.connection.streams.receive_flow.held_bytes == 0
    assert bench.tally.reasons == [Reason.BAD_MESSAGE]


def test_a_length_larger_than_what_is_sent_ends_the_call() -> None:
    bench = settings_received()
    output = bench.feed(opened(1) + frame(DATA, END_STREAM, 1, message(bytes(100))[:50]))
    assert status(output, 1) == 13  # INTERNAL
    assert bench.calls.seen == []


def test_messages_begun_on_many_streams_shut_the_window() -> None:
    """A window is opened again while a message is on its way, but not for a thousand of them."""
    limits = Limits(
        max_message_bytes=200_000,
        stream_window_bytes=70_000,
        connection_window_bytes=100_000,
        max_held_bytes=200_000,
    )
    bench = settings_received(limits)
    sent = 0
    for stream_id in stream_ids(100):
        if bench.connection.streams.receive_flow.window < 16_000:
            break
        bench.feed(opened(stream_id) + frame(DATA, 0, stream_id, message(bytes(190_000))[:16_000]))
        sent += 16_000
    assert 200_000 <= sent <= 300_000
    shut = bench.connection.streams.receive_flow.window
    bench.feed(frame(RST_STREAM, 0, 1, CANCEL))
    for stream_id in range(3, 13, 2):
        bench.feed(frame(RST_STREAM, 0, stream_id, CANCEL))
    assert bench.connection.streams.receive_flow.window > shut


def test_a_stream_that_is_reset_gives_its_window_back() -> None:
    """All of the connection's window may have been taken by what one handler did not read."""
    limits = Limits(stream_window_bytes=100_000, connection_window_bytes=70_000)
    bench = settings_received(limits)
    bench.feed(opened(1, "/p/Join"))
    for _ in range(4):
        bench.feed(frame(DATA, 0, 1, message(bytes(16_000))))
    assert bench.connection.streams.receive_flow.window < 16_000
    output = bench.feed(frame(RST_STREAM, 0, 1, CANCEL))
    assert bench.connection.streams.receive_flow.window == 70_000
    assert [row[0] for row in parse(output)] == [WINDOW_UPDATE]


@pytest.mark.parametrize(
    "limits",
    [Limits(max_message_bytes=10_000), Limits(max_inflated_bytes=10_000)],
    ids=["as any message", "as a compressed one"],
)
def test_a_gzip_bomb_is_not_inflated(limits: Limits) -> None:
    bench = settings_received(limits)
    assert status(bench.feed(gzip_call(1, zeros(10_001))), 1) == 8  # RESOURCE_EXHAUSTED
    bench.feed(gzip_call(3, zeros(10_000)))
    assert bench.calls.seen == [("/p/Echo", bytes(10_000))]


def test_many_small_gzip_bombs_are_ended_at_their_limit() -> None:
    bench = settings_received(Limits(inflated_bytes=Rate(50_000, 1.0)))
    assert ends_at(bench, (gzip_call(stream_id, zeros(10_000)) for stream_id in stream_ids(50))) == 6
    assert bench.tally.reasons == [Reason.INFLATION_FLOOD]
