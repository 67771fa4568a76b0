import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from protos.authz_pb2 import CheckRequest
from protos.lenient import MARK, MOST_LEVELS, is_marked, mark, original, parse, parse_refused, shown
from protos.ratelimit_pb2 import RateLimitRequest
from protos.wire import WireError, field_with, fields

texts = st.one_of(
    st.binary(max_size=20),
    st.lists(st.sampled_from([b"\xff", b"\\xff", MARK.encode(), b"s", b"FF", b"\xc3", b"\xa9", b"\\"])).map(
        b"".join
    ),
)


@given(texts, texts)
def test_different_bytes_make_different_texts(one: bytes, other: bytes) -> None:
    assert (mark(one) == mark(other)) == (one == other)
    assert original(mark(one)) == one
    mark(one).encode()


@given(texts, texts)
def test_what_is_shown_differs_too_once_it_is_said_which_is_marked(one: bytes, other: bytes) -> None:
    def result(text: bytes) -> tuple[str, bool]:
        return shown(mark(text)), is_marked(mark(text))

    assert (result(one) == result(other)) == (one == other)


@given(st.text())
def test_a_text_stays_as_it_is(text: str) -> None:
    assert shown(mark(text.encode())) == text
    assert not is_marked(mark(text.encode()))


def test_bytes_that_are_not_utf_8_are_shown_in_hexadecimal() -> None:
    assert shown(mark(b"caf\xe9 \\ \xc3\xa9")) == r"caf\xe9 \\ é"


def test_a_message_with_such_bytes_is_read_whole() -> None:
    message = RateLimitRequest(domain="edge")
    message.descriptors.add(hits_addend={"value": 7}).entries.add(key="path", value="/UTF8/x")
    data = message.SerializeToString().replace(b"UTF8", b"\xff\xfeA\x80")
    with pytest.raises(DecodeError):
        RateLimitRequest.FromString(data)
    read = parse(RateLimitRequest, data)
    [descriptor] = read.descriptors
    assert original(descriptor.entries[0].value) == b"/\xff\xfeA\x80/x"
    assert (read.domain, descriptor.hits_addend.value) == ("edge", 7)


def test_maps_structs_and_anys_are_read_at_any_depth() -> None:
    message = CheckRequest()
    metadata = message.attributes.metadata_context
    metadata.filter_metadata["KEY1"].update({"a": [{"KEY2": "VAL2"}]})
    inner = Struct()
    inner.update({"KEY3": "VAL3"})
    metadata.typed_filter_metadata["typed"].Pack(inner)
    data = message.SerializeToString()
    for number in b"123":
        data = data.replace(b"KEY" + bytes([number]), b"\xffK\xfe" + bytes([number]))
        data = data.replace(b"VAL" + bytes([number]), b"\xffV\xfe" + bytes([number]))
    read = parse(CheckRequest, data).attributes.metadata_context
    assert original(next(iter(read.filter_metadata))) == b"\xffK\xfe1"
    [item] = read.filter_metadata[mark(b"\xffK\xfe1")].fields["a"].list_value.values
    result = {name: value.string_value for name, value in item.struct_value.fields.items()}
    assert result == {mark(b"\xffK\xfe2"): mark(b"\xffV\xfe2")}
    typed = Struct.FromString(read.typed_filter_metadata["typed"].value)
    assert typed[mark(b"\xffK\xfe3")] == mark(b"\xffV\xfe3")


def test_an_any_of_another_type_or_of_no_sense_stays_as_it_came() -> None:
    message = CheckRequest()
    typed = message.attributes.metadata_context.typed_filter_metadata
    typed["unknown"].CopyFrom(AnyMessage(type_url="type.googleapis.com/no.Such", value=b"\xff\xff"))
    typed["broken"].CopyFrom(
        AnyMessage(type_url="type.googleapis.com/google.protobuf.Struct", value=b"\x0a\x7f\xff")
    )
    message.attributes.tls_session.sni = "UTF8"
    read = parse(CheckRequest, message.SerializeToString().replace(b"UTF8", b"a\xffbc"))
    read_typed = read.attributes.metadata_context.typed_filter_metadata
    assert read_typed["unknown"].value == b"\xff\xff"
    assert read_typed["broken"].value == b"\x0a\x7f\xff"
    assert read.attributes.tls_session.sni == mark(b"a\xffbc")


def test_what_protobuf_reads_is_read_alike() -> None:
    """Groups, unknown fields, overlong varints, an Any in two parts."""
    url = b"type.googleapis.com/google.protobuf.Struct"
    value = Struct(fields={"a": Value()}).SerializeToString()
    any_parts = field_with(1, b"k") + field_with(2, field_with(1, url)) + field_with(2, field_with(2, value))
    for kind, data in (
        (RateLimitRequest, field_with(1, b"d") + b"\x9b\x3f\x08\x01\x9c\x3f"),
        (RateLimitRequest, b"\x8a\x80\x00\x81\x00d" + b"\x98\x3f\x05"),
        (CheckRequest, field_with(1, field_with(11, field_with(2, any_parts)))),
        (AnyMessage, field_with(1, url) + b"\x98\x3f\x05" + field_with(2, value)),
    ):
        assert parse_refused(kind, data) == kind.FromString(data)
        assert parse_refused(kind, data).SerializeToString() == kind.FromString(data).SerializeToString()


def test_the_mark_itself_passes_for_no_byte() -> None:
    """Otherwise a client could send, in UTF-8, the escaped form of another client's byte."""
    message = RateLimitRequest(domain="edge")
    message.descriptors.add().entries.add(key="k", value=mark(b"\xff"))
    read = parse(RateLimitRequest, message.SerializeToString())
    assert read.descriptors[0].entries[0].value == mark(f"{MARK}FF".encode()) != mark(b"\xff")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for kind in (RateLimitRequest, CheckRequest):
        try:
            parse(kind, data)
        except DecodeError:
            continue


@given(st.binary(max_size=60))
def test_the_fields_of_a_message_make_the_message(data: bytes) -> None:
    try:
        result = list(fields(data))
    except WireError:
        return
    assert b"".join(whole for _, _, whole in result) == data


@pytest.mark.parametrize("size", [1, 127, 128, 20_000])
def test_a_field_is_written_as_protobuf_writes_it(size: int) -> None:
    assert field_with(1, b"d" * size) == RateLimitRequest(domain="d" * size).SerializeToString()


def test_messages_in_messages_end_where_the_parser_of_protobuf_ends() -> None:
    data = b""
    for _ in range(MOST_LEVELS):
        data = field_with(1, field_with(2, field_with(5, data)))
    with pytest.raises(DecodeError):
        parse_refused(Struct, data)
