import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from accesslog.wire.message import UnreadableMessageError, read_message
from protos.accesslog_data_pb2 import HTTPAccessLogEntry, TCPAccessLogEntry
from tests.support.entries import http_entry, message, tcp_entry

MARK = b"UTF8"


def with_broken_text(data: bytes) -> bytes:
    """Return `data` with one text made invalid UTF-8, and all lengths unchanged."""
    assert MARK in data
    return data.replace(MARK, b"\xff\xfe\xff\xfe")


def test_the_entries_and_the_identifier_of_a_message_are_read() -> None:
    batch = read_message(message(http_entry(code=201), http_entry(code=202)).SerializeToString())
    assert batch.origin is not None
    assert batch.origin["log_name"] == "edge"
    assert list(batch.http) == [http_entry(code=code).SerializeToString() for code in (201, 202)]


def test_a_message_without_identifier_has_none() -> None:
    assert read_message(message(tcp_entry(), log_name=None).SerializeToString()).origin is None


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_entries_beside_a_text_that_is_not_utf_8_are_handed_on_as_bytes(position: int) -> None:
    """A proto3 parser must reject a string field that is not UTF-8, and upb rejects the whole message."""
    entries = [http_entry(code=200 + number) for number in range(3)]
    entries[position].request.user_agent = MARK.decode()
    data = with_broken_text(message(*entries).SerializeToString())
    with pytest.raises(DecodeError):
        HTTPAccessLogEntry.FromString(with_broken_text(entries[position].SerializeToString()))
    batch = read_message(data)
    expected = [entry.SerializeToString().replace(MARK, b"\xff\xfe\xff\xfe") for entry in entries]
    assert list(batch.http) == expected
    assert batch.origin is not None
    assert batch.origin["log_name"] == "edge"


def test_a_broken_identifier_is_read_all_the_same() -> None:
    batch = read_message(with_broken_text(message(http_entry(), log_name=MARK.decode()).SerializeToString()))
    assert batch.origin is not None
    assert batch.origin["log_name"] == r"\xff\xfe\xff\xfe"
    assert batch.origin["node_id"] == "envoy-1"
    assert len(batch.http) == 1


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x12\xff\x01", b"\x0a\x05a", b"\x07", b"\xff" * 11, b"\x12\x02\x0a\x09"]
)
def test_bytes_in_which_no_entry_can_be_told_apart_are_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableMessageError):
        read_message(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read_message(data)
    except UnreadableMessageError:
        return


@given(st.data())
def test_a_flipped_byte_never_brings_more_entries_than_were_sent(data: st.DataObject) -> None:
    whole = bytearray(message(http_entry(), http_entry()).SerializeToString())
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    try:
        batch = read_message(bytes(whole))
    except UnreadableMessageError:
        return
    assert all(isinstance(entry, HTTPAccessLogEntry | bytes) for entry in batch.http)
    assert all(isinstance(entry, TCPAccessLogEntry | bytes) for entry in batch.tcp)
