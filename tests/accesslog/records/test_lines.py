"""The lines made field by field are byte for byte those of the records that protobuf reads."""

from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import example, given
from hypothesis import strategies as st

from accesslog.records.decoder import BATCH_ENTRIES
from accesslog.records.encode import json_line
from accesslog.records.fragments import LONGEST_REMEMBERED, MOST_REMEMBERED
from accesslog.records.lines import UNUSUAL, LineMaker
from accesslog.records.redact import Redaction
from accesslog.wire.entry import HTTP, TCP, EntryKind, record_of
from protos.accesslog_data_pb2 import HTTPAccessLogEntry, ResponseFlags, TCPAccessLogEntry
from tests.support.entries import ORIGIN, http_entry, tcp_entry

REDACTION = Redaction()
MAKER = LineMaker(REDACTION)
"""One for all examples, as one serves all streams: what it remembers must fit every later entry."""

UUID = "f0d5e1f0-aaaa-4000-8000-000000000000"
TEXTS = (
    *("", "a", "orders", UUID, "GET", '"', "\\", "\u00e9", "\x00\n", "x" * LONGEST_REMEMBERED, "[redacted]"),
    *("/a/b", "/v1/orders/77?expand=lines", "/a?token=t", "/a?", "/?x", "a\n/b", "/" + "Z9" * 15, "/a?b?c=d"),
    *("Bearer abc", "https://u:p@h/x?sig=1", "eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "authz_duration_us", "12"),
    *("cookie", "authorization", "x-api-key", "203.0.113.9", "::1", "decision_id", "rule", "outcome"),
    *("\n\x0bdecision_id\x12\x05\x1a\x03abc", "envoy.filters.http.ext_authz"),
)
texts = st.sampled_from(TEXTS) | st.text(max_size=12)
numbers = st.sampled_from([0, 1, 7, 127, 128, 300, 2**31 - 1]) | st.integers(0, 2**31 - 1)
plain = st.recursive(
    st.none() | st.booleans() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
namespaces = st.sampled_from(
    [
        "envoy.filters.http.ext_authz",
        "envoy.filters.network.ext_authz",
        "envoy.filters.http.ratelimit",
        "mine",
    ]
)
keys = st.sampled_from(
    ["decision_id", "rule", "subject", "outcome", "domain", "descriptors", "metadata", "ext_authz_duration"]
)


def fill(draw: Any, message: Message, depth: int = 0) -> None:
    """Set some fields of `message`, by reflection."""
    for field in message.DESCRIPTOR.fields:
        if not draw(st.integers(0, 2)) or depth > 4:
            continue
        if field.name == "filter_metadata":
            for namespace, content in draw(
                st.dictionaries(namespaces, st.dictionaries(keys | texts, plain, max_size=3), max_size=2)
            ).items():
                getattr(message, field.name)[namespace].update(content)
        elif field.message_type is None:
            _set(draw, message, field)
        elif field.message_type.GetOptions().map_entry:
            target = getattr(message, field.name)
            for key in draw(st.lists(texts, max_size=3)):
                if field.message_type.fields_by_name["value"].message_type is None:
                    target[key] = draw(texts)
                else:
                    target[key].Pack(StringValue(value=draw(texts)))
        elif field.is_repeated:
            fill(draw, getattr(message, field.name).add(), depth + 1)
        else:
            child = getattr(message, field.name)
            child.SetInParent()
            fill(draw, child, depth + 1)


def _set(draw: Any, message: Message, field: Any) -> None:
    kinds = {
        field.CPPTYPE_STRING: texts,
        field.CPPTYPE_BOOL: st.booleans(),
        field.CPPTYPE_ENUM: st.integers(0, 12),
        field.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
    }
    if field.is_repeated:
        return
    setattr(message, field.name, draw(kinds.get(field.cpp_type, numbers)))


@st.composite
def entries(draw: Any) -> tuple[EntryKind[Any], bytes]:
    kind = draw(st.sampled_from([HTTP, TCP]))
    message = kind.message()
    fill(draw, message)
    if draw(st.booleans()):
        message.common_properties.start_time.seconds = 1_790_000_000
        message.common_properties.start_time.nanos = draw(st.integers(0, 999_999_999))
    return kind, message.SerializeToString()


def expected(kind: EntryKind[Any], data: bytes) -> bytes | None:
    record = record_of(kind, data, ORIGIN, 0)
    REDACTION.apply(record)
    return json_line(record)


def made(kind: EntryKind[Any], *entries: bytes) -> list[bytes]:
    return MAKER.rows(kind.name, LineMaker.blank(kind.name, ORIGIN), entries).lines()


def check(kind: EntryKind[Any], data: bytes) -> bool:
    """Whether the entry has a line, which must be that of its record; nothing else may be raised."""
    try:
        [line] = made(kind, data)
    except UNUSUAL:
        return False
    assert line == expected(kind, data)
    return True


@given(entries())
def test_of_any_entry(entry: tuple[EntryKind[Any], bytes]) -> None:
    check(*entry)
    check(*entry)  # from what is remembered


@given(st.lists(entries(), min_size=1, max_size=4))
def test_of_several_entries_at_once(some: list[tuple[EntryKind[Any], bytes]]) -> None:
    usual = [data for kind, data in some if kind is HTTP and check(kind, data)]
    if usual:
        assert made(HTTP, *usual) == [expected(HTTP, data) for data in usual]


@given(entries(), st.data())
def test_of_bytes_that_are_not_as_protobuf_writes_them(
    entry: tuple[EntryKind[Any], bytes], data: st.DataObject
) -> None:
    kind, whole = entry
    other = kind.message()
    fill(data.draw, other)
    again = other.SerializeToString()
    at = data.draw(st.integers(0, len(whole)))
    how = data.draw(st.sampled_from(["twice", "byte", "cut", "tail"]))
    changed = {
        "twice": whole + again,
        "byte": whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :],
        "cut": whole[:at],
        "tail": whole + data.draw(st.binary(max_size=6)),
    }[how]
    try:
        [line] = made(kind, changed)
    except UNUSUAL:
        return
    assert line == expected(kind, changed)


def with_secrets() -> bytes:
    return http_entry(
        path="/a?token=t&x=1",
        request_headers={"authorization": "Bearer abc", "accept": "*/*"},
        tags={"token": "t", "authz_duration_us": "12"},
        referer="https://u:p@h/",
        metadata={"mine": {"token": "t"}, "envoy.filters.http.ratelimit": {"rule": "Bearer abc"}},
    ).SerializeToString()


USUAL = {
    "plain": http_entry().SerializeToString(),
    "secrets": with_secrets(),
    "headers": http_entry(request_headers={"b": "1", "a": "2", "c": "\u00e9"}).SerializeToString(),
    "authz": http_entry(
        metadata={"envoy.filters.http.ext_authz": {"decision_id": "01J", "rule": "r"}}
    ).SerializeToString(),
    "others": http_entry(metadata={"mine": {"a": [1, {"b": "c"}]}}).SerializeToString(),
    "flags": http_entry(flags=ResponseFlags(rate_limited=True), code=429).SerializeToString(),
}


@pytest.mark.parametrize("name", USUAL)
def test_of_the_usual_entries_none_is_left_to_protobuf(name: str) -> None:
    for _ in range(2):
        assert check(HTTP, USUAL[name])
    assert check(TCP, tcp_entry().SerializeToString())


def test_what_is_redacted_is_named_in_its_own_line() -> None:
    lines = made(HTTP, *USUAL.values())
    assert lines == [expected(HTTP, data) for data in USUAL.values()]
    assert [b'"redacted":' in line for line in lines] == [name == "secrets" for name in USUAL]


def test_what_is_remembered_is_bounded() -> None:
    for number in range(MOST_REMEMBERED + 10):
        check(HTTP, http_entry(authority=f"h{number}", path=f"/a?n={number}").SerializeToString())
    assert check(HTTP, USUAL["plain"])


@pytest.mark.parametrize("again", ["common", "path", "metadata"])
def test_a_part_that_comes_twice_is_left_to_protobuf_which_merges(again: str) -> None:
    more = HTTPAccessLogEntry()
    if again == "common":
        more.common_properties.upstream_cluster = "other"
    elif again == "path":
        more.request.path = "/other"
    else:
        more.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"]["rule"] = "r2"
    assert not check(HTTP, USUAL["authz"] + more.SerializeToString())


@example("/a\n/b", "%%%")
@given(texts, texts)
def test_a_path_does_not_pass_for_two(one: str, two: str) -> None:
    data = [http_entry(path=path).SerializeToString() for path in (one, two)]
    assert made(HTTP, *data) == [expected(HTTP, entry) for entry in data]


@given(st.text(alphabet="abcdef0123456789-\n", max_size=40), st.text(max_size=4))
def test_an_id_does_not_pass_for_two(one: str, two: str) -> None:
    data = [http_entry(request_id=value).SerializeToString() for value in (one, two, f"{UUID}\n{UUID}", UUID)]
    assert made(HTTP, *data) == [expected(HTTP, entry) for entry in data]


def test_entries_of_a_whole_part_keep_their_order() -> None:
    data = [http_entry(code=200 + number).SerializeToString() for number in range(BATCH_ENTRIES)]
    assert made(HTTP, *data) == [expected(HTTP, entry) for entry in data]


def test_an_entry_without_a_time_is_left_to_protobuf() -> None:
    assert not check(TCP, TCPAccessLogEntry().SerializeToString())
