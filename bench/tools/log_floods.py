"""What attackers send to an access-log server: log streams by the thousand on several connections at once."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.tools.floods import FLOOD_BYTES, GREETING, STREAMS, FloodRequest, field, reset
from bench.tools.generator import DATA, END_HEADERS, END_STREAM, HEADERS, frame

NUMBERS = range(1, 2 * STREAMS, 2)
"""The streams of one connection: as many as the server lets be open at once."""


@dataclass(frozen=True, slots=True)
class LogFlood:
    """What each of some connections sends; all of them close at the same moment, and begin again."""

    connections: int
    sent: Callable[[FloodRequest], bytes]


def _opened(request: FloodRequest, *more: bytes) -> bytes:
    """Streams without a deadline, as Envoy opens them."""
    path = request.path.encode()
    block = b"\x83\x86\x04" + bytes([len(path)]) + path
    block += field(b"content-type", b"application/grpc") + field(b"te", b"trailers") + b"".join(more)
    return b"".join(frame(HEADERS, END_HEADERS, number, block) for number in NUMBERS)


def _with_deadlines(request: FloodRequest) -> bytes:
    return _opened(request, field(b"grpc-timeout", b"200m"))


def _prefixed(message: bytes) -> bytes:
    return b"\x00" + len(message).to_bytes(4, "big") + message


def _messages(request: FloodRequest) -> bytes:
    """One message on each stream, so that all their handlers wake."""
    message = _prefixed(request.message)
    return b"".join(frame(DATA, 0, number, message) for number in NUMBERS)


def _with_messages(request: FloodRequest) -> bytes:
    messages = _messages(request)
    return _opened(request) + messages * (FLOOD_BYTES // len(messages))


def _with_empty_messages(request: FloodRequest) -> bytes:
    return _with_messages(FloodRequest(request.path, b""))


def _with_bursts(request: FloodRequest) -> bytes:
    """Many messages for one stream, then as many for the next."""
    burst = _prefixed(request.message) * 32
    return _opened(request) + b"".join(frame(DATA, 0, number, burst) for number in NUMBERS)


def _reset_in_bulk(request: FloodRequest) -> bytes:
    return _opened(request) + b"".join(map(reset, NUMBERS))


def _ended_in_bulk(request: FloodRequest) -> bytes:
    return _opened(request) + b"".join(frame(DATA, END_STREAM, number, b"") for number in NUMBERS)


def _unreadable(request: FloodRequest) -> bytes:
    """Each stream is refused for its first message."""
    return _opened(request) + _messages(FloodRequest(request.path, b"\xff" * 8))


LOG_FLOODS: dict[str, LogFlood] = {
    "log_streams_closed": LogFlood(1, _opened),
    "log_streams_closed_together": LogFlood(20, _opened),
    "log_streams_held": LogFlood(20, lambda request: _opened(request) + _messages(request)),
    "log_streams_expired": LogFlood(4, _with_deadlines),
    "log_streams_reset": LogFlood(4, _reset_in_bulk),
    "log_streams_ended": LogFlood(4, _ended_in_bulk),
    "log_streams_unreadable": LogFlood(4, _unreadable),
    "log_messages": LogFlood(1, _with_messages),
    "log_messages_of_many": LogFlood(8, _with_messages),
    "log_messages_of_nothing": LogFlood(8, _with_empty_messages),
    "log_messages_in_bursts": LogFlood(8, _with_bursts),
}
"""By name."""


def log_flood(name: str, request: FloodRequest) -> tuple[int, bytes]:
    """How many connections there are at once, and all that each of them sends."""
    flood = LOG_FLOODS[name]
    return flood.connections, GREETING + flood.sent(request)
