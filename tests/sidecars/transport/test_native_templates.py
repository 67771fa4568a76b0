"""Header blocks without a dynamic table, which differ from call to call in the values of metadata."""

import os
from collections.abc import Iterable, Sequence

import hpack
import pytest
from hpack.exceptions import HPACKError
from hpack.hpack import encode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Call, Code, Status, Unary
from sidecars.transport.http2 import frames
from sidecars.transport.http2.errors import GoAwayError, Reason
from sidecars.transport.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    SETTINGS,
    ErrorCode,
)
from sidecars.transport.http2.header_decoder import MAX_KNOWN_BLOCKS, MAX_TEMPLATES, HeaderDecoder
from sidecars.transport.http2.headers import MalformedRequestError, RequestHead, read_request
from tests.support.transport.wire import (
    METHODS,
    NO_TABLE,
    Bench,
    frame,
    goaway_code,
    message,
    request_fields,
    resets,
    settings_received,
)

WITH_INDEXING, WITHOUT, NEVER = 0x40, 0x00, 0x10
"""Kinds of literal fields (RFC 7541 section 6.2). Envoy's two codecs send the first and the second when the
table has no bytes, and grpcio sends both."""

HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
Field = tuple[bytes, bytes]
USUAL = [(name.encode(), value.encode()) for name, value in request_fields("/p/Echo")]


def string(text: bytes, *, huffman: bool = True) -> bytes:
    encoded: bytes = HUFFMAN.encode(text) if huffman else text
    length = encode_integer(len(encoded), 7)
    length[0] |= huffman << 7
    return bytes(length) + encoded


def literal(field: Field, kind: int = WITHOUT, *, huffman: bool = True) -> bytes:
    name, value = field
    return bytes([kind]) + string(name, huffman=huffman) + string(value, huffman=huffman)


def literals(fields: Iterable[Field], kind: int = WITHOUT, *, huffman: bool = True) -> bytes:
    return b"".join(literal(field, kind, huffman=huffman) for field in fields)


def trace() -> Field:
    return b"traceparent", f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01".encode()


def traced(*more: Field) -> bytes:
    """A block with a trace in its middle, as Envoy sends it."""
    return literals([*USUAL[:5], trace(), *USUAL[5:], *more])


def without_table() -> HeaderDecoder:
    """A decoder whose peer has given up its table."""
    ours = HeaderDecoder(METHODS, Limits())
    ours.settings_acknowledged()
    ours.request(NO_TABLE + literals(USUAL))
    return ours


def asked(ours: HeaderDecoder, encoded: bytes) -> RequestHead:
    return ours.known.get(encoded) or ours.request(encoded)


class Reference:
    """The same blocks, each decoded by hpack and read without regard to earlier ones."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = 0
        self._decoder.decode(NO_TABLE + literals(USUAL))

    def fields(self, encoded: bytes) -> list[Field]:
        return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(encoded, raw=True)]


def check(ours: HeaderDecoder, encoded: bytes, reference: Reference) -> bool:
    """Whether the connection goes on; fails if we read a block otherwise than `reference`."""
    try:
        fields = reference.fields(encoded)
    except HPACKError:
        with pytest.raises(GoAwayError):
            asked(ours, encoded)
        return False
    try:
        expected = read_request(fields, METHODS)
    except MalformedRequestError:
        with pytest.raises(MalformedRequestError):
            asked(ours, encoded)
        return True
    found = asked(ours, encoded)
    names = ("path", "method", "unary", "timeout_seconds", "content_length", "gzip", "http_status", "refusal")
    assert [getattr(found, name) for name in names] == [getattr(expected, name) for name in names]
    if not expected.metadata_refused:
        assert found.metadata_of(encoded) == expected.metadata_of(encoded)
    assert (found.memory_bytes or found.estimate_memory()) >= expected.estimate_memory()
    return True


VALUES = st.one_of(
    st.from_regex(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", fullmatch=True),
    st.sampled_from([b"", b"YQ==", b"%%", b"two\nlines", b"nul\0", b" blanks ", b"5S", b"trailers", b"POST"]),
    st.integers(118, 132).map(lambda size: b"\x7f" * (size // 4) + b"x" * size),
    st.binary(max_size=12),
)
NAMES = [b"traceparent", b"x-request-id", b"tracestate", b"trace-bin", b"grpc-timeout", b"te", b":path", b"X"]
CHANGES = st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=3)
SHAPES = st.sampled_from([(WITHOUT, True), (WITHOUT, True), (WITH_INDEXING, True), (NEVER, False)])


@st.composite
def sequences(draw: st.DrawFn) -> list[bytes]:
    """Blocks that are almost alike: other values, now and then another field or a changed byte."""
    shapes = [draw(SHAPES) for _ in range(2)]
    fields = [*USUAL, (b"traceparent", b"1"), (b"x-request-id", b"2"), (b"trace-bin", b"YQ")]
    blocks: list[bytes] = []
    for _ in range(draw(st.integers(3, 14))):
        changes = dict(draw(CHANGES))
        kind, huffman = shapes[draw(st.integers(0, 7)) == 0]
        changed = [(name, changes.get(name, value)) for name, value in fields]
        if draw(st.integers(0, 5)) == 0:
            changed.insert(draw(st.integers(3, len(changed))), draw(st.sampled_from(fields)))
        encoded = bytearray(literals(changed, kind, huffman=huffman))
        if draw(st.integers(0, 7)) == 0:
            place = draw(st.integers(0, len(encoded) - 1))
            encoded[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
        blocks.append(bytes(encoded))
    return blocks


@given(sequences())
@settings(max_examples=300, deadline=None)
def test_blocks_that_are_almost_alike_mean_what_hpack_says(blocks: Sequence[bytes]) -> None:
    """Forbidden values, base64, other lengths, other fields, invalid Huffman code, changed bytes."""
    ours, reference = without_table(), Reference()
    for encoded in blocks:
        if not check(ours, encoded, reference):
            return


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_any_byte_of_a_traced_block_counts(place: int, byte: int) -> None:
    ours, reference = without_table(), Reference()
    for _ in range(3):
        assert check(ours, traced((b"x-a", b"1")), reference)
    encoded = bytearray(traced((b"x-a", b"1")))
    encoded[place % len(encoded)] = byte
    check(ours, bytes(encoded), reference)


class TestTraced:
    """Calls that differ in their trace."""

    def test_the_third_is_recognised(self) -> None:
        """The second shows what differs. All later calls share one request."""
        ours = without_table()
        ours.request(traced())
        second = ours.request(traced())
        assert all(ours.request(traced()) is second for _ in range(100))
        assert len(ours.known) <= 3

    @pytest.mark.parametrize("kind", [WITH_INDEXING, WITHOUT, NEVER])
    @pytest.mark.parametrize("huffman", [True, False])
    def test_each_has_its_own_metadata(self, kind: int, huffman: bool) -> None:
        ours = without_table()
        for _ in range(10):
            name, value = trace()
            encoded = literals([*USUAL, (name, value), (b"x-a", b"1")], kind, huffman=huffman)
            found = ours.request(encoded)
            assert found.metadata_of(encoded) == {"traceparent": value.decode(), "x-a": "1"}
            assert found.unary is not None

    def test_several_values_may_differ(self) -> None:
        """As with B3: trace, span and parent; the third call shows that the last differs, too."""
        ours = without_table()
        heads = []
        for number in range(10):
            ids = [(b"x-b3-%d" % place, b"%d" % (number * place)) for place in range(min(number + 2, 5))]
            encoded = literals([*USUAL, *ids, *[(b"x-b3-%d" % place, b"") for place in range(len(ids), 5)]])
            heads.append(ours.request(encoded))
            assert heads[-1].metadata_of(encoded)["x-b3-1"] == str(number)
        assert heads[-1] is heads[-2] is heads[-3]

    def test_other_calls_in_between_are_told_apart(self) -> None:
        ours = without_table()
        for _ in range(4):
            assert ours.request(traced()).path == "/p/Echo"
            other = literals([*USUAL[:2], (b":path", b"/p/Join"), *USUAL[3:], trace()])
            assert ours.request(other).path == "/p/Join"
            assert ours.request(traced((b"grpc-timeout", b"5S"))).timeout_seconds == 5
            assert ours.request(traced((b"grpc-timeout", b"6S"))).timeout_seconds == 6

    @pytest.mark.parametrize("value", [b"", b"x", b"x" * 126, b"x" * 127, b"x" * 128, b"x" * 5000])
    def test_a_value_of_another_length_is_read(self, value: bytes) -> None:
        ours = without_table()
        for _ in range(3):
            ours.request(traced())
        for huffman in (True, False, True):
            encoded = literals([*USUAL[:5], (b"traceparent", value), *USUAL[5:]], huffman=huffman)
            assert ours.request(encoded).metadata_of(encoded) == {"traceparent": value.decode()}

    def test_a_value_that_is_cut_short_or_badly_padded_is_a_decoding_error(self) -> None:
        good = literals([*USUAL, (b"traceparent", b"000")])
        assert good.endswith(b"\x82\x00\x01")  # two bytes: fifteen bits, and one of padding
        for end in (b"\x82\x00", b"\x82\x00\x00", b"\x83\x00\x01\xff", b"\x84\xff\xff\xff\xff"):
            bad = good[:-3] + end
            ours = without_table()
            for _ in range(3):
                ours.request(literals([*USUAL, trace()]))
            with pytest.raises(GoAwayError, match="cannot decode"):
                ours.request(bad)

    @pytest.mark.parametrize("value", [b"a\nb", b"a\rb", b"a\0b"], ids=repr)
    @pytest.mark.parametrize("huffman", [True, False])
    def test_a_forbidden_character_is_found(self, value: bytes, huffman: bool) -> None:
        ours = without_table()
        for _ in range(3):
            ours.request(literals([*USUAL, trace()], huffman=huffman))
        with pytest.raises(MalformedRequestError):
            ours.request(literals([*USUAL, (b"traceparent", value)], huffman=huffman))

    def test_base64_is_checked(self) -> None:
        ours = without_table()
        for value in (b"YQ", b"YWI", b"YWJj"):
            encoded = literals([*USUAL, (b"grpc-trace-bin", value)])
            assert ours.request(encoded).unary is not None
        refused = ours.request(literals([*USUAL, (b"grpc-trace-bin", b"%%")]))
        assert refused.refusal == Status(Code.INTERNAL, "metadata grpc-trace-bin: the value is not base64")
        assert refused.unary is None


class TestBounds:
    def test_templates_and_known_blocks_have_a_limit(self) -> None:
        ours = without_table()
        for number in range(10 * MAX_KNOWN_BLOCKS):
            ours.request(literals([*USUAL, (b"x-%d" % number, b"1")]))
        assert len(ours._templates) == MAX_TEMPLATES
        assert len(ours.known) <= MAX_KNOWN_BLOCKS

    def test_long_blocks_are_not_remembered(self) -> None:
        ours = without_table()
        ours._templates.clear()
        for _ in range(3):
            ours.request(traced((b"x-large", b"\x7f" * 1024)))
        assert not ours._templates

    def test_a_list_over_the_limit_is_refused_though_its_block_looks_familiar(self) -> None:
        """The value of a template may have 126 bytes in the block, and more when decoded."""
        size = sum(len(name) + len(value) + 32 for name, value in USUAL)
        padding = (b"x-pad", b"x" * (1024 - size - 32 - 5 - 32 - 11 - 55))
        ours = HeaderDecoder(METHODS, Limits(max_header_list_bytes=1024))
        for _ in range(3):
            assert ours.request(literals([*USUAL, padding, trace()])).unary is not None
        refused = ours.request(literals([*USUAL, padding, (b"traceparent", b"0" * 56)]))
        assert refused.refusal is not None
        assert refused.refusal.code is Code.RESOURCE_EXHAUSTED

    def test_a_change_of_the_table_forgets_the_templates(self) -> None:
        """Before our SETTINGS are acknowledged a peer may have a table, and a block may point into it."""
        ours = HeaderDecoder(METHODS, Limits())
        ours.request(literals(USUAL) + literal((b"x-a", b"1"), WITH_INDEXING))
        for _ in range(3):
            encoded = literals([*USUAL, trace()]) + b"\xbe"  # the newest entry
            assert ours.request(encoded).metadata_of(encoded)["x-a"] == "1"
        ours.request(literals(USUAL) + literal((b"x-b", b"2"), WITH_INDEXING))
        encoded = literals([*USUAL, trace()]) + b"\xbe"
        assert ours.request(encoded).metadata_of(encoded)["x-b"] == "2"


def traced_call(stream_id: int, *, path: str = "/p/Echo", body: bytes = b"x") -> bytes:
    fields = [(name.encode(), value.encode()) for name, value in request_fields(path)]
    return frame(HEADERS, END_HEADERS, stream_id, literals([*fields, trace()])) + frame(
        DATA, END_STREAM, stream_id, message(body)
    )


class TestConnection:
    def test_we_announce_no_table(self) -> None:
        greeting = Bench().connection.take()
        assert frames.parse_settings(greeting[9 : 9 + greeting[2]])[0] == (
            frames.Setting.HEADER_TABLE_SIZE,
            0,
        )

    def test_waiting_calls_keep_their_own_metadata(self, monkeypatch: pytest.MonkeyPatch) -> None:
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

    def test_a_block_in_two_frames_is_recognised_as_well(self) -> None:
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

    def test_open_traced_calls_count_their_memory_and_give_it_back(self) -> None:
        bench = settings_received()
        for stream_id in range(1, 21, 2):
            bench.feed(traced_call(stream_id, path="/p/Later"))
        assert bench.connection.streams.stream_table.header_bytes > 10 * 7 * 320
        bench.run()
        assert bench.connection.streams.stream_table.header_bytes == 0

    @pytest.mark.parametrize(
        ("value", "reason"), [(b"a\nb", Reason.MALFORMED_REQUEST), (b"", None)], ids=["malformed", "served"]
    )
    def test_only_the_stream_of_a_malformed_value_ends(self, value: bytes, reason: Reason | None) -> None:
        bench = settings_received()
        for stream_id in (1, 3, 5):
            bench.feed(traced_call(stream_id))
        output = bench.feed(frame(HEADERS, END_HEADERS, 7, literals([*USUAL, (b"traceparent", value)])))
        assert resets(output) == ([(7, ErrorCode.PROTOCOL_ERROR)] if reason else [])
        assert bench.tally.reasons == ([reason] if reason else [])
        assert message(b"y") in bench.feed(traced_call(9, body=b"y"))

    def test_invalid_huffman_code_ends_the_connection(self) -> None:
        bench = settings_received()
        for stream_id in (1, 3, 5):
            bench.feed(traced_call(stream_id))
        block = literals([*USUAL, (b"traceparent", b"000")])
        output = bench.feed(frame(HEADERS, END_HEADERS, 7, block[:-1] + b"\x00"))
        assert goaway_code(output) is ErrorCode.COMPRESSION_ERROR
        assert bench.tally.reasons == [Reason.HEADER_BLOCK]

    def test_a_client_that_ignores_the_setting_is_understood(self) -> None:
        """As .NET's HttpClient does. RFC 9113 section 4.3.1 would end the connection."""
        bench, encoder = settings_received(), hpack.Encoder()
        for stream_id in range(1, 101, 2):
            block = encoder.encode([*USUAL, trace()])
            bench.feed(frame(HEADERS, END_HEADERS, stream_id, block))
            assert message(b"x") in bench.feed(frame(DATA, END_STREAM, stream_id, message(b"x")))
        assert not bench.connection.over

    def test_a_table_is_used_until_our_settings_are_acknowledged(self) -> None:
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
