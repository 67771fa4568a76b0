"""Header blocks mean what hpack says they mean, whether decoded, remembered, or like one before."""

import os

import hpack
import pytest
from hpack.exceptions import HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Code, Status
from sidecars.transport.http2 import huffman
from sidecars.transport.http2.errors import GoAwayError
from sidecars.transport.http2.header_block import MAX_KNOWN_BLOCK_BYTES
from sidecars.transport.http2.header_decoder import MAX_KNOWN_BLOCKS, HeaderDecoder
from sidecars.transport.http2.headers import MalformedRequestError, RequestHead, read_request
from tests.support.transport.wire import METHODS, block, request, request_fields

USUAL = request_fields("/p/Echo")
PERMISSIVE = Limits(max_header_list_bytes=2**20, absolute_max_header_list_bytes=2**20)


def blocks() -> HeaderDecoder:
    return HeaderDecoder(METHODS, Limits())


def same(one: RequestHead, other: RequestHead, encoded: bytes) -> bool:
    attributes = (
        "path",
        "method",
        "unary",
        "timeout_seconds",
        "content_length",
        "gzip",
        "http_status",
        "refusal",
        "metadata_refused",
    )
    if not all(getattr(one, name) == getattr(other, name) for name in attributes):
        return False
    return one.metadata_refused or one.metadata_of(encoded) == other.metadata_of(encoded)


class TestHuffman:
    ENCODER = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)

    @given(st.binary(max_size=60))
    def test_what_was_encoded_is_decoded(self, text: bytes) -> None:
        assert huffman.decode(self.ENCODER.encode(text)) == text

    @given(st.binary(max_size=8))
    @settings(max_examples=1000)
    def test_what_hpack_refuses_is_refused(self, encoded: bytes) -> None:
        """Padding of more than seven bits, of other than ones, and the EOS symbol (RFC 7541 section 5.2)."""
        try:
            expected: bytes | None = decode_huffman(encoded)
        except HPACKError:
            expected = None
        assert huffman.decode(encoded) == expected


FIELD = st.tuples(
    st.sampled_from(["traceparent", "x-b3-traceid", "x-a", "grpc-timeout", "te", "x-b-bin"]),
    st.sampled_from(["", "a", "trailers", "5S", "YQ", "x" * 200, "00-4bf92f3577b34da6a3ce929d0e0e4736-01"]),
    st.booleans(),
)


STATIC = st.sampled_from(range(1, 62)).map(lambda index: bytes([0x80 | index]))
"""A field of the static table, indexed."""


@given(st.lists(st.one_of(st.lists(FIELD, max_size=6), st.sampled_from([0, 100, 4096]), STATIC), max_size=12))
@example([0, [], 4096, 4096, [], []])
@example([[("x-a", "a", False)], b"\x88"])
@settings(max_examples=300, deadline=None)
def test_blocks_of_one_connection_mean_what_hpack_says(
    steps: list[list[tuple[str, str, bool]] | int | bytes],
) -> None:
    """The tables stay in step over insertions, evictions and changes of size."""
    encoder, decoder, ours = hpack.Encoder(), hpack.Decoder(), HeaderDecoder(METHODS, PERMISSIVE)
    for step in steps:
        if isinstance(step, int):
            # Told the same size twice, hpack's encoder forgets to write the update that is due, and then not
            # even hpack's decoder finds its entries: a defect of the encoder, and none of a decoder.
            if encoder.header_table_size != step:
                encoder.header_table_size = step
            continue
        if isinstance(step, bytes):  # behind a field that is new each time, as a trace is
            trace = ("traceparent", os.urandom(4).hex())
            encoded = encoder.encode([*USUAL, trace]) + step
        else:
            encoded = encoder.encode([*USUAL, *step])
        theirs = [(bytes(name), bytes(value)) for name, value in decoder.decode(encoded, raw=True)]
        try:
            expected = read_request(theirs, METHODS)
        except MalformedRequestError:
            with pytest.raises(MalformedRequestError):
                ours.known.get(encoded) or ours.request(encoded)
        else:
            assert same(ours.known.get(encoded) or ours.request(encoded), expected, encoded)


@given(st.lists(st.one_of(st.binary(max_size=30), st.just(request("/p/Echo"))), max_size=6))
@settings(max_examples=1000, deadline=None)
def test_what_hpack_refuses_is_refused(sequence: list[bytes]) -> None:
    decoder, ours = hpack.Decoder(2**20), HeaderDecoder(METHODS, PERMISSIVE)
    for encoded in sequence:
        try:
            theirs = list(decoder.decode(encoded, raw=True))
        except HPACKError:
            with pytest.raises(GoAwayError):
                ours.discard(encoded)
            return
        assert ours._decode(encoded).fields == [tuple(field) for field in theirs]


class TestKnown:
    def test_a_block_that_comes_again_is_not_decoded_again(self) -> None:
        ours = blocks()
        first = ours.request(request("/p/Echo"))
        assert ours.known[request("/p/Echo")] is first

    def test_a_change_of_the_table_starts_anew(self) -> None:
        """The same bytes may point at another entry now."""
        ours, encoder = blocks(), hpack.Encoder()
        ours.request(encoder.encode([*USUAL, ("x-a", "1")]))
        again = encoder.encode([*USUAL, ("x-a", "1")])
        assert ours.request(again).metadata_of(again)["x-a"] == "1"
        assert again in ours.known
        ours.request(block(*USUAL) + b"\x40\x03x-b\x012")  # enters the table; x-a is one further off now
        assert again not in ours.known

    def test_a_change_of_size_starts_anew(self) -> None:
        ours = blocks()
        ours.request(request("/p/Echo"))
        ours.request(b"\x20" + request("/p/Echo"))
        assert not ours.known

    def test_memory_has_a_limit(self) -> None:
        ours = blocks()
        for number in range(10 * MAX_KNOWN_BLOCKS):
            ours.request(request("/p/Echo", ("x-number", str(number))))
        assert len(ours.known) <= MAX_KNOWN_BLOCKS
        large = request("/p/Echo", ("x-large", "\x7f" * MAX_KNOWN_BLOCK_BYTES))
        ours.request(large)
        assert large not in ours.known


class TestTracing:
    """Blocks that differ in a field of their metadata and enter the table each time."""

    def trace(self) -> str:
        return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"

    def test_each_call_has_its_own_trace(self) -> None:
        ours, encoder = blocks(), hpack.Encoder()
        for _ in range(200):  # more than the table holds
            trace = self.trace()
            encoded = encoder.encode([*USUAL, ("traceparent", trace)])
            found = ours.request(encoded)
            assert found.metadata_of(encoded) == {"traceparent": trace}
            assert found.path == "/p/Echo"
            assert found.unary is not None

    @pytest.mark.parametrize(
        "field",
        [("connection", "close"), ("te", "gzip"), ("X-Upper", "1"), ("x-a", "two\nlines")],
        ids=lambda field: field[0],
    )
    def test_a_forbidden_field_among_them_is_found(self, field: tuple[str, str]) -> None:
        """Literal, and again when it comes from the table."""
        ours, encoder = blocks(), hpack.Encoder()
        for _ in range(3):
            ours.request(encoder.encode([*USUAL, ("traceparent", self.trace())]))
        for _ in range(3):
            with pytest.raises(MalformedRequestError):
                ours.request(encoder.encode([*USUAL, ("traceparent", self.trace()), field]))
        assert ours.request(encoder.encode([*USUAL, ("traceparent", self.trace())])).unary is not None

    def test_binary_metadata_that_is_no_base64_among_them_is_refused(self) -> None:
        """Literal, and again when it comes from the table; calls without it are served."""
        ours, encoder = blocks(), hpack.Encoder()
        for _ in range(3):
            assert ours.request(encoder.encode([*USUAL, ("traceparent", self.trace())])).unary is not None
        for _ in range(3):
            found = ours.request(encoder.encode([*USUAL, ("traceparent", self.trace()), ("x-bin", "%%")]))
            assert found.refusal == Status(Code.INTERNAL, "metadata x-bin: the value is not base64")
            assert found.unary is None
            assert ours.request(encoder.encode([*USUAL, ("traceparent", self.trace())])).unary is not None

    def test_a_pseudo_header_behind_the_trace_is_found(self) -> None:
        ours, encoder = blocks(), hpack.Encoder()
        ours.request(encoder.encode([*USUAL, ("traceparent", self.trace())]))
        with pytest.raises(MalformedRequestError):
            ours.request(encoder.encode([*USUAL[:3], ("traceparent", self.trace()), *USUAL[3:]]))

    @pytest.mark.parametrize("index", [*range(1, 8), *range(8, 15)])
    def test_a_pseudo_header_of_the_static_table_is_found(self, index: int) -> None:
        """It takes one byte, and none of it is literal; the first fourteen entries are pseudo-headers."""
        ours, encoder = blocks(), hpack.Encoder()
        ours.request(encoder.encode([*USUAL, ("traceparent", self.trace())]))
        for _ in range(3):
            encoded = encoder.encode([*USUAL, ("traceparent", self.trace())])
            with pytest.raises(MalformedRequestError):
                ours.request(encoded + bytes([0x80 | index]))

    def test_a_field_that_decides_is_not_taken_from_a_call_before(self) -> None:
        ours, encoder = blocks(), hpack.Encoder()
        for seconds in (5, 6, 7, 5):
            found = ours.request(
                encoder.encode([*USUAL, ("grpc-timeout", f"{seconds}S"), ("traceparent", self.trace())])
            )
            assert found.timeout_seconds == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1H", 3600),
        ("2M", 120),
        ("3S", 3),
        ("4m", 0.004),
        ("5u", 5e-6),
        ("6n", 6e-9),
        ("99999999S", 99_999_999),
    ],
)
def test_timeouts_have_six_units(value: str, seconds: float) -> None:
    found = blocks().request(request("/p/Echo", ("grpc-timeout", value)))
    assert found.timeout_seconds == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "5", "S", "5s", "-1S", "123456789S", "1.5S", "٣S"])
def test_a_timeout_that_is_none_is_refused(value: str) -> None:
    found = blocks().request(request("/p/Echo", ("grpc-timeout", value)))
    assert found.refusal is not None
    assert found.unary is None


@pytest.mark.parametrize(
    ("sent", "seen"), [(" v", "v"), ("v\t", "v"), ("\t v w \t", "v w"), (" ", ""), ("", "")], ids=repr
)
def test_blanks_around_metadata_are_no_part_of_it(sent: str, seen: str) -> None:
    """As a literal of the first call, and of one like it."""
    ours = blocks()
    for indexing in (b"\x40", b"\x00"):
        for _ in range(2):
            value = bytes([len(sent)]) + sent.encode()
            encoded = request("/p/Echo") + indexing + b"\x03x-a" + value
            found = ours.request(encoded)
            assert found.metadata_of(encoded)["x-a"] == seen
            assert found.unary is not None


@pytest.mark.parametrize("name", ["te", "content-type", "content-length", "grpc-timeout", "grpc-encoding"])
def test_blanks_around_a_field_of_the_protocol_are_malformed(name: str) -> None:
    """RFC 9113 section 8.2.1; no client library writes them."""
    values = {
        "te": "trailers",
        "content-type": "application/grpc",
        "content-length": "5",
        "grpc-timeout": "5S",
    }
    with pytest.raises(MalformedRequestError):
        blocks().request(request("/p/Echo", (name, f" {values.get(name, 'gzip')}")))


@pytest.mark.parametrize("value", ["%%", "a", "YWJjZ", "-_-_", "YWJj!", "ü"])
def test_binary_metadata_that_is_no_base64_is_refused_with_its_name(value: str) -> None:
    found = blocks().request(request("/p/Echo", ("x-bin", value)))
    assert found.refusal == Status(Code.INTERNAL, "metadata x-bin: the value is not base64")
    assert found.unary is None


@pytest.mark.parametrize(
    ("value", "seen"),
    [("", b""), ("YQ", b"a"), ("YQ==", b"a"), (" YQ ", b"a"), ("YQ,YWI=", b"ab"), ("YQ, YWI", b"ab")],
)
def test_binary_metadata_is_base64_with_padding_or_without(value: str, seen: bytes) -> None:
    encoded = request("/p/Echo", ("x-bin", value))
    found = blocks().request(encoded)
    assert found.metadata_of(encoded)["x-bin"] == seen
    assert found.unary is not None


@pytest.mark.parametrize(
    ("value", "served"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc;charset=utf-8", True),
        ("application/grpc-web", False),
        ("application/grpcx", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_only_grpc_is_served(value: str, served: bool) -> None:
    fields = [field for field in USUAL if field[0] != "content-type"]
    found = blocks().request(block(*fields, ("content-type", value)))
    assert (found.http_status == 0) is served
    assert (found.unary is not None) is served


@pytest.mark.parametrize("value", ["-1", "+1", "1e3", "", "0x10", "9" * 20])
def test_a_content_length_that_is_no_number_is_malformed(value: str) -> None:
    with pytest.raises(MalformedRequestError):
        blocks().request(request("/p/Echo", ("content-length", value)))


def test_two_content_lengths_must_agree() -> None:
    same_twice = request("/p/Echo", ("content-length", "6"), ("content-length", "6"))
    assert blocks().request(same_twice).content_length == 6
    with pytest.raises(MalformedRequestError):
        blocks().request(request("/p/Echo", ("content-length", "6"), ("content-length", "7")))
