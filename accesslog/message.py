"""A StreamAccessLogsMessage, read so that one bad entry costs that entry alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from protos.accesslog_data_pb2 import HTTPAccessLogEntry, TCPAccessLogEntry
from protos.accesslog_pb2 import StreamAccessLogsMessage

_IDENTIFIER, _HTTP_LOGS, _TCP_LOGS = 1, 2, 3
_LOG_ENTRY = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_M = TypeVar("_M", bound=Message)


class UnreadableMessageError(Exception):
    """Bytes in which not even the entries can be told apart."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one message brought: entries of one type, and how many more could not be read."""

    identifier: StreamAccessLogsMessage.Identifier | None
    http: Sequence[HTTPAccessLogEntry] = ()
    tcp: Sequence[TCPAccessLogEntry] = ()
    malformed_http: int = 0
    malformed_tcp: int = 0


def read_message(data: bytes) -> Batch:
    """The entries in `data`. Raises UnreadableMessageError.

    A parser of protocol buffers refuses a whole message for one text that is not UTF-8. Envoy sanitises the
    headers it sends (since 1.14) but not every field, so such a message is taken apart entry by entry.
    """
    try:
        message = StreamAccessLogsMessage.FromString(data)
    except DecodeError:
        return _salvage(data)
    identifier = message.identifier if message.HasField("identifier") else None
    return Batch(identifier, message.http_logs.log_entry, message.tcp_logs.log_entry)


def _salvage(data: bytes) -> Batch:
    identifier = None
    http: list[HTTPAccessLogEntry | None] = []
    tcp: list[TCPAccessLogEntry | None] = []
    for number, content in _submessages(data):
        if number == _IDENTIFIER:
            identifier = _parse(StreamAccessLogsMessage.Identifier, content)
        elif number == _HTTP_LOGS:
            http += [_parse(HTTPAccessLogEntry, entry) for entry in _log_entries(content)]
        elif number == _TCP_LOGS:
            tcp += [_parse(TCPAccessLogEntry, entry) for entry in _log_entries(content)]
    return Batch(
        identifier,
        [entry for entry in http if entry is not None],
        [entry for entry in tcp if entry is not None],
        http.count(None),
        tcp.count(None),
    )


def _log_entries(data: bytes) -> Iterator[bytes]:
    return (content for number, content in _submessages(data) if number == _LOG_ENTRY)


def _parse(kind: type[_M], data: bytes) -> _M | None:
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def _submessages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message by their numbers (protobuf.dev, "Encoding")."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire_type = tag & 7
        if wire_type == _BYTES:
            length, position = _varint(data, position)
            end = position + length
            if end > len(data):
                raise UnreadableMessageError("a field is longer than the message")
            yield tag >> 3, data[position:end]
            position = end
        elif wire_type == _VARINT:
            _, position = _varint(data, position)
        elif wire_type in {_FIXED64, _FIXED32}:
            position += 8 if wire_type == _FIXED64 else 4
        else:
            raise UnreadableMessageError(f"wire type {wire_type} is not in use")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise UnreadableMessageError("the message ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise UnreadableMessageError("a number is longer than ten bytes")
