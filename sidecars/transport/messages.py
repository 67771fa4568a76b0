"""Messages in a stream of bytes: the length prefix of gRPC, and inflation with a bound."""

import zlib
from dataclasses import dataclass
from struct import Struct

from sidecars.transport.service import Code, StatusError

PREFIX = Struct(">BI")
"""Compressed flag and length (gRPC over HTTP/2: Length-Prefixed-Message)."""
PREFIX_BYTES = 5

_GZIP_WINDOW_BITS = 31  # zlib's way to ask for a gzip header and trailer, and nothing else


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it came; inflated only when it is read, so that what waits is as small as it was sent."""

    payload: bytes
    compressed: bool

    @property
    def wire_bytes(self) -> int:
        """What it took of the windows."""
        return len(self.payload) + PREFIX_BYTES


class Assembler:
    """Cuts the messages of one request out of its DATA."""

    __slots__ = ("_buffer", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of a message that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes.

        Raises StatusError: RESOURCE_EXHAUSTED for one over the limit, known from its prefix alone; INTERNAL
        for a flag that gRPC does not know.
        """
        buffer = self._buffer
        buffer += data
        messages = []
        while len(buffer) >= PREFIX_BYTES:
            flag, length = PREFIX.unpack_from(buffer)
            if length > self._max_bytes:
                raise StatusError(
                    Code.RESOURCE_EXHAUSTED, f"message of {length} bytes: at most {self._max_bytes}"
                )
            if flag > 1:
                raise StatusError(Code.INTERNAL, f"compressed flag {flag}: expected 0 or 1")
            stop = PREFIX_BYTES + length
            if len(buffer) < stop:
                break
            messages.append(Message(bytes(memoryview(buffer)[PREFIX_BYTES:stop]), bool(flag)))
            del buffer[:stop]
        return messages


def inflate(message: bytes, max_bytes: int) -> bytes:
    """A gzip message as it was before. Never holds more than `max_bytes` + 1 of it.

    Raises StatusError: RESOURCE_EXHAUSTED when it would be larger, INTERNAL when it is no gzip.
    """
    inflator = zlib.decompressobj(wbits=_GZIP_WINDOW_BITS)
    try:
        inflated = inflator.decompress(message, max_bytes + 1)
    except zlib.error:
        raise StatusError(Code.INTERNAL, "cannot inflate a gzip message") from None
    if len(inflated) > max_bytes:
        raise StatusError(Code.RESOURCE_EXHAUSTED, f"inflated message: at most {max_bytes} bytes")
    if not inflator.eof or inflator.unused_data:
        raise StatusError(Code.INTERNAL, "a gzip message that is cut short, or goes on after its end")
    return inflated
