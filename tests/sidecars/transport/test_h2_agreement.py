"""Random frames are accepted or refused as the `h2` package does it in server mode.

Both are fed the same frames, one at a time, and after each the verdicts are compared: the connection goes on,
or it ends. Where they differ, one of `DELIBERATE` must explain why; there the sequence is over, as the two
are no longer in the same state. The examples are the same in every run: an unknown difference shall not break
somebody else's change. To look for one, take `derandomize` out and raise `max_examples`.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecars.transport.api.limits import Lifetime, Limits
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
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from tests.support.transport.wire import (
    NO_TABLE,
    OPENING,
    Bench,
    block,
    frame,
    message,
    request,
    request_fields,
)

ALTSVC = 0xA

Frame = tuple[int, int, int, bytes]

LIMITS = Limits(max_concurrent_streams=3)


class Oracle:
    """`h2` as a server that answers the requests that we have answered, and opens its windows at once."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        self.h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.HEADER_TABLE_SIZE: 4096,
                codes.MAX_CONCURRENT_STREAMS: LIMITS.max_concurrent_streams,
                codes.INITIAL_WINDOW_SIZE: LIMITS.stream_window_bytes,
                codes.MAX_HEADER_LIST_SIZE: LIMITS.max_header_list_bytes,
            },
        )
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(LIMITS.connection_window_bytes - 65_535)
        self.error: h2.exceptions.ProtocolError | None = None
        self._unanswered: set[int] = set()

    def feed(self, data: bytes) -> None:
        try:
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.StreamEnded):
                    self._unanswered.add(event.stream_id)
                elif isinstance(event, h2.events.StreamReset):
                    self._unanswered.discard(event.stream_id)
        except h2.exceptions.ProtocolError as error:
            self.error = error

    def answer_all_but(self, open_streams: Container[int]) -> None:
        try:
            for stream_id in [number for number in self._unanswered if number not in open_streams]:
                self._unanswered.remove(stream_id)
                self.h2.send_headers(stream_id, [(b":status", b"200")], end_stream=True)
        except h2.exceptions.ProtocolError as error:
            self.error = self.error or error


@dataclass(frozen=True, slots=True)
class Difference:
    """A case where we do not do as `h2` does, and why."""

    name: str
    why: str
    applies: Callable[[Frame, Bench, Oracle], bool]
    example: tuple[Frame, ...]


def ours_ended(bench: Bench, *reasons: Reason) -> bool:
    return bench.connection.over and bench.tally.reasons[-1] in reasons


def stream_fault(bench: Bench, *reasons: Reason) -> bool:
    return not bench.connection.over and bool(bench.tally.reasons) and bench.tally.reasons[-1] in reasons


def zero_increment(last: Frame) -> bool:
    return last[0] == WINDOW_UPDATE and int.from_bytes(last[3], "big") % 2**31 == 0


CALL = (
    (HEADERS, END_HEADERS, 1, NO_TABLE + request("/p/Echo")),
    (DATA, END_STREAM, 1, message(b"x")),
)
OPEN = ((HEADERS, END_HEADERS, 1, NO_TABLE + request("/p/Join")),)

DELIBERATE = (
    Difference(
        "malformed requests cost their stream",
        "RFC 9113 section 8.1.1 makes them stream errors; h2 ends the connection with all its calls.",
        lambda last, bench, oracle: stream_fault(bench, Reason.MALFORMED_REQUEST, Reason.CONTENT_LENGTH),
        ((HEADERS, END_HEADERS | END_STREAM, 1, NO_TABLE + block((":method", "POST"), ("Upper", "x"))),),
    ),
    Difference(
        "blanks around metadata are stripped",
        "gRPC over HTTP/2 allows it; h2 ends the connection, by RFC 9113 section 8.2.1.",
        lambda last, bench, oracle: (
            not bench.connection.over and "surrounded by whitespace" in str(oracle.error)
        ),
        (
            (
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                NO_TABLE + block(*request_fields("/p/Echo"), ("x-blank", " v")),
            ),
        ),
    ),
    Difference(
        "a zero increment costs its stream",
        "RFC 9113 section 6.9: a stream error on a stream; h2's frame parser knows no streams.",
        lambda last, bench, oracle: zero_increment(last) and not bench.connection.over,
        (*OPEN, (WINDOW_UPDATE, 0, 1, bytes(4))),
    ),
    Difference(
        "the reserved bit of WINDOW_UPDATE is ignored",
        "RFC 9113 section 6.9 says to ignore it; h2 reads it as part of the number.",
        lambda last, bench, oracle: last[0] == WINDOW_UPDATE and len(last[3]) == 4 and last[3][0] >= 0x80,
        (*OPEN, (WINDOW_UPDATE, 0, 1, b"\x80\x00\x00\x01")),
    ),
    Difference(
        "self-dependency costs its stream",
        "RFC 7540 section 5.3.1, obsolete: a stream error on an open stream; h2 ends the connection.",
        lambda last, bench, oracle: stream_fault(bench, Reason.SELF_DEPENDENCY),
        (*OPEN, (PRIORITY, 0, 1, b"\x00\x00\x00\x01\x10")),
    ),
    Difference(
        "a PRIORITY of the wrong size costs its stream",
        "RFC 9113 section 6.3 says stream error of type FRAME_SIZE_ERROR; h2 ends the connection.",
        lambda last, bench, oracle: last[0] == PRIORITY and stream_fault(bench, Reason.FRAME_SIZE),
        (*OPEN, (PRIORITY, 0, 1, b"\x00\x00")),
    ),
    Difference(
        "RST_STREAM on an idle stream ends the connection",
        "RFC 9113 section 6.4 demands it; h2 lets it pass once any stream was opened.",
        lambda last, bench, oracle: last[0] == RST_STREAM and ours_ended(bench, Reason.STREAM_ID),
        (*OPEN, (RST_STREAM, 0, 9, bytes(4))),
    ),
    Difference(
        "frames after our own RST_STREAM are ignored",
        "RFC 9113 section 5.1: they may have been on the way; h2 remembers only how the stream first closed.",
        lambda last, bench, oracle: (
            last[0] == HEADERS
            and not bench.connection.over
            and isinstance(oracle.error, h2.exceptions.StreamClosedError)
        ),
        (*CALL, (DATA, 0, 1, b"late"), (HEADERS, END_HEADERS, 1, request("/p/Echo"))),
    ),
    Difference(
        "every value of SETTINGS is checked",
        "RFC 9113 section 6.5.3: values are taken in their order; h2 sees only the last of a parameter.",
        lambda last, bench, oracle: last[0] == SETTINGS and ours_ended(bench, Reason.SETTINGS_VALUE),
        ((SETTINGS, 0, 0, b"\x00\x02" + bytes([0, 0, 0, 9]) + b"\x00\x02" + bytes(4)),),
    ),
    Difference(
        "one stream too many is refused alone",
        "RFC 9113 section 5.1.2: a stream error, and the client may retry; h2 ends the connection.",
        lambda last, bench, oracle: stream_fault(bench, Reason.TOO_MANY_STREAMS),
        tuple(
            (HEADERS, END_HEADERS, 2 * number + 1, NO_TABLE + request("/p/Join"))
            for number in range(LIMITS.max_concurrent_streams + 1)
        ),
    ),
    Difference(
        "ALTSVC counts as an unknown frame",
        "RFC 7838 section 4: a server ignores it; h2 parses its content.",
        lambda last, bench, oracle: last[0] == ALTSVC and not bench.connection.over,
        ((ALTSVC, 0, 0, b""),),
    ),
    Difference(
        "a stream number that clients do not use is refused at the first frame of the block",
        "h2 waits for the end of the block, and so for CONTINUATION frames that change nothing.",
        lambda last, bench, oracle: (
            last[0] == HEADERS and not last[1] & END_HEADERS and ours_ended(bench, Reason.STREAM_ID)
        ),
        ((HEADERS, 0, 2, NO_TABLE + request("/p/Echo")),),
    ),
    Difference(
        "after a client's GOAWAY its streams go on",
        "RFC 9113 section 6.8: GOAWAY ends no stream that exists; h2 accepts nothing more.",
        lambda last, bench, oracle: (
            not bench.connection.over
            and oracle.error is not None
            and "ConnectionState.CLOSED" in str(oracle.error)
        ),
        (*OPEN, (GOAWAY, 0, 0, bytes(8)), (DATA, END_STREAM, 1, message(b"x"))),
    ),
    Difference(
        "fewer CONTINUATION frames are allowed",
        "h2 stops at 64; no client of ours sends a block of more than a few frames (CVE-2024-27316).",
        lambda last, bench, oracle: ours_ended(bench, Reason.CONTINUATION_FLOOD),
        (
            (HEADERS, 0, 1, NO_TABLE),
            *((CONTINUATION, 0, 1, b""),) * (LIMITS.max_continuation_frames + 1),
        ),
    ),
)


def agree(ours: Bench, theirs: Oracle) -> bool:
    return ours.connection.over == (theirs.error is not None)


def explain(last: Frame, ours: Bench, theirs: Oracle) -> Difference | None:
    return next((difference for difference in DELIBERATE if difference.applies(last, ours, theirs)), None)


def compare(sequence: Sequence[Frame], *, handlers_wait: bool = False) -> Difference | None:
    """The deliberate difference that ends the comparison, if one does. Fails on any other."""
    ours, theirs = Bench(LIMITS), Oracle()
    ours.feed(OPENING)
    theirs.feed(OPENING)
    for row in sequence:
        data = frame(*row)
        ours.feed(data)
        if not handlers_wait:
            ours.run()
        theirs.feed(data)
        theirs.answer_all_but(ours.connection.streams.table)
        if not agree(ours, theirs):
            difference = explain(row, ours, theirs)
            fault = ours.connection.fault
            assert difference is not None, (
                f"{row}: ours {f'ended: {fault}' if fault else 'goes on'},"
                f" {ours.tally.reasons}; h2: {theirs.error!r}"
            )
            return difference
        if ours.connection.over:
            return None
    return None


BLOCKS = st.sampled_from(
    [
        request("/p/Echo"),
        request("/p/Join"),
        request("/p/Split"),
        request("/p/Echo", ("content-length", "6")),
        block(*request_fields("/p/Echo")[1:]),
        block(*request_fields("/p/Echo", ("connection", "close"))),
        block(*request_fields("/p/Echo"), (":late", "pseudo")),
        block(("x-trailer", "1")),
        block(("grpc-status", "0"), (":path", "/")),
        b"",
        b"\x80",
        b"\xff\xff\xff\xff\xff\xff",
        b"\x3f\xe1\xff\xff\xff\x0f",
    ]
).flatmap(lambda encoded: st.sampled_from([NO_TABLE + encoded, encoded]))

STREAMS = st.sampled_from([0, 1, 1, 3, 3, 5, 7, 2, 4, 2**31 - 1])
UINT32 = st.sampled_from([0, 1, 2, 3, 5, 100, 65_535, 2**31 - 2, 2**31 - 1, 2**31, 2**32 - 1])


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


SETTING = st.tuples(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 99]), UINT32).map(
    lambda pair: pair[0].to_bytes(2, "big") + number(pair[1])
)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.tuples(
        st.just(HEADERS), st.sampled_from([0, 1, 4, 4, 5, 5, 4 | PADDED, 4 | PRIORITY_FLAG]), STREAMS, BLOCKS
    ),
    st.tuples(st.just(CONTINUATION), st.sampled_from([0, END_HEADERS]), STREAMS, BLOCKS),
    st.tuples(
        st.just(DATA),
        st.sampled_from([0, 0, END_STREAM, END_STREAM, PADDED, END_STREAM | PADDED]),
        STREAMS,
        st.one_of(st.just(message(b"x")), st.just(b""), st.binary(max_size=20), st.just(bytes(16_384))),
    ),
    st.tuples(
        st.just(PRIORITY),
        st.just(0),
        STREAMS,
        st.one_of(UINT32.map(lambda v: number(v) + b"\x10"), st.binary(max_size=6)),
    ),
    st.tuples(st.just(RST_STREAM), st.just(0), STREAMS, st.one_of(UINT32.map(number), st.binary(max_size=5))),
    st.tuples(
        st.just(SETTINGS),
        st.sampled_from([0, 0, 0, 1]),
        st.sampled_from([0, 0, 0, 1]),
        st.one_of(st.lists(SETTING, max_size=3).map(b"".join), st.binary(max_size=7)),
    ),
    st.tuples(st.just(PUSH_PROMISE), st.just(END_HEADERS), STREAMS, st.just(number(2))),
    st.tuples(
        st.just(PING),
        st.sampled_from([0, 1]),
        st.sampled_from([0, 0, 1]),
        st.one_of(st.just(bytes(8)), st.binary(max_size=9)),
    ),
    st.tuples(st.just(GOAWAY), st.just(0), st.sampled_from([0, 0, 1]), st.binary(min_size=6, max_size=12)),
    st.tuples(
        st.just(WINDOW_UPDATE), st.just(0), STREAMS, st.one_of(UINT32.map(number), st.binary(max_size=5))
    ),
    st.tuples(
        st.sampled_from([ALTSVC, 0xC, 0x10, 0xFF]), st.integers(0, 255), STREAMS, st.binary(max_size=9)
    ),
)


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(st.lists(FRAMES, min_size=1, max_size=10), st.booleans())
def test_random_frames_are_taken_as_h2_takes_them(sequence: list[Frame], handlers_wait: bool) -> None:
    compare(sequence, handlers_wait=handlers_wait)


@settings(max_examples=700, deadline=None, derandomize=True)
@given(st.lists(FRAMES, min_size=1, max_size=8), st.booleans())
def test_frames_after_a_call_are_taken_as_h2_takes_them(sequence: list[Frame], handlers_wait: bool) -> None:
    """From a state in which one stream has closed, one is open, and one may wait for its handler."""
    opening = (
        *CALL,
        (HEADERS, END_HEADERS, 3, request("/p/Join")),
        (HEADERS, END_HEADERS, 5, request("/p/Later")),
        (DATA, END_STREAM, 5, message(b"x")),
    )
    compare([*opening, *sequence], handlers_wait=handlers_wait)


@pytest.mark.parametrize("difference", DELIBERATE, ids=lambda difference: difference.name)
def test_each_difference_is_a_real_one(difference: Difference) -> None:
    """So that the list holds no excuse for what agrees by now."""
    assert compare(difference.example, handlers_wait=True) is difference, difference.why


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_raise_anything(data: bytes, settings_received: bool) -> None:
    """A peer gets GOAWAY for its mistakes; nothing else ever leaves the connection."""
    bench = Bench()
    bench.feed((OPENING if settings_received else b"") + data)
    bench.run()
    bench.connection.tick(1000.0, Lifetime())
    bench.connection.lost()


@settings(max_examples=700, deadline=None)
@given(st.lists(st.one_of(FRAMES.map(lambda row: frame(*row)), st.binary(max_size=12)), max_size=15))
def test_no_sequence_raises_anything_but_ends_in_a_goaway_or_goes_on(sequence: list[bytes]) -> None:
    bench = Bench()
    output = bench.feed(OPENING)
    for data in sequence:
        output += bench.feed(data)
        output += bench.run()
    bench.connection.drain(1.0)
    bench.connection.tick(2000.0, Lifetime())
    output += bench.connection.take()
    if bench.connection.fault is not None:
        kind = output.rindex(
            frames.goaway(bench.connection.streams.stream_table.last_id, bench.connection.fault.code)[9:17]
        )
        assert output[kind - 6] == GOAWAY
