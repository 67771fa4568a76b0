"""Messages in a stream of bytes: the length prefix of gRPC, and inflation with a bound."""

import zlib
from struct import Struct
from typing import Final

from sidecars.transport.api.service import Code, Status, StatusError

PREFIX: Final = Struct(">BI")
"""Compressed flag and length (gRPC over HTTP/2: Length-Prefixed-Message)."""
PREFIX_BYTES: Final = 5

_GZIP_WINDOW_BITS: Final = 31  # zlib's way to ask for a gzip header and trailer, and nothing else
_LARGEST_RATIO: Final = 1032
"""The most bytes that one byte inflates to: 258 for two bits (RFC 1951 section 3.2.5)."""


class MessageDeframer:
    """Cuts the messages of one request out of its DATA, each when it is read.

    Until then they stay in one buffer, as large as they were sent: as separate objects, messages of five
    bytes would take twenty times the memory.
    """

    __slots__ = ("_buffer", "_max_bytes", "whole_bytes", "whole_messages")

    def __init__(self, max_bytes: int) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes
        self.whole_bytes = 0
        """Bytes of complete messages that were not taken yet."""
        self.whole_messages = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of the incomplete message."""
        return len(self._buffer) - self.whole_bytes

    def feed(self, data: bytes) -> int:
        """How many messages `data` completes.

        Raises StatusError: RESOURCE_EXHAUSTED for one over the limit, known from its prefix alone; INTERNAL
        for a flag that gRPC does not know.
        """
        buffer = self._buffer
        buffer += data
        before = self.whole_messages
        stop = self.whole_bytes
        while len(buffer) - stop >= PREFIX_BYTES:
            flag, length = PREFIX.unpack_from(buffer, stop)
            if length > self._max_bytes:
                raise StatusError(
                    Code.RESOURCE_EXHAUSTED, f"message of {length} bytes: at most {self._max_bytes}"
                )
            if flag > 1:
                raise StatusError(Code.INTERNAL, f"compressed flag {flag}: expected 0 or 1")
            stop += PREFIX_BYTES + length
            if len(buffer) < stop:
                break
            self.whole_bytes = stop
            self.whole_messages += 1
        return self.whole_messages - before

    def take(self) -> tuple[bytes, bool]:
        """The first of the whole messages, and whether it is compressed; there must be one."""
        buffer = self._buffer
        flag, length = PREFIX.unpack_from(buffer)
        stop = PREFIX_BYTES + length
        message = bytes(memoryview(buffer)[PREFIX_BYTES:stop])
        del buffer[:stop]
        self.whole_bytes -= stop
        self.whole_messages -= 1
        return message, bool(flag)


def inflate(message: bytes, max_bytes: int) -> tuple[bytes | Status, int]:
    """The inflated message or the status that refuses it, and how many bytes were inflated.

    RESOURCE_EXHAUSTED if it is larger than `max_bytes`, of which one more is inflated at most; INTERNAL if it
    is not gzip. zlib does not tell how far it came before an error, so the most is assumed.
    """
    inflator = zlib.decompressobj(wbits=_GZIP_WINDOW_BITS)
    try:
        inflated = inflator.decompress(message, max_bytes + 1)
    except zlib.error:
        most = min(max_bytes + 1, len(message) * _LARGEST_RATIO)
        return Status(Code.INTERNAL, "cannot inflate a gzip message"), most
    size = len(inflated)
    if size > max_bytes:
        return Status(Code.RESOURCE_EXHAUSTED, f"inflated message: at most {max_bytes} bytes"), size
    if not inflator.eof or inflator.unused_data:
        return Status(Code.INTERNAL, "a gzip message that is cut short, or goes on after its end"), size
    return inflated, size
