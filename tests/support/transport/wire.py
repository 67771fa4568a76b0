"""The sans-IO connection under test: hand-made frames, handlers without an event loop, a fixed clock."""

import gzip
from collections.abc import AsyncIterator, Awaitable, Iterable
from functools import partial
from typing import Any, cast

from hpack import Encoder

from sidecars.transport.api.limits import Lifetime, Limits
from sidecars.transport.api.service import (
    Bidirectional,
    Call,
    ClientStreaming,
    Code,
    Method,
    ServerStreaming,
    Status,
    StatusError,
    Unary,
    UnaryHandler,
)
from sidecars.transport.http2 import frames
from sidecars.transport.http2.call_handler import Outcome
from sidecars.transport.http2.connection import Connection
from sidecars.transport.http2.errors import Reason
from sidecars.transport.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    ErrorCode,
)
from sidecars.transport.http2.held_bytes import HeldBytes
from sidecars.transport.http2.stream import ServerCall, Stream
from sidecars.transport.http2.streams import Streams

NO_TABLE = b"\x20"
"""Dynamic table size update to 0, at the start of a header block (RFC 7541 section 6.3)."""


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return frames.head(kind, flags, stream_id, len(payload)) + payload


def block(*fields: tuple[str, str]) -> bytes:
    """A header block that does not change the dynamic table, so that it is valid anywhere."""
    return bytes(Encoder().encode([(name, value, True) for name, value in fields]))


def request_fields(path: str, *extra: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "authz"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *extra,
    )


def request(path: str, *extra: tuple[str, str]) -> bytes:
    return block(*request_fields(path, *extra))


def message(body: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(body).to_bytes(4, "big") + body


CANCEL = int(ErrorCode.CANCEL).to_bytes(4, "big")

OPENING = frames.PREFACE + frame(frames.SETTINGS, 0, 0) + frames.SETTINGS_ACK

FrameRow = tuple[int, int, int, bytes]


def parse(output: bytes) -> list[FrameRow]:
    """Return the frames that a connection sent: kind, flags, stream, payload. Fails on incomplete frames."""
    rows = []
    while output:
        assert len(output) >= frames.HEAD_BYTES
        head, flags, stream_id = frames.HEAD.unpack_from(output)
        stop = frames.HEAD_BYTES + (head >> 8)
        assert stop <= len(output)
        assert head >> 8 <= frames.MAX_FRAME_BYTES
        rows.append((head & 0xFF, flags, stream_id, output[frames.HEAD_BYTES : stop]))
        output = output[stop:]
    return rows


def echo(request: bytes, call: Call) -> bytes:
    return request


def refuse(request: bytes, call: Call) -> bytes:
    raise StatusError(Code.PERMISSION_DENIED, "nö")


def later(request: bytes, call: Call) -> Awaitable[bytes]:
    """The awaitable that `ManualCalls` accepts as a reply that must wait."""
    return cast("Awaitable[bytes]", bytearray(request))


async def join(messages: AsyncIterator[bytes], call: Call) -> bytes:
    raise NotImplementedError("ManualCalls runs it")


async def split(request: bytes, call: Call) -> AsyncIterator[bytes]:
    yield request
    raise NotImplementedError("ManualCalls runs it")


async def shout(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    yield b""
    raise NotImplementedError("ManualCalls runs it")


METHODS: dict[bytes, Method] = {
    b"/p/Echo": Unary(echo),
    b"/p/Refuse": Unary(refuse),
    b"/p/Later": Unary(later),
    b"/p/Join": ClientStreaming(join),
    b"/p/Split": ServerStreaming(split),
    b"/p/Shout": Bidirectional(shout),
}
OK = Status(Code.OK)


class ManualCalls:
    """A `CallHandler` that runs handlers on demand: `run` lets each run as far as it can."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []
        """The messages that reached a handler."""
        self.watched: list[int] = []
        """The streams whose deadline runs although their request is incomplete."""
        self.room = True
        """Whether one more streaming call may start."""
        self._running: dict[int, tuple[Streams, Stream]] = {}
        self._read: dict[int, list[bytes]] = {}

    def answer(self, handler: UnaryHandler, message: bytes, call: ServerCall) -> Outcome:
        self.seen.append((call.method, message))
        try:
            return handler(message, call)
        except StatusError as error:
            return error.status

    def await_reply(self, streams: Streams, stream: Stream, reply: Any) -> None:
        self._start(streams, stream)
        self._read[stream.id] = [bytes(reply)]

    def watch(self, streams: Streams, stream: Stream) -> None:
        self.watched.append(stream.id)

    def has_room(self, streams: Streams) -> bool:
        return self.room

    def start_now(self, streams: Streams, stream: Stream) -> None:
        """The handlers of the tests start at once."""

    def start_stream(self, streams: Streams, stream: Stream) -> None:
        self._start(streams, stream)

    def _start(self, streams: Streams, stream: Stream) -> None:
        stream.running = self
        self._running[stream.id] = (streams, stream)
        self._read[stream.id] = []

    def resume(self, streams: Streams, stream: Stream) -> None:
        """Let every handler check its stream."""

    def cancel(self, streams: Streams, stream: Stream) -> None:
        stream.running = None
        self._running.pop(stream.id, None)

    def run(self) -> None:
        for stream_id, (streams, stream) in list(self._running.items()):
            if stream_id in self._running:
                self._advance(streams, stream)

    def _advance(self, streams: Streams, stream: Stream) -> None:
        method, read = stream.request.method, self._read[stream.id]
        if isinstance(method, Unary):
            self._leave(stream)
            streams.reply(stream, read[0])
            return
        while (got := streams.read(stream)) is not None:
            self.seen.append((stream.call.method, got))
            read.append(got)
            if isinstance(method, Bidirectional):
                streams.send(stream, got.upper())
        if stream.id not in self._running or not stream.remote_closed:
            return
        self._leave(stream)
        if isinstance(method, ClientStreaming):
            streams.reply(stream, b"|".join(read))
            return
        if isinstance(method, ServerStreaming):
            for part in read[0].split(b" "):
                streams.send(stream, part)
        streams.finish(stream, OK)

    def _leave(self, stream: Stream) -> None:
        stream.running = None
        del self._running[stream.id]


class Tally:
    """An `observer.Observer` that records why connections and streams ended."""

    def __init__(self) -> None:
        self.reasons: list[Reason] = []
        self.goaways: list[frames.ErrorCode] = []
        self.resets_sent: list[frames.ErrorCode] = []
        self.resets_received = 0

    def connection_opened(self) -> None: ...

    def connection_closed(self) -> None: ...

    def goaway_sent(self, code: frames.ErrorCode) -> None:
        self.goaways.append(code)

    def reset_sent(self, code: frames.ErrorCode) -> None:
        self.resets_sent.append(code)

    def reset_received(self) -> None:
        self.resets_received += 1

    def peer_error(self, reason: Reason) -> None:
        self.reasons.append(reason)


class Bench:
    """A connection with its handlers, observer and clock."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        trusted: bool = False,
        held_by_all: HeldBytes | None = None,
    ) -> None:
        limits = limits or Limits()
        self.calls = ManualCalls()
        self.tally = Tally()
        self._clock = [0.0]
        self.connection = Connection(
            METHODS,
            self.calls,
            limits,
            self.tally,
            peer="unix:",
            clock=partial(self._clock.__getitem__, 0),
            output_ready=lambda: None,
            held_by_all=held_by_all or HeldBytes(limits.max_total_held_bytes),
            trusted=trusted,
        )

    @property
    def now(self) -> float:
        """The clock of the connection, without a reference to this object."""
        return self._clock[0]

    @now.setter
    def now(self, now: float) -> None:
        self._clock[0] = now

    def feed(self, data: bytes) -> bytes:
        """Return the output of the connection for one read, before any handler runs."""
        self.connection.receive(data, self.now)
        return self.connection.take()

    def run(self) -> bytes:
        """Return the output of the connection after the handlers run."""
        self.calls.run()
        return self.connection.take()


def settings_received(
    limits: Limits | None = None, *, trusted: bool = False, held_by_all: HeldBytes | None = None
) -> Bench:
    bench = Bench(limits, trusted=trusted, held_by_all=held_by_all)
    bench.feed(OPENING)
    return bench


def goaway_code(output: bytes) -> ErrorCode | None:
    """Return the code of the GOAWAY in `output`, or None."""
    codes = [
        ErrorCode(int.from_bytes(payload[4:8], "big"))
        for kind, _, _, payload in parse(output)
        if kind == GOAWAY
    ]
    return codes[0] if codes else None


def resets(output: bytes) -> list[tuple[int, ErrorCode]]:
    return [
        (stream_id, ErrorCode(int.from_bytes(payload, "big")))
        for kind, _, stream_id, payload in parse(output)
        if kind == RST_STREAM
    ]


def ends_at(bench: Bench, rounds: Iterable[bytes]) -> int | None:
    """Return the round, from 1, that ended the connection with ENHANCE_YOUR_CALM, or None."""
    for number, data in enumerate(rounds, 1):
        output = bench.feed(data)
        if bench.connection.over:
            assert goaway_code(output) is ErrorCode.ENHANCE_YOUR_CALM
            return number
    return None


def opened(stream_id: int, method: str = "/p/Echo") -> bytes:
    return frame(HEADERS, END_HEADERS, stream_id, request(method))


def stream_ids(count: int) -> range:
    return range(1, 2 * count, 2)


def waited(bench: Bench, seconds: float) -> bytes:
    """Return the output of the connection after `seconds`."""
    bench.now += seconds
    bench.connection.tick(bench.now, Lifetime(keepalive_seconds=None))
    return bench.connection.take()


def status(output: bytes, stream_id: int) -> int:
    """Return the grpc-status of a stream: the literal of one or two digits after its name."""
    (trailers,) = [row for row in parse(output) if ended(row, stream_id)]
    after = trailers[3].split(b"\x0bgrpc-status")[1]
    return int(after[1 : 1 + after[0]])


def ended(row: FrameRow, stream_id: int) -> bool:
    return row[0] == HEADERS and row[2] == stream_id and bool(row[1] & END_STREAM)


def call(stream_id: int, body: bytes = b"x", method: str = "/p/Echo") -> bytes:
    """Return a complete call with one message."""
    return opened(stream_id, method) + frame(DATA, END_STREAM, stream_id, message(body))


def gzip_call(stream_id: int, compressed: bytes) -> bytes:
    headers = request("/p/Echo", ("grpc-encoding", "gzip"))
    data = message(compressed, flag=1)
    return frame(HEADERS, END_HEADERS, stream_id, headers) + frame(DATA, END_STREAM, stream_id, data)


def zeros(count: int) -> bytes:
    """Return that many bytes as gzip, a thousandth of the size."""
    return gzip.compress(bytes(count))
