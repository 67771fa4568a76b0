"""Huffman strings of HPACK, a byte at a time (RFC 7541 section 5.2 and appendix B).

hpack walks its table in steps of four bits. Two such steps are joined here for every state and byte.
"""

from array import array
from typing import Any, Final

from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE

_STATES: Final = len(HUFFMAN_TABLE) // 16
_FAILED: Final = _STATES
"""The state that no byte leads out of."""


def _step(state: int, nibble: int) -> tuple[int, bytes, bool]:
    """The state after four bits, the symbol they complete, and whether the string may end here."""
    if state == _FAILED:
        return _FAILED, b"", False
    after, flags, symbol = HUFFMAN_TABLE[state * 16 + nibble]
    if flags & HUFFMAN_FAIL:
        return _FAILED, b"", False
    return after, bytes((symbol,)) if flags & HUFFMAN_EMIT_SYMBOL else b"", bool(flags & HUFFMAN_COMPLETE)


def _join_steps() -> tuple["array[int]", list[bytes], list[bool]]:
    steps = [[_step(state, nibble) for nibble in range(16)] for state in range(_STATES + 1)]
    after = array("H")  # a list would take four times the memory
    symbols: list[bytes] = []
    may_end = [False] * (_STATES + 1)
    may_end[0] = True
    same: dict[bytes, bytes] = {}
    for state in range(_STATES + 1):
        for between, first, _ in steps[state]:
            for last, second, complete in steps[between]:
                both = first + second
                after.append(last)
                symbols.append(same.setdefault(both, both))
                may_end[last] |= complete
    return after, symbols, may_end


_AFTER, _SYMBOLS, _MAY_END = _join_steps()


_MAY_END_AT: Final = 256
_FORBIDDEN: Final = frozenset(b"\0\r\n")


def _value_rows() -> list[Any]:
    """The row of the first state: the next row for each byte, then whether the string may end before it.

    The string fails with NUL, CR and LF. Rows hold each other, so that a step needs no number.
    """
    failing = {symbols: bool(_FORBIDDEN.intersection(symbols)) for symbols in set(_SYMBOLS)}
    rows: list[list[Any]] = [[] for _ in range(_STATES + 1)]
    for state, row in enumerate(rows):
        for step in range(state << 8, (state + 1) << 8):
            row.append(rows[_FAILED if failing[_SYMBOLS[step]] else _AFTER[step]])
        row.append(_MAY_END[state])
    return rows[0]


_FIRST_ROW: Final = _value_rows()


def decode(encoded: bytes) -> bytes | None:
    """The decoded string; None if `encoded` is not Huffman code, or is badly padded."""
    after, symbols = _AFTER, _SYMBOLS
    state = 0
    parts: list[bytes] = []
    append = parts.append
    for byte in encoded:
        step = state << 8 | byte
        append(symbols[step])
        state = after[step]
    return b"".join(parts) if _MAY_END[state] else None


def is_field_value(encoded: bytes) -> bool:
    """Whether `decode` gives a string, and one without NUL, CR and LF; costs much less."""
    row = _FIRST_ROW
    for byte in encoded:
        row = row[byte]
    may_end: bool = row[_MAY_END_AT]
    return may_end
