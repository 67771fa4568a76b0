"""What the transport uses of hpack beyond its public names. pyproject.toml pins the major version."""

from collections import deque

import pytest
from hpack import Decoder, Encoder, HPACKError, InvalidTableIndexError, hpack
from hpack.hpack import decode_integer, encode_integer
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE
from hpack.table import HeaderTable

from sidecars.transport.http2 import huffman


def test_the_static_table_is_that_of_the_rfc() -> None:
    """RFC 7541 appendix A: 61 entries as pairs of bytes, the first one `:authority`."""
    assert len(HeaderTable.STATIC_TABLE) == 61
    assert HeaderTable.STATIC_TABLE[0] == (b":authority", b"")
    assert HeaderTable.STATIC_TABLE[30] == (b"content-type", b"")
    assert HeaderTable.STATIC_TABLE[60] == (b"www-authenticate", b"")
    assert HeaderTable.DEFAULT_SIZE == 4096


def test_the_dynamic_table_has_the_newest_entry_first() -> None:
    table = HeaderTable()
    table.add(b"a", b"1")
    table.add(b"b", b"2")
    assert isinstance(table.dynamic_entries, deque)
    assert list(table.dynamic_entries) == [(b"b", b"2"), (b"a", b"1")]


def test_the_dynamic_table_keeps_the_same_deque() -> None:
    """The decoder holds `dynamic_entries` while it adds to the table and resizes it."""
    table = HeaderTable()
    entries = table.dynamic_entries
    for number in range(500):
        table.add(b"name", str(number).encode())
    table.maxsize = 40
    assert table.dynamic_entries is entries
    assert list(entries) == [(b"name", b"499")]
    table.maxsize = 0
    assert not entries


@pytest.mark.parametrize("bits", [4, 5, 6, 7])
@pytest.mark.parametrize("number", [0, 14, 15, 127, 128, 16_384, 2**28])
def test_integers_are_written_and_read(bits: int, number: int) -> None:
    encoded = bytes(encode_integer(number, bits))
    assert decode_integer(encoded, bits) == (number, len(encoded))


def test_an_integer_that_is_cut_short_raises_an_error_the_decoder_expects() -> None:
    with pytest.raises((HPACKError, IndexError)):
        decode_integer(b"\x7f\x80", 7)


def test_errors_have_one_base() -> None:
    assert issubclass(InvalidTableIndexError, HPACKError)
    with pytest.raises(HPACKError):
        Decoder().decode(b"\xff\xff")


def test_the_huffman_table_has_sixteen_steps_a_state() -> None:
    assert HUFFMAN_TABLE
    assert len(HUFFMAN_TABLE) % 16 == 0
    assert all(len(step) == 3 for step in HUFFMAN_TABLE)
    flags = {HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL}
    assert all(flag & (flag - 1) == 0 for flag in flags)
    assert len(flags) == 3


@pytest.mark.parametrize("symbol", range(256))
def test_each_symbol_of_the_huffman_code_is_decoded(symbol: int) -> None:
    """The code table of hpack is the one of RFC 7541 appendix B, and ours is made of the other one."""
    length = REQUEST_CODES_LENGTH[symbol]
    padding = -length % 8
    code = REQUEST_CODES[symbol] << padding | (1 << padding) - 1
    assert huffman.decode(code.to_bytes((length + padding) // 8, "big")) == bytes([symbol])


def test_a_block_of_hpack_is_read_back() -> None:
    fields = [(b":method", b"POST"), (b"traceparent", b"00-0af7651916cd43dd-01")]
    assert hpack.Decoder().decode(Encoder().encode(fields), raw=True) == fields
