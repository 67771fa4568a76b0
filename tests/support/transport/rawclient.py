"""A client made of the `h2` package and a socket, which can send what no gRPC client sends."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings

from sidecars.transport.http2.frames import GOAWAY, HEAD_BYTES, ErrorCode
from tests.support.transport.harness import Served, path, within

Headers = list[tuple[str, str]]


def request_headers(method: str, *extra: tuple[str, str], drop: Iterable[str] = ()) -> Headers:
    """Return the header list of a gRPC request; `extra` replaces or follows the usual fields."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path(method),
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    fields.update(extra)
    return [(name, value) for name, value in fields.items() if name not in set(drop)]


def message(body: bytes, *, flag: int = 0) -> bytes:
    """Return `body` with its five bytes of prefix (gRPC HTTP/2 protocol, Length-Prefixed-Message)."""
    return bytes([flag]) + len(body).to_bytes(4, "big") + body


@dataclass(slots=True)
class Answer:
    """The response on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    reset_code: int | None = None
    ended: bool = False

    @property
    def status(self) -> int | None:
        """The grpc-status, from the trailers or a trailers-only response."""
        value = self.trailers.get("grpc-status", self.headers.get("grpc-status"))
        return None if value is None else int(value)

    @property
    def done(self) -> bool:
        return self.ended or self.reset_code is not None


@dataclass(frozen=True, slots=True)
class Goaway:
    """The GOAWAY and the data that a server sent before it closed the connection."""

    code: ErrorCode
    last_stream_id: int
    detail: str


class RawClient:
    """One connection; `h2` checks the protocol on both sides, so it also checks the server's frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = b""
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.answers: dict[int, Answer] = {}
        self.goaways: list[Goaway] = []
        self.pongs = 0
        self.settings_acks = 0
        self.closed = False
        self.replenish = True
        """Whether windows are replenished as data arrives."""

    def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())

    def write(self, raw: bytes) -> None:
        """Send bytes without telling `h2`."""
        self.flush()
        self._writer.write(raw)

    def open(self, headers: Headers, *, end: bool = False) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, headers, end_stream=end)
        self.answers[stream_id] = Answer()
        self.flush()
        return stream_id

    def send(self, stream_id: int, data: bytes, *, end: bool = False, pad: int | None = None) -> None:
        self.h2.send_data(stream_id, data, end_stream=end, pad_length=pad)
        self.flush()

    async def call(self, method: str, *messages: bytes, headers: Headers | None = None) -> Answer:
        stream_id = self.open(headers or request_headers(method))
        self.send(stream_id, b"".join(message(body) for body in messages), end=True)
        return await self.answer(stream_id)

    async def answer(self, stream_id: int) -> Answer:
        """Return the response on `stream_id`, once the stream has ended."""
        answer = self.answers[stream_id]
        await self.until(lambda: answer.done)
        return answer

    async def until(self, condition: Callable[[], object]) -> None:
        """Read until `condition()` is true.

        Raises ConnectionError if the server closes the connection first.
        """
        while not condition():
            if self.closed:
                raise ConnectionError("the server hung up")
            await within(self._read())

    async def _read(self) -> None:
        data = await self._reader.read(65_536)
        if not data:
            self.closed = True
            return
        self._buffer += data
        while len(self._buffer) >= HEAD_BYTES:
            size = HEAD_BYTES + int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < size:
                break
            frame, self._buffer = self._buffer[:size], self._buffer[size:]
            if frame[3] == GOAWAY:  # after an error h2 accepts nothing more, not even for streams in flight
                last_stream_id, code = struct.unpack_from(">II", frame, HEAD_BYTES)
                self.goaways.append(Goaway(ErrorCode(code), last_stream_id, frame[HEAD_BYTES + 8 :].decode()))
                continue
            for event in self.h2.receive_data(frame):
                self._take(event)
        self.flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.answers[event.stream_id].headers = dict(event.headers)  # type: ignore[arg-type]
            case h2.events.DataReceived():
                self.answers[event.stream_id].data += event.data
                if self.replenish and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self.answers[event.stream_id].trailers = dict(event.headers)  # type: ignore[arg-type]
            case h2.events.StreamEnded():
                self.answers[event.stream_id].ended = True
            case h2.events.StreamReset():
                self.answers[event.stream_id].reset_code = int(event.error_code)
            case h2.events.PingAckReceived():
                self.pongs += 1
            case h2.events.SettingsAcknowledged():
                self.settings_acks += 1

    def hang_up(self) -> None:
        """Close the socket without GOAWAY."""
        self._writer.transport.abort()


@asynccontextmanager
async def raw_client(served: Served, **settings: int) -> AsyncIterator[RawClient]:
    """Open a connection to `served` and send the preface."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    client = RawClient(reader, writer)
    client.h2.initiate_connection()
    if settings:
        client.h2.update_settings({h2.settings.SettingCodes[name]: value for name, value in settings.items()})
    client.flush()
    try:
        yield client
    finally:
        writer.transport.abort()
