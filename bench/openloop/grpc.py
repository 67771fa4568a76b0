"""The client side of gRPC: unary calls, or streams of one message, over HTTP/2 without I/O."""

from collections.abc import Sequence

from hpack import Decoder

from bench.openloop.client import Ended
from bench.tools.generator import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEADER_TABLE_SIZE,
    HEADERS,
    IN_FLIGHT_BYTES,
    PING,
    PREFACE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    frame,
)
from bench.tools.load import LoadError

_INITIAL_WINDOW_SIZE = 0x4
_CONTINUATION = 0x9
_PADDED, _PRIORITY = 0x8, 0x20
_LARGEST_FRAME = 16_384
_REMEMBERED_BLOCKS = 1_000
_LARGEST_WINDOW = 2**31 - 1

OPENING = (
    PREFACE
    + frame(
        SETTINGS,
        0,
        0,
        # Without a table, equal header blocks mean equal headers, so a dictionary can hold what they say.
        SETTING.pack(HEADER_TABLE_SIZE, 0) + SETTING.pack(_INITIAL_WINDOW_SIZE, _LARGEST_WINDOW),
    )
    + frame(WINDOW_UPDATE, 0, 0, (_LARGEST_WINDOW - 65_535).to_bytes(4, "big"))
)


class GrpcClient:
    """Sends the given messages in turn; `blocks` has the header block of each call on the connection."""

    def __init__(self, blocks: Sequence[bytes], messages: Sequence[bytes], streams: int) -> None:
        longest = max(map(len, messages)) + 5
        # At most half of the initial connection window, so that sending needs no flow control.
        self.streams = max(1, min(streams, IN_FLIGHT_BYTES // longest))
        self.exhausted = False
        self._heads = blocks
        self._bodies = [b"\x00" + len(message).to_bytes(4, "big") + message for message in messages]
        self._tag = -1
        self._open: set[int] = set()
        self._rest = b""
        self._failures: dict[bytes, str] = {}

    def opening(self) -> bytes:
        """Return the preface and the settings of the client."""
        return OPENING

    def call(self, number: int) -> bytes:
        """Return the frames of the next call."""
        self._tag += 1
        self._open.add(self._tag)
        self.exhausted = self.exhausted or self._tag + 1 == len(self._heads)
        stream = 2 * self._tag + 1
        body = self._bodies[number % len(self._bodies)]
        head = frame(HEADERS, END_HEADERS, stream, self._heads[self._tag])
        while len(body) > _LARGEST_FRAME:
            head += frame(DATA, 0, stream, body[:_LARGEST_FRAME])
            body = body[_LARGEST_FRAME:]
        return head + frame(DATA, END_STREAM, stream, body)

    def feed(self, data: bytes) -> tuple[Sequence[Ended], bytes]:
        """Return the calls that ended, and the replies to SETTINGS and PING."""
        data = self._rest + data
        ended: list[Ended] = []
        replies = b""
        at, end = 0, len(data)
        while end - at >= 9:
            size_and_kind, flags, stream = HEAD.unpack_from(data, at)
            stop = at + 9 + (size_and_kind >> 8)
            if stop > end:
                break
            kind = size_and_kind & 0xFF
            if kind in {HEADERS, DATA, RST_STREAM}:
                if flags & END_STREAM or kind == RST_STREAM:
                    self._end(stream >> 1, self._outcome(kind, flags, data[at + 9 : stop]), ended)
            else:
                replies += self._control(kind, flags, data[at + 9 : stop])
            at = stop
        self._rest = data[at:]
        return ended, replies

    def closed(self) -> Sequence[Ended]:
        """Return the calls in flight as failed."""
        ended = [Ended(tag, "closed without a response") for tag in sorted(self._open)]
        self._open.clear()
        return ended

    def _end(self, tag: int, failure: str, ended: list[Ended]) -> None:
        if tag in self._open:  # a reset may follow the trailers
            self._open.remove(tag)
            ended.append(Ended(tag, failure))

    def _outcome(self, kind: int, flags: int, payload: bytes) -> str:
        if kind == RST_STREAM:
            return f"reset with HTTP/2 error {int.from_bytes(payload, 'big')}"
        if kind == DATA:
            return "no grpc-status"
        if not flags & END_HEADERS:
            raise LoadError("the server splits its trailers over several frames")
        known = self._failures.get(payload)
        if known is None:
            if len(self._failures) >= _REMEMBERED_BLOCKS:
                self._failures.clear()
            known = self._failures[payload] = _failure(payload, flags)
        return known

    def _control(self, kind: int, flags: int, payload: bytes) -> bytes:
        if kind == SETTINGS and not flags & ACK:
            return SETTINGS_ACK
        if kind == PING and not flags & ACK:
            return frame(PING, ACK, 0, payload)
        if kind == GOAWAY:
            self.exhausted = True
            if error := int.from_bytes(payload[4:8], "big"):
                raise LoadError(f"the server ended the connection with HTTP/2 error {error}: {payload[8:]!r}")
        elif kind == _CONTINUATION:
            raise LoadError("the server splits its headers over several frames")
        return b""


def _failure(block: bytes, flags: int) -> str:
    if flags & _PADDED:
        block = block[1 : len(block) - block[0]]
    if flags & _PRIORITY:
        block = block[5:]
    fields: dict[str, str] = dict(Decoder().decode(block))  # type: ignore[arg-type]  # text unless raw is set
    if fields.get(":status", "200") != "200":
        return f"HTTP {fields[':status']}"
    status = fields.get("grpc-status", "")
    return "" if status == "0" else f"grpc-status {status or 'missing'}"
