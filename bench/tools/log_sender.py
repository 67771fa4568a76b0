"""Sends one log stream as fast as the server reads it, at a fraction of the cost of a gRPC client."""

import socket
from struct import Struct
from typing import Final, Self

from bench.tools.floods import field
from bench.tools.generator import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    OPENING,
    PING,
    READ_BYTES,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    first_settings,
    frame,
)
from bench.tools.load import LoadError

_FRAME_BYTES: Final = 16_384
_INITIAL_WINDOW_BYTES: Final = 65_535
_INITIAL_WINDOW: Final = 0x4
_SETTING: Final = Struct(">HI")


class LogSender:
    """One log stream to the server at `port`, opened at `path`."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(OPENING)
        settings, rest = first_settings(self._socket)
        self._initial_window = _INITIAL_WINDOW_BYTES
        self._windows = {0: _INITIAL_WINDOW_BYTES, 1: _INITIAL_WINDOW_BYTES}
        """How much more the connection and the stream may be sent (RFC 9113 section 5.2)."""
        self._apply(settings)
        self.ended = False
        """Whether the server has ended the stream."""
        block = b"\x83\x86\x04" + bytes([len(path)]) + path.encode()
        block += (
            field(b":authority", b"accesslog")
            + field(b"content-type", b"application/grpc")
            + field(b"te", b"trailers")
        )
        self._socket.sendall(SETTINGS_ACK + frame(HEADERS, END_HEADERS, 1, block))
        self._rest = b""
        self._feed(rest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, messages: list[bytes]) -> None:
        """Send messages. Raises LoadError if the server ends the stream before it has read them."""
        data = memoryview(
            b"".join(b"\x00" + len(message).to_bytes(4, "big") + message for message in messages)
        )
        at = 0
        while at < len(data):
            room = min(*self._windows.values(), _FRAME_BYTES, len(data) - at)
            if room <= 0:
                self._read()
                if self.ended:
                    raise LoadError("the server ended the log stream")
                continue
            self._socket.sendall(HEAD.pack(room << 8 | DATA, 0, 1) + data[at : at + room])
            at += room
            for number in self._windows:
                self._windows[number] -= room

    def finish(self) -> None:
        """End the stream, and return once the server has read all of it."""
        self._socket.sendall(frame(DATA, END_STREAM, 1, b""))
        while not self.ended:
            self._read()

    def _read(self) -> None:
        received = self._socket.recv(READ_BYTES)
        if not received:
            raise LoadError("the server hung up")
        self._feed(received)

    def _feed(self, received: bytes) -> None:
        data = self._rest + received
        at = 0
        while len(data) - at >= HEAD.size:
            size_and_kind, flags, number = HEAD.unpack_from(data, at)
            stop = at + HEAD.size + (size_and_kind >> 8)
            if stop > len(data):
                break
            self._take(size_and_kind & 0xFF, flags, number, data[at + HEAD.size : stop])
            at = stop
        self._rest = data[at:]

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._windows[number] += int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            self._apply(payload)
            self._socket.sendall(SETTINGS_ACK)
        elif kind == PING and not flags & ACK:
            self._socket.sendall(frame(PING, ACK, 0, payload))
        elif kind in {HEADERS, DATA}:
            self.ended = self.ended or bool(flags & END_STREAM)
        elif kind not in {SETTINGS, PING}:
            raise LoadError(f"the server sent frame type {kind}: {payload!r}")

    def _apply(self, settings: bytes) -> None:
        for name, value in _SETTING.iter_unpack(settings):
            if name == _INITIAL_WINDOW:
                self._windows[1] += value - self._initial_window
                self._initial_window = value
