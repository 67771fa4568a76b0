"""A load generator that costs less than the servers under test, and can change a header in each call.

h2load repeats one header block. With tracing, Envoy never does: each call has its own traceparent, which
enters the dynamic table, if the server has one, and shifts every index. All blocks are encoded before the
measurement.
"""

import selectors
import socket
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from struct import Struct
from typing import Any

import orjson
from hpack import Encoder
from hpack.hpack import encode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

from bench.tools.callers import Callers, messages
from bench.tools.load import LoadError, percentiles

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = Struct(">IBI")
SETTING = Struct(">HI")
HEADER_TABLE_SIZE = 0x1
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
READ_BYTES = 256 * 1024
CALLS_A_CONNECTION = 20_000
"""Calls encoded in advance; a connection that has sent them all is replaced by a new one."""

IN_FLIGHT_BYTES = 32 * 1024
"""At most half of the initial connection window, so that the generator needs no flow control for sending."""


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame as bytes."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


FIELDS = {
    ":authority": "authz",
    "te": "trailers",
    "grpc-timeout": "250m",
    "content-type": "application/grpc",
    "x-envoy-internal": "true",
    "x-forwarded-for": "127.0.0.1",
    "x-envoy-expected-rq-timeout-ms": "250",
}
"""The headers that Envoy sends with a Check call, besides method, scheme and path."""

HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
STATIC_NAMES = {
    name.decode(): index for index, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, start=1)))
}

SETTINGS_ACK = frame(SETTINGS, ACK, 0, b"")
OPENING = (
    PREFACE
    + frame(SETTINGS, 0, 0, b"\x00\x04\x7f\xff\xff\xff")
    + frame(WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big"))
)


def prepared_calls(
    port: int, path: str, body_bytes: int, count: int, *, tracing: bool, timeout: str = "250m"
) -> list[bytes]:
    """Return the bytes before the body of each call, for the header table size that the server allows."""
    with socket.create_connection(("127.0.0.1", port)) as probe:
        probe.sendall(OPENING)
        payload, _ = first_settings(probe)
    table_bytes = dict(SETTING.iter_unpack(payload)).get(HEADER_TABLE_SIZE, 4096)
    return call_heads(header_blocks(path, count, table_bytes, tracing=tracing, timeout=timeout), body_bytes)


def first_settings(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the payload of the server's first frame, and the bytes after it."""
    data = b""
    while len(data) < 9 or len(data) < 9 + (HEAD.unpack_from(data)[0] >> 8):
        received = connection.recv(READ_BYTES)
        if not received:
            raise LoadError("the server hung up before its SETTINGS")
        data += received
    stop = 9 + (HEAD.unpack_from(data)[0] >> 8)
    return data[9:stop], data[stop:]


def header_blocks(
    path: str, count: int, table_bytes: int, *, tracing: bool, timeout: str = "250m"
) -> list[bytes]:
    """Return the header blocks of `count` calls on one connection, as Envoy's encoder (nghttp2) writes them.

    `:path` is a literal without indexing, the rest comes from the dynamic table, and a traceparent is a
    literal that enters it; if the server allows no table, all fields are literals.
    """
    encode = _without_table if table_bytes == 0 else _with_table(table_bytes)
    blocks = []
    for number in range(count):
        trace, span = number * 0x9E3779B97F4A7C15F39CC0605CEDC835, number * 0x9E3779B97F4A7C15
        traceparent = {"traceparent": f"00-{trace % 2**128:032x}-{span % 2**64:016x}-01"} if tracing else {}
        blocks.append(encode(path, FIELDS | {"grpc-timeout": timeout} | traceparent))
    if table_bytes == 0 and blocks:
        blocks[0] = b"\x20" + blocks[0]  # one update signals the change (RFC 7541 section 4.2)
    return blocks


def _with_table(table_bytes: int) -> Callable[[str, dict[str, str]], bytes]:
    encoder = Encoder()
    if table_bytes != encoder.header_table_size:
        encoder.header_table_size = table_bytes

    def encode(path: str, fields: dict[str, str]) -> bytes:
        block = encoder.encode([(":method", "POST"), (":scheme", "http")])
        return block + b"\x04" + _string(path) + encoder.encode(fields.items())

    return encode


def _without_table(path: str, fields: dict[str, str]) -> bytes:
    block = b"\x83\x86\x04" + _string(path)  # POST, http and the name :path are in the static table
    for name, value in fields.items():
        index = STATIC_NAMES.get(name, 0)
        block += bytes(encode_integer(index, 4)) + (b"" if index else _string(name)) + _string(value)
    return block


def _string(text: str) -> bytes:
    raw = text.encode()
    coded: bytes = HUFFMAN.encode(raw)
    if len(coded) < len(raw):
        length = encode_integer(len(coded), 7)
        length[0] |= 0x80
        return bytes(length) + coded
    return bytes(encode_integer(len(raw), 7)) + raw


def call_heads(blocks: list[bytes], body_bytes: int) -> list[bytes]:
    """Return the bytes before the body of each call: the HEADERS frame and the head of the DATA frame."""
    data = body_bytes << 8 | DATA
    return [
        frame(HEADERS, END_HEADERS, 2 * number + 1, block) + HEAD.pack(data, END_STREAM, 2 * number + 1)
        for number, block in enumerate(blocks)
    ]


class LoadConnection:
    """One connection that keeps `streams` calls in flight."""

    def __init__(
        self, port: int, heads: list[bytes], bodies: Iterator[bytes], streams: int, answer: bytes = b""
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heads = heads
        self._bodies = bodies
        self._answer = answer
        self._sent_at = array("d", bytes(8 * len(heads)))
        self._next = 0
        self._answered = 0
        self._answers = 0
        self.socket.sendall(OPENING)
        _, self._rest = first_settings(self.socket)
        self.socket.sendall(SETTINGS_ACK)
        self.ask(streams, time.perf_counter())

    @property
    def used_up(self) -> bool:
        """Whether every call was sent and answered."""
        return self._answered == len(self._heads)

    def ask(self, count: int, now: float) -> None:
        """Send the next `count` calls, or as many as are left."""
        first, last = self._next, min(self._next + count, len(self._heads))
        if first == last:
            return
        self._next = last
        parts: list[bytes] = []
        for number in range(first, last):
            self._sent_at[number] = now
            parts += (self._heads[number], next(self._bodies))
        self.socket.sendall(b"".join(parts))

    def read(self, times_us: "array[float]") -> int:
        """Read the replies, record the time of each answered call, and return the number of these calls."""
        received = self.socket.recv(READ_BYTES)
        if not received:
            raise LoadError("the server hung up")
        now = time.perf_counter()
        data = self._rest + received
        at, end, answered, answers = 0, len(data), 0, 0
        while end - at >= 9:
            size_and_kind, flags, stream_id = HEAD.unpack_from(data, at)
            stop = at + 9 + (size_and_kind >> 8)
            if stop > end:
                break
            kind = size_and_kind & 0xFF
            if kind == HEADERS:
                if flags & END_STREAM:
                    answered += 1
                    times_us.append((now - self._sent_at[stream_id >> 1]) * 1e6)
            elif kind == DATA:
                answers += 1
                if not data.startswith(self._answer, at + 14):
                    raise LoadError(f"the server answered {data[at + 9 : stop]!r}")
            else:
                self._control(kind, flags, data[at + 9 : stop])
            at = stop
        self._rest = data[at:]
        self._answered += answered
        self._answers += answers
        if self._answers < self._answered:
            raise LoadError("a call ended without an answer")
        self.ask(answered, now)
        return answered

    def _control(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self.socket.sendall(SETTINGS_ACK)
        elif kind == PING and not flags & ACK:
            self.socket.sendall(frame(PING, ACK, 0, payload))
        elif kind in {RST_STREAM, GOAWAY}:
            raise LoadError(f"the server sent frame type {kind}: {payload!r}")


def drive(order: dict[str, Any]) -> dict[str, float]:
    """Run one load and return the figures after the warm-up."""
    bodies, body_bytes = prefixed(bytes.fromhex(order["message"]), order.get("callers"))
    streams = min(order["streams"], max(1, IN_FLIGHT_BYTES // body_bytes))
    port, answer = order["port"], bytes.fromhex(order.get("answer", ""))
    heads = prepared_calls(
        port,
        order["path"],
        body_bytes,
        CALLS_A_CONNECTION,
        tracing=order["tracing"],
        timeout=order.get("timeout", "250m"),
    )
    selector = selectors.DefaultSelector()

    def connect() -> None:
        connection = LoadConnection(port, heads, bodies, streams, answer)
        selector.register(connection.socket, selectors.EVENT_READ, connection)

    for _ in range(order["connections"]):
        connect()
    times_us = array("d")
    calls = 0
    begin = time.perf_counter() + order["warm_up_seconds"]
    end = begin + order["seconds"]
    warm = False
    while (now := time.perf_counter()) < end:
        if not warm and now >= begin:
            warm, begin = True, now
            del times_us[:]
        for key, _ in selector.select(timeout=1.0):
            connection = key.data
            calls += connection.read(times_us)
            if connection.used_up:
                selector.unregister(connection.socket)
                connection.socket.close()
                connect()
    p50_us, p99_us = percentiles(times_us.tolist())
    return {"rps": len(times_us) / (now - begin), "p50_us": p50_us, "p99_us": p99_us, "calls": calls}


def prefixed(message: bytes, callers: Sequence[Any] | None = None) -> tuple[Iterator[bytes], int]:
    """Return the bodies of all calls, which are equally long, and how long: messages with gRPC's prefix."""
    body = b"\x00" + len(message).to_bytes(4, "big") + message
    return (repeat(body) if callers is None else messages(body, Callers(*callers))), len(body)


if __name__ == "__main__":
    print(orjson.dumps(drive(orjson.loads(sys.argv[1]))).decode())
