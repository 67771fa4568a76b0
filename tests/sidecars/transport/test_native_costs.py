"""What a peer makes us do and keep for little of its own, and where that ends."""

import gzip
import tracemalloc

import pytest

from sidecars.transport.api.limits import Limits, Rate
from sidecars.transport.http2 import frames
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    Setting,
)
from tests.support.transport.wire import (
    CANCEL,
    Bench,
    call,
    ends_at,
    frame,
    goaway_code,
    gzip_call,
    message,
    opened,
    parse,
    request,
    resets,
    settings_received,
    status,
    stream_ids,
    zeros,
)

FIVE = Rate(5, 1.0)


# -- SETTINGS ----------------------------------------------------------------------------------------------


def parameters(*values: tuple[int, int]) -> bytes:
    payload = b"".join(kind.to_bytes(2, "big") + value.to_bytes(4, "big") for kind, value in values)
    return frame(SETTINGS, 0, 0, payload)


@pytest.mark.parametrize("kind", [Setting.INITIAL_WINDOW_SIZE, Setting.MAX_FRAME_SIZE, 0xFAFA])
def test_parameters_beyond_a_handful_count_as_settings(kind: int) -> None:
    """A frame holds 2,730, and each may move the windows of a thousand streams."""
    limits = Limits(settings_parameters=4, settings=Rate(20, 1.0))  # of which the greeting takes two
    bench = settings_received(limits)
    bench.feed(parameters(*[(kind, 20_000)] * (4 + 17)))
    assert not bench.connection.over
    bench = settings_received(limits)
    assert ends_at(bench, [parameters(*[(kind, 20_000)] * (4 + 18))]) == 1
    assert bench.tally.reasons == [Reason.SETTINGS_FLOOD]


def test_a_window_that_one_frame_opens_and_shuts_lets_nothing_out() -> None:
    """RFC 9113 section 6.5.3: nothing else happens between two values of a frame, so the last one counts."""
    bench = settings_received()
    bench.feed(parameters((Setting.INITIAL_WINDOW_SIZE, 0)) + call(1, bytes(500)))
    output = bench.feed(
        parameters((Setting.INITIAL_WINDOW_SIZE, 400), (Setting.INITIAL_WINDOW_SIZE, 100), (0xFAFA, 0))
    )
    assert [len(row[3]) for row in parse(output) if row[0] == DATA] == [100]
    output = bench.feed(parameters((Setting.INITIAL_WINDOW_SIZE, 505), (Setting.INITIAL_WINDOW_SIZE, 0)))
    assert [row[0] for row in parse(output)] == [SETTINGS]


def test_no_value_of_a_frame_may_overflow_a_window() -> None:
    """RFC 9113 section 6.9.2, of those in between as well: taken one by one, each is a change."""
    bench = settings_received()
    bench.feed(opened(1, "/p/Join") + frames.window_update(1, 1000))
    largest = frames.MAX_WINDOW_BYTES - 1000
    bench.feed(parameters((Setting.INITIAL_WINDOW_SIZE, largest), (Setting.INITIAL_WINDOW_SIZE, 65_535)))
    assert not bench.connection.over
    output = bench.feed(
        parameters((Setting.INITIAL_WINDOW_SIZE, largest + 1), (Setting.INITIAL_WINDOW_SIZE, 65_535))
    )
    assert goaway_code(output) is ErrorCode.FLOW_CONTROL_ERROR


# -- WINDOW_UPDATE -----------------------------------------------------------------------------------------


def test_the_number_of_a_stream_earns_no_window_updates() -> None:
    """A peer may begin with the highest number there is: streams that were opened are what counts."""
    bench = settings_received(Limits(window_updates=FIVE, window_updates_per_stream=8))
    bench.feed(opened(frames.MAX_STREAM_ID, "/p/Join"))
    assert ends_at(bench, [frames.window_update(0, 1)] * 50) == 5 + 8 + 1
    assert bench.tally.reasons == [Reason.WINDOW_UPDATE_FLOOD]


def test_streams_that_are_refused_earn_no_window_updates() -> None:
    bench = settings_received(Limits(window_updates=FIVE, max_concurrent_streams=1))
    bench.feed(b"".join(opened(stream_id, "/p/Join") for stream_id in stream_ids(10)))
    assert ends_at(bench, [frames.window_update(0, 1)] * 50) == 5 + 8 + 1


def test_what_was_earned_long_ago_is_not_all_saved() -> None:
    """A connection of many years saves what the streams earn that it may have open at once."""
    bench = settings_received(Limits(window_updates=FIVE, max_concurrent_streams=3))
    for stream_id in stream_ids(200):
        bench.feed(call(stream_id))
    assert ends_at(bench, [frames.window_update(0, 1)] * 50) == 5 + 3 * 8 + 1


# -- frames that are counted once --------------------------------------------------------------------------


def test_a_reset_behind_the_answer_costs_nothing() -> None:
    """The timeouts of a well-behaved client cross with our answers, and a stream can be reset only once."""
    bench = settings_received(Limits(resets=FIVE, idle_frames=FIVE, max_concurrent_streams=1))
    for number in stream_ids(200):
        bench.feed(call(number))
        bench.feed(frame(RST_STREAM, 0, number, CANCEL))
        assert not bench.connection.over
    assert ends_at(bench, [frame(RST_STREAM, 0, 1, CANCEL)] * 50) == 5 + 4 + 1  # a stream earns five
    assert bench.tally.reasons == [Reason.IDLE_FRAME_FLOOD]


def test_a_window_update_behind_the_answer_is_no_idle_frame() -> None:
    """RFC 9113 section 5.1: for a short time they are to be expected."""
    bench = settings_received(Limits(idle_frames=FIVE))
    for number in stream_ids(200):
        bench.feed(call(number) + frames.window_update(number, 1))
    assert not bench.connection.over


# -- messages ----------------------------------------------------------------------------------------------

BROKEN = zeros(10_000)
REFUSED = {
    "too large": (zeros(20_000), 8, 5),
    "a wrong check sum": (BROKEN[:-5] + bytes([BROKEN[-5] ^ 1]) + BROKEN[-4:], 13, 5),
    "cut short": (BROKEN[:-4], 13, 6),
    "more behind it": (BROKEN + b"more", 13, 6),
}


@pytest.mark.parametrize(("compressed", "code", "last"), REFUSED.values(), ids=REFUSED.keys())
def test_gzip_that_is_refused_counts_as_inflated(compressed: bytes, code: int, last: int) -> None:
    """It was inflated before that was known: 10,001 bytes of what is too large, or may have been."""
    limits = Limits(max_message_bytes=10_000, inflated_bytes=Rate(50_000, 1.0))
    assert status(settings_received(limits).feed(gzip_call(1, compressed)), 1) == code
    bench = settings_received(limits)
    assert ends_at(bench, (gzip_call(number, compressed) for number in stream_ids(50))) == last
    assert bench.tally.reasons == [Reason.INFLATION_FLOOD]


def test_what_is_no_gzip_counts_as_what_it_could_have_been() -> None:
    """Deflate makes 1032 bytes of one at best; so a small broken message is a small one."""
    bench = settings_received(Limits(inflated_bytes=Rate(50_000, 1.0)))
    noise = gzip.compress(b"", mtime=0)[:10] + b"\xff" * 2
    assert (
        ends_at(bench, (gzip_call(number, noise) for number in stream_ids(50))) == 50_000 // (1032 * 12) + 1
    )


def test_a_read_that_inflates_much_is_left_in_the_middle() -> None:
    """Other connections have their turn, and nothing of the read is lost."""
    bench = settings_received(Limits(max_message_bytes=10_000, max_bytes_per_turn=25_000))
    outputs = [bench.feed(b"".join(gzip_call(number, zeros(20_000)) for number in stream_ids(10)))]
    while bench.connection.has_pending_input:
        outputs.append(bench.feed(b""))
    assert [len(parse(output)) for output in outputs] == [3, 3, 3, 1]
    assert all(status(b"".join(outputs), number) == 8 for number in stream_ids(10))


class Slow(list[tuple[str, bytes]]):
    """What a bench has seen; each call takes 0.4 ms of its time."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def append(self, seen: tuple[str, bytes]) -> None:
        super().append(seen)
        self._bench.now += 0.0004


@pytest.mark.parametrize("between", [b"", frames.window_update(0, 1)], ids=["calls alone", "frames between"])
def test_a_read_that_takes_long_is_left_in_the_middle(between: bytes) -> None:
    """Thousands of calls come in one read, and their replies are far from `max_bytes_per_turn`."""
    bench = settings_received(Limits(turn_seconds=0.001))
    bench.calls.seen = Slow(bench)
    outputs = [bench.feed(b"".join(call(number, bytes(2_000)) + between for number in stream_ids(9)))]
    while bench.connection.has_pending_input:
        outputs.append(bench.feed(b""))
    assert [count for output in outputs if (count := output.count(b"grpc-status"))] == [3, 3, 3]
    assert all(status(b"".join(outputs), number) == 0 for number in stream_ids(9))


def test_messages_that_nobody_reads_take_no_more_than_was_sent() -> None:
    """Five bytes a message: as objects they would take twenty times that."""
    bench = settings_received()
    bench.feed(opened(1, "/p/Join"))
    data = frame(DATA, 0, 1, message(b"") * 3_000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(15):
            bench.feed(data)
        assert tracemalloc.get_traced_memory()[0] - before < 15 * len(data) * 3 // 2
    finally:
        tracemalloc.stop()
    assert bench.connection.streams.receive_flow.unread_bytes == 15 * 3_000 * 5
    bench.run()
    assert bench.calls.seen == [("/p/Join", b"")] * 45_000


@pytest.mark.parametrize("method", ["/p/Echo", "/p/Split"])
def test_a_second_message_where_one_is_expected_is_refused_at_once(method: str) -> None:
    """UNIMPLEMENTED is gRPC's word for it (grpc/grpc doc/statuscodes.md); its end is not waited for."""
    bench = settings_received()
    assert bench.feed(opened(1, method) + frame(DATA, 0, 1, message(b"one") + message(b"two")[:-1])) == b""
    assert status(bench.feed(frame(DATA, 0, 1, b"o")), 1) == 12
    assert bench.connection.streams.receive_flow.unread_bytes == 0
    assert bench.calls.seen == []


# -- header lists ------------------------------------------------------------------------------------------


def with_fields(stream_id: int, method: str, count: int) -> bytes:
    extra = ((f"x{number}", "") for number in range(count))
    return frame(HEADERS, END_HEADERS, stream_id, request(method, *extra))


@pytest.mark.parametrize("method", ["/p/Join", "/p/Echo", "/p/Later", "/p/Nowhere"])
def test_the_header_lists_of_open_streams_have_a_limit(method: str) -> None:
    """A field of four bytes is three objects in memory; a stream over the limit may be tried again."""
    bench = settings_received(Limits(max_open_header_bytes=50_000))
    whole = frame(DATA, END_STREAM, 1, message(b"x")) if method == "/p/Later" else b""
    output = b""
    for number in stream_ids(6):  # 46 fields of 320 bytes and their text each: three fit, the fourth is over
        output += bench.feed(with_fields(number, method, 40))
        if whole:
            output += bench.feed(frame(DATA, END_STREAM, number, message(b"x")))
    refused = [(9, ErrorCode.REFUSED_STREAM), (11, ErrorCode.REFUSED_STREAM)]
    assert resets(output) == refused
    assert set(bench.tally.reasons) == {Reason.HEADER_LIST_SIZE}
    bench.feed(frame(RST_STREAM, 0, 1, CANCEL))
    assert resets(bench.feed(with_fields(13, method, 1))) == []
    for number in (3, 5, 7, 13):
        bench.feed(frame(RST_STREAM, 0, number, CANCEL))
    assert not bench.connection.streams.table
    assert resets(bench.feed(with_fields(15, method, 100))) == []


def test_header_lists_of_one_read_have_the_same_limit() -> None:
    """Calls that have begun count once it shows that they wait; DATA of a refused one is let pass."""
    bench = settings_received(Limits(max_open_header_bytes=50_000))
    begun = b"".join(with_fields(number, "/p/Echo", 40) for number in stream_ids(6))
    output = bench.feed(begun + frame(DATA, 0, 11, message(b"x")) + frame(DATA, END_STREAM, 1, message(b"x")))
    assert resets(output) == [(9, ErrorCode.REFUSED_STREAM), (11, ErrorCode.REFUSED_STREAM)]
    assert bench.calls.seen == [("/p/Echo", b"x")]
    assert sorted(bench.connection.streams.table) == [3, 5, 7]


def test_header_lists_of_calls_that_were_answered_are_let_go() -> None:
    bench = settings_received(Limits(max_open_header_bytes=50_000))
    for number in stream_ids(50):
        bench.feed(with_fields(number, "/p/Later", 40) + frame(DATA, END_STREAM, number, message(b"x")))
        bench.run()
    assert bench.tally.reasons == []


# -- deadlines ---------------------------------------------------------------------------------------------


def timed(stream_id: int, method: str) -> bytes:
    return frame(HEADERS, END_HEADERS, stream_id, request(method, ("grpc-timeout", "1S")))


@pytest.mark.parametrize("method", ["/p/Echo", "/p/Split"])
def test_a_deadline_is_watched_where_a_request_has_not_come_whole(method: str) -> None:
    bench = settings_received()
    bench.feed(timed(1, method) + frame(DATA, 0, 1, message(b"x")))
    assert bench.calls.watched == [1]


@pytest.mark.parametrize("method", ["/p/Echo", "/p/Split"])
def test_no_timer_is_set_for_a_request_that_came_whole(method: str) -> None:
    """Not even on the long way: a frame between HEADERS and DATA, DATA in two."""
    bench = settings_received()
    body = message(b"x")
    bench.feed(
        timed(1, method)
        + frame(WINDOW_UPDATE, 0, 0, (1).to_bytes(4, "big"))
        + frame(DATA, 0, 1, body[:3])
        + frame(DATA, END_STREAM, 1, body[3:])
    )
    assert bench.calls.watched == []
    assert bench.calls.seen or bench.connection.streams.table
