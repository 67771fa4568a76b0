"""How the bytes of a connection are cut into reads must not matter."""

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecars.transport.http2 import frames
from sidecars.transport.http2.frames import END_HEADERS, END_STREAM
from tests.support.transport.wire import (
    CANCEL,
    NO_TABLE,
    OPENING,
    Bench,
    FrameRow,
    frame,
    message,
    parse,
    request,
)

BODIES = st.binary(max_size=40)
PATHS = st.sampled_from(
    ["/p/Echo", "/p/Echo", "/p/Refuse", "/p/Later", "/p/Join", "/p/Split", "/p/Shout", "/p/Nope"]
)


@st.composite
def call_frames(draw: st.DrawFn, stream_id: int) -> list[bytes]:
    """The frames of one call: header block in one or more frames, messages over any number of DATA frames."""
    path = draw(PATHS)
    extra = draw(st.sampled_from([(), (("grpc-timeout", "5S"),), (("x-trace", "abc"),)]))
    # The first block after our SETTINGS tells the change of the table; a later one may tell it again.
    told = NO_TABLE if stream_id == 1 else draw(st.sampled_from([b"", NO_TABLE]))
    encoded = told + request(path, *extra)
    bodies = draw(st.lists(BODIES, min_size=0, max_size=3)) if draw(st.booleans()) else [draw(BODIES)]
    data = b"".join(map(message, bodies))
    pieces = cut(data, draw(st.lists(st.integers(0, max(len(data), 1)), max_size=3)))
    parts = cut(encoded, draw(st.lists(st.integers(0, len(encoded)), max_size=2)))
    result = []
    for index, part in enumerate(parts):
        kind = frames.CONTINUATION if index else frames.HEADERS
        result.append(frame(kind, END_HEADERS if index == len(parts) - 1 else 0, stream_id, part))
    block = [b"".join(result)]  # nothing may come between its frames
    block += [
        frame(frames.DATA, END_STREAM if index == len(pieces) - 1 else 0, stream_id, piece)
        for index, piece in enumerate(pieces)
    ]
    return block


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in places if place <= len(data)), len(data)]
    return [data[first:last] for first, last in pairwise(edges)]


@st.composite
def conversations(draw: st.DrawFn, most_resets: int = 1) -> bytes:
    """Calls that begin in order and interleave as they like, with other frames between them."""
    calls = [draw(call_frames(2 * number + 1)) for number in range(draw(st.integers(1, 4)))]
    for number in draw(st.sets(st.integers(0, len(calls) - 1), max_size=most_resets)):
        calls[number].append(frame(frames.RST_STREAM, 0, 2 * number + 1, CANCEL))
    begun, wire = 0, []
    while any(calls):
        choices = [index for index in range(min(begun + 1, len(calls))) if calls[index]]
        if not choices:
            begun += 1
            continue
        index = draw(st.sampled_from(choices))
        if index == begun:
            begun += 1
        wire.append(calls[index].pop(0))
        between = draw(st.integers(0, 12))
        if between == 0:
            wire.append(frame(frames.PING, 0, 0, b"12345678"))
        elif between == 1:
            wire.append(frame(frames.WINDOW_UPDATE, 0, 0, (1000).to_bytes(4, "big")))
        elif between == 2:
            wire.append(frame(frames.SETTINGS, 0, 0, b"\x00\x04" + (20).to_bytes(4, "big")))
        elif between == 3:
            wire.append(frame(0xAA, 0xFF, 0, b"unknown"))
    ending = draw(st.sampled_from([b"", b"", frame(frames.DATA, 0, 0, b"on stream 0"), b"\x00\x00"]))
    return OPENING + b"".join(wire) + ending


def talk(reads: list[bytes]) -> tuple[bytes, bytes, list[tuple[str, bytes]], bool]:
    bench = Bench()
    before = b"".join(map(bench.feed, reads))
    after = bench.run()
    return before, after, bench.calls.seen, bench.connection.over


@settings(max_examples=400, deadline=None)
@given(conversations(), st.lists(st.floats(0, 1), max_size=12))
def test_the_same_bytes_give_the_same_calls_and_the_same_answer_however_they_are_cut(
    wire: bytes, places: list[float]
) -> None:
    """The short way for whole calls, and the long way for cut ones, must not be told apart from outside.

    One reset at most: a client that cancels often is the next test's.
    """
    assert talk(cut(wire, [int(place * len(wire)) for place in places])) == talk([wire])


@settings(max_examples=60, deadline=None)
@given(conversations())
def test_a_byte_a_read_gives_the_same_as_all_at_once(wire: bytes) -> None:
    assert talk([wire[i : i + 1] for i in range(len(wire))]) == talk([wire])


@settings(max_examples=400, deadline=None)
@given(conversations(most_resets=4), st.lists(st.floats(0, 1), max_size=12))
def test_a_cut_decides_about_cancelled_calls_alone(wire: bytes, places: list[float]) -> None:
    """A call is not begun where its reset came in the same read, from a client that cancelled before."""
    cancelled = {row[2] for row in parse_some(wire[len(frames.PREFACE) :]) if row[0] == frames.RST_STREAM}
    before, after, seen, over = talk([wire])
    cut_before, cut_after, cut_seen, cut_over = talk(cut(wire, [int(place * len(wire)) for place in places]))

    def of_others(output: bytes) -> list[FrameRow]:
        return [row for row in parse(output) if row[2] not in cancelled]

    assert of_others(cut_before) == of_others(before)
    assert of_others(cut_after) == of_others(after)
    assert cut_over == over
    assert Counter(seen) <= Counter(cut_seen)


def parse_some(wire: bytes) -> list[FrameRow]:
    """The whole frames at the beginning of `wire`."""
    stop = 0
    while len(wire) - stop >= frames.HEAD_BYTES:
        length = frames.HEAD.unpack_from(wire, stop)[0] >> 8
        stop += frames.HEAD_BYTES + length
    return parse(wire[:stop])


def test_the_conversations_reach_the_handlers() -> None:
    """The property above must not hold because nothing happens."""
    wire = OPENING + frame(frames.HEADERS, END_HEADERS, 1, NO_TABLE + request("/p/Echo"))
    wire += frame(frames.DATA, END_STREAM, 1, message(b"hello"))
    before, _, seen, over = talk([wire])
    assert message(b"hello") in before
    assert seen == [("/p/Echo", b"hello")]
    assert not over
