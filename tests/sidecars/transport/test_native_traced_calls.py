"""Calls whose header blocks are literals, and differ in their trace, on a whole connection."""

import hpack
import pytest

from sidecars.transport.api.service import Call, Unary
from sidecars.transport.http2 import frames
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    SETTINGS,
    ErrorCode,
)
from tests.support.transport.literal_fields import USUAL, literals, trace
from tests.support.transport.wire import (
    METHODS,
    Bench,
    frame,
    goaway_code,
    message,
    request_fields,
    resets,
    settings_received,
)


def traced_call(stream_id: int, *, path: str = "/p/Echo", body: bytes = b"x") -> bytes:
    fields = [(name.encode(), value.encode()) for name, value in request_fields(path)]
    return frame(HEADERS, END_HEADERS, stream_id, literals([*fields, trace()])) + frame(
        DATA, END_STREAM, stream_id, message(body)
    )


def test_we_announce_no_table() -> None:
    greeting = Bench().connection.take()
    assert frames.parse_settings(greeting[9 : 9 + greeting[2]])[0] == (
        frames.Setting.HEADER_TABLE_SIZE,
        0,
    )


def test_waiting_calls_keep_their_own_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by the handler at once, and after later calls came; in one read and in pieces."""
    seen: list[Call] = []

    def record(request: bytes, call: Call) -> bytes:
        seen.append(call)
        return request

    monkeypatch.setitem(METHODS, b"/p/Echo", Unary(record))
    bench = settings_received()
    traces = [trace() for _ in range(8)]
    blocks = [literals([*USUAL, one]) for one in traces]
    for number, block in enumerate(blocks[:4]):  # HEADERS of one read, then DATA of the next
        bench.feed(frame(HEADERS, END_HEADERS, 2 * number + 1, block))
    bench.feed(b"".join(frame(DATA, END_STREAM, 2 * number + 1, message(b"x")) for number in range(4)))
    whole = b""
    for number, block in enumerate(blocks[4:], 4):
        whole += frame(HEADERS, END_HEADERS, 2 * number + 1, block)
        whole += frame(DATA, END_STREAM, 2 * number + 1, message(b"x"))
    bench.feed(whole)
    assert [call.metadata["traceparent"] for call in seen] == [value.decode() for _, value in traces]
    assert seen[2].metadata == {"traceparent": traces[2][1].decode()}


def test_a_block_in_two_frames_is_recognised_as_well() -> None:
    bench = settings_received()
    for number in range(4):
        block = literals([*USUAL, trace()])
        output = bench.feed(
            frame(HEADERS, 0, 2 * number + 1, block[:40])
            + frame(CONTINUATION, END_HEADERS, 2 * number + 1, block[40:])
            + frame(DATA, END_STREAM, 2 * number + 1, message(b"x"))
        )
        assert message(b"x") in output
    assert len(bench.calls.seen) == 4


def test_open_traced_calls_count_their_memory_and_give_it_back() -> None:
    bench = settings_received()
    for stream_id in range(1, 21, 2):
        bench.feed(traced_call(stream_id, path="/p/Later"))
    assert bench.connection.streams.stream_table.header_bytes > 10 * 7 * 320
    bench.run()
    assert bench.connection.streams.stream_table.header_bytes == 0


@pytest.mark.parametrize(
    ("value", "reason"), [(b"a\nb", Reason.MALFORMED_REQUEST), (b"", None)], ids=["malformed", "served"]
)
def test_only_the_stream_of_a_malformed_value_ends(value: bytes, reason: Reason | None) -> None:
    bench = settings_received()
    for stream_id in (1, 3, 5):
        bench.feed(traced_call(stream_id))
    output = bench.feed(frame(HEADERS, END_HEADERS, 7, literals([*USUAL, (b"traceparent", value)])))
    assert resets(output) == ([(7, ErrorCode.PROTOCOL_ERROR)] if reason else [])
    assert bench.tally.reasons == ([reason] if reason else [])
    assert message(b"y") in bench.feed(traced_call(9, body=b"y"))


def test_invalid_huffman_code_ends_the_connection() -> None:
    bench = settings_received()
    for stream_id in (1, 3, 5):
        bench.feed(traced_call(stream_id))
    block = literals([*USUAL, (b"traceparent", b"000")])
    output = bench.feed(frame(HEADERS, END_HEADERS, 7, block[:-1] + b"\x00"))
    assert goaway_code(output) is ErrorCode.COMPRESSION_ERROR
    assert bench.tally.reasons == [Reason.HEADER_BLOCK]


def test_a_client_that_ignores_the_setting_is_understood() -> None:
    """As .NET's HttpClient does. RFC 9113 section 4.3.1 would end the connection."""
    bench, encoder = settings_received(), hpack.Encoder()
    for stream_id in range(1, 101, 2):
        block = encoder.encode([*USUAL, trace()])
        bench.feed(frame(HEADERS, END_HEADERS, stream_id, block))
        assert message(b"x") in bench.feed(frame(DATA, END_STREAM, stream_id, message(b"x")))
    assert not bench.connection.over


def test_a_table_is_used_until_our_settings_are_acknowledged() -> None:
    """Envoy sends its first call before it has read them."""
    bench, encoder = Bench(), hpack.Encoder()
    bench.feed(frames.PREFACE + frame(SETTINGS, 0, 0))
    for stream_id in (1, 3):
        block = encoder.encode([*USUAL, trace()])
        bench.feed(frame(HEADERS, END_HEADERS, stream_id, block))
        bench.feed(frame(DATA, END_STREAM, stream_id, message(b"x")))
    bench.feed(frames.SETTINGS_ACK)
    encoder.header_table_size = 0
    for stream_id in (5, 7, 9):
        block = encoder.encode([*USUAL, trace()])
        bench.feed(frame(HEADERS, END_HEADERS, stream_id, block))
        bench.feed(frame(DATA, END_STREAM, stream_id, message(b"x")))
    assert len(bench.calls.seen) == 5
    assert not bench.connection.over
