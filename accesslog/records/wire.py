"""A StreamAccessLogsMessage, read so that one bad entry costs that entry alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from protos.accesslog_data_pb2 import HTTPAccessLogEntry, TCPAccessLogEntry
from protos.accesslog_pb2 import StreamAccessLogsMessage
from protos.lenient import parse_refused
from protos.wire import WireError, fields

Identifier = StreamAccessLogsMessage.Identifier

_IDENTIFIER, _HTTP_LOGS, _TCP_LOGS = 1, 2, 3
_LOG_ENTRY = 1


class UnreadableMessageError(Exception):
    """Bytes that cannot even be split into entries."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The content of a message: entries of one type, as bytes if the message could not be parsed."""

    identifier: Identifier | None
    http: Sequence[HTTPAccessLogEntry] | Sequence[bytes] = ()
    tcp: Sequence[TCPAccessLogEntry] | Sequence[bytes] = ()


def read_message(data: bytes) -> Batch:
    """The entries in `data`. Raises UnreadableMessageError.

    A parser of protocol buffers refuses a whole message for one text that is not UTF-8, and Envoy copies
    such texts from clients: the entries are then handed on as bytes, to be read one by one.
    """
    try:
        message = StreamAccessLogsMessage.FromString(data)
    except DecodeError:
        return _taken_apart(data)
    identifier = message.identifier if message.HasField("identifier") else None
    return Batch(identifier, message.http_logs.log_entry, message.tcp_logs.log_entry)


def _taken_apart(data: bytes) -> Batch:
    identifier = None
    http: list[bytes] = []
    tcp: list[bytes] = []
    try:
        for number, content, _ in fields(data):
            if content is None:
                continue
            if number == _IDENTIFIER:
                identifier = _identifier(content)
            elif number == _HTTP_LOGS:
                http += _log_entries(content)
            elif number == _TCP_LOGS:
                tcp += _log_entries(content)
    except WireError as error:
        raise UnreadableMessageError(str(error)) from error
    return Batch(identifier, http, tcp)


def _log_entries(data: bytes) -> Iterator[bytes]:
    return (content for number, content, _ in fields(data) if number == _LOG_ENTRY and content is not None)


def _identifier(data: bytes) -> Identifier | None:
    try:
        return parse_refused(Identifier, data)
    except DecodeError:
        return None
