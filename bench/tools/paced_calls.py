"""Rate-limit calls at a steady pace, and what became of each: `python -m bench.tools.paced_calls ORDER`.

The order is a JSON object: port, rate (calls a second), deadline_ms and keys. Runs until SIGTERM, then prints
a JSON list with an entry for each call: when it was sent (CLOCK_MONOTONIC), how many milliseconds it
took, whether it was allowed, why it was not counted in Redis ("" if it was), and whether its duration can be
trusted: not so where this process did not run for a while.
"""

import selectors
import signal
import socket
import sys
import time
from typing import Any, Final, NamedTuple

import orjson

from bench.tools import generator
from bench.tools.generator import ACK, DATA, END_HEADERS, END_STREAM, HEAD, HEADERS, PING, SETTINGS, frame
from bench.tools.load import LoadError
from protos.ratelimit_descriptor_pb2 import RateLimitDescriptor
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse

PATH: Final = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
TICK_SECONDS: Final = 0.002
STALL_SECONDS: Final = 0.005
"""A turn that lasts longer shows that this process did not run."""
DRAIN_SECONDS: Final = 1.0


class Call(NamedTuple):
    """One call and what became of it."""

    sent_at: float
    milliseconds: float
    allowed: bool
    reason: str
    trusted: bool


def message_for(key: str, value: str) -> bytes:
    """Return a request with one descriptor."""
    entries = [RateLimitDescriptor.Entry(key=key, value=value)]
    return RateLimitRequest(
        domain="bench", descriptors=[RateLimitDescriptor(entries=entries)]
    ).SerializeToString()


def drive(order: dict[str, Any]) -> list[Call]:
    """Make the calls. Raises LoadError if the server ends the connection or a call."""
    client = _Client(order["port"], order["deadline_ms"])
    messages = [message_for("closed", key) for key in order["keys"]]
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    begun, sent = time.monotonic(), 0
    while not stopping:
        due = int((time.monotonic() - begun) * order["rate"])
        if due > sent:
            client.send([messages[number % len(messages)] for number in range(sent, due)])
            sent = due
        client.receive(TICK_SECONDS)
    until = time.monotonic() + DRAIN_SECONDS
    while client.waiting and time.monotonic() < until:
        client.receive(TICK_SECONDS)
    return client.calls + client.unanswered()


class _Client:
    """One HTTP/2 connection."""

    def __init__(self, port: int, deadline_ms: int) -> None:
        fields = generator.FIELDS | {":authority": "ratelimit", "grpc-timeout": f"{deadline_ms}m"}
        self._block = generator._without_table(PATH, fields)  # noqa: SLF001 - literals suit any header table
        self.calls: list[Call] = []
        self.waiting: dict[int, float] = {}
        self._answers: dict[int, bytes] = {}
        self._stalled_at = 0.0
        self._turned_at = time.monotonic()
        self._next = 1
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(generator.OPENING)
        _, self._rest = generator.first_settings(self._socket)
        self._socket.sendall(generator.SETTINGS_ACK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)

    def send(self, messages: list[bytes]) -> None:
        """Begin a call for each message."""
        parts = []
        now = time.monotonic()
        for message in messages:
            body = b"\x00" + len(message).to_bytes(4, "big") + message
            parts.append(frame(HEADERS, END_HEADERS, self._next, self._block))
            parts.append(frame(DATA, END_STREAM, self._next, body))
            self.waiting[self._next] = now
            self._next += 2
        self._socket.sendall(b"".join(parts))

    def receive(self, seconds: float) -> None:
        """Read for up to `seconds`."""
        ready = self._selector.select(seconds)
        now = time.monotonic()
        if now - self._turned_at > STALL_SECONDS:
            self._stalled_at = now
        self._turned_at = now
        if not ready:
            return
        received = self._socket.recv(generator.READ_BYTES)
        if not received:
            raise LoadError("the server hung up")
        data, at = self._rest + received, 0
        while len(data) - at >= 9:
            size_and_kind, flags, stream = HEAD.unpack_from(data, at)
            stop = at + 9 + (size_and_kind >> 8)
            if stop > len(data):
                break
            self._frame(size_and_kind & 0xFF, flags, stream, data[at + 9 : stop], now)
            at = stop
        self._rest = data[at:]

    def unanswered(self) -> list[Call]:
        """The calls that have no answer yet."""
        now = time.monotonic()
        return [Call(sent, (now - sent) * 1e3, False, "no answer", True) for sent in self.waiting.values()]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        if kind == DATA:
            self._answers[stream] = self._answers.get(stream, b"") + payload
        elif kind == HEADERS and flags & END_STREAM:
            self._answered(stream, now)
        elif kind == SETTINGS and not flags & ACK:
            self._socket.sendall(generator.SETTINGS_ACK)
        elif kind == PING and not flags & ACK:
            self._socket.sendall(frame(PING, ACK, 0, payload))
        elif kind in {generator.RST_STREAM, generator.GOAWAY}:
            raise LoadError(f"the server sent frame type {kind}: {payload!r}")

    def _answered(self, stream: int, now: float) -> None:
        sent_at = self.waiting.pop(stream)
        response = RateLimitResponse.FromString(self._answers.pop(stream, b"")[5:])
        fields = response.dynamic_metadata.fields
        reason = fields["reason"].string_value if "reason" in fields else ""
        allowed = response.overall_code == RateLimitResponse.OK
        trusted = self._stalled_at < sent_at
        self.calls.append(Call(sent_at, (now - sent_at) * 1e3, allowed, reason, trusted))


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps([list(call) for call in drive(orjson.loads(sys.argv[1]))]))
