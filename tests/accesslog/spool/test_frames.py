import pytest
from hypothesis import given
from hypothesis import strategies as st

from accesslog.spool.frames import (
    HEADER_BYTES,
    VERSION,
    DamagedError,
    Frame,
    cursor,
    decode,
    encode,
    encoded_bytes,
    header,
    place_in,
    version_in,
)

lines = st.binary(max_size=60).map(lambda data: data.replace(b"\n", b" ") + b"\n")
frames = st.builds(
    Frame, st.text(max_size=20), st.sampled_from(["http", "tcp"]), st.lists(lines, max_size=5).map(tuple)
)


@given(frames, st.binary(max_size=20))
def test_a_frame_is_read_as_it_was_written(frame: Frame, before: bytes) -> None:
    data = before + encode(frame)
    assert decode(data, len(before)) == (frame, len(data))
    assert encoded_bytes(frame) == len(data) - len(before)


@given(frames, st.data())
def test_a_frame_with_any_changed_byte_is_damaged(frame: Frame, data: st.DataObject) -> None:
    whole = bytearray(encode(frame))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedError):
        decode(bytes(whole), 0)


@given(frames, st.data())
def test_a_frame_that_is_cut_off_anywhere_is_damaged(frame: Frame, data: st.DataObject) -> None:
    whole = encode(frame)
    with pytest.raises(DamagedError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))], 0)


def test_the_checksum_is_crc_32c() -> None:
    """RFC 3720 appendix B.4: 32 bytes of zeros have the CRC-32C 0x8A9136AA."""
    from accesslog.spool.frames import _crc32c

    assert _crc32c(bytes(32)) == _crc32c(bytes(12), bytes(20)) == 0x8A9136AA


def test_a_header_names_its_version() -> None:
    assert version_in(header(7)) == VERSION
    assert len(header(7)) == HEADER_BYTES


@pytest.mark.parametrize("data", [b"", b"{}\n" * 20, header(1)[:-1], header(1)[:-1] + b"\xff"])
def test_bytes_that_are_no_header_have_no_version(data: bytes) -> None:
    assert version_in(data) is None


def test_a_cursor_is_read_as_it_was_written_or_not_at_all() -> None:
    data = cursor(3, 4711)
    assert place_in(data) == (3, 4711)
    assert place_in(data[:-1]) is None
    assert place_in(b"\x01" + data[1:]) is None
