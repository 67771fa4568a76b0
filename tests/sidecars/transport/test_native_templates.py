"""Header blocks without a dynamic table, which differ from call to call in the values of metadata."""

from collections.abc import Sequence

import hpack
import pytest
from hpack.exceptions import HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Code, Status
from sidecars.transport.http2.errors import GoAwayError
from sidecars.transport.http2.header_decoder import MAX_KNOWN_BLOCKS, MAX_TEMPLATES, HeaderDecoder
from sidecars.transport.http2.header_template import MAX_HOLES
from sidecars.transport.http2.headers import MalformedRequestError, RequestHead, read_request
from tests.support.transport.literal_fields import (
    NEVER,
    USUAL,
    WITH_INDEXING,
    WITHOUT,
    Field,
    literal,
    literals,
    string,
    trace,
)
from tests.support.transport.wire import (
    METHODS,
    NO_TABLE,
)


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
    """The same blocks, each decoded by hpack and read on its own."""

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


def test_a_binary_value_that_is_cut_short_ends_the_connection_with_a_reason() -> None:
    """Its length points beyond the block, which a template that ends with the value must notice itself."""
    ours = without_table()
    for value in (b"AAAA", b"BBBB", b"CCCC"):
        whole = literals([*USUAL, (b"trace-bin", value)], huffman=False)
        ours.request(whole)
    for bytes_missing in (1, 2, 4):
        with pytest.raises(GoAwayError, match="cut short"):
            ours.request(whole[:-bytes_missing])


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
        for end in (b"", b"\x82\x00", b"\x82\x00\x00", b"\x83\x00\x01\xff", b"\x84\xff\xff\xff\xff"):
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

    def test_a_length_of_two_bytes_is_not_taken_for_one(self) -> None:
        """The value is 128 bytes long here, and ends within what looks like the rest of the template."""
        ours, reference = without_table(), Reference()
        before, rest = literals(USUAL) + literal((b"x-a", b""))[:-1], literal((b"x-b", b"1"))
        for value in (b"1", b"2", b"3"):
            assert check(ours, before + string(value) + rest, reference)
        check(ours, before + b"\x7f\x01" + b"x" * 126 + rest, reference)

    def test_a_field_may_come_from_the_static_table_now_and_then(self) -> None:
        ours, reference = without_table(), Reference()
        name = b"\x0f\x01"  # accept-encoding, whose usual value is in the table, too
        for value in (b"br", b"gzip", b"zstd", None, None, b"x", b"y", b"z"):
            field = b"\x90" if value is None else name + string(value)
            for _ in range(2):
                assert check(ours, literals([*USUAL, trace()]) + field, reference)

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

    def test_a_template_has_few_holes(self) -> None:
        """A value that is checked in each of eight templates must not be long."""
        for count in (MAX_HOLES, MAX_HOLES + 1):
            ours = without_table()
            for number in range(4):
                encoded = literals([*USUAL, *[(b"x-%d" % place, b"%d" % number) for place in range(count)]])
                found = ours.request(encoded)
                assert found.metadata_of(encoded)["x-0"] == str(number)
            assert (found.template is None) is (count > MAX_HOLES)

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
