"""Numbers and lengths in the bytes of a message (protobuf.dev, "Encoding"), for the parts read by hand."""

from typing import Final

_MOST_SHIFT: Final = 56


class UnusualError(Exception):
    """Bytes that protobuf may understand, but that no serialiser writes for what Envoy sends."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, of nine bytes at most, and where it ends. Raises UnusualError and IndexError."""
    value = shift = 0
    while shift <= _MOST_SHIFT:
        byte = data[at]
        at += 1
        if byte < 0x80:
            return value + (byte << shift), at
        value += byte - 0x80 << shift
        shift += 7
    raise UnusualError


def content(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Where the content begins and ends whose length is at `at`. Raises UnusualError beyond `end`."""
    size = data[at]
    at += 1
    if size > 0x7F:
        size, at = varint(data, at - 1)
    stop = at + size
    if stop > end:
        raise UnusualError
    return at, stop
