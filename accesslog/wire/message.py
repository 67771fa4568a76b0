"""A StreamAccessLogsMessage, read so that one bad entry costs that entry alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from protos.accesslog_data_pb2 import HTTPAccessLogEntry, TCPAccessLogEntry
from protos.accesslog_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from protos.lenient import parse_refused, shown
from protos.wire import WireError, fields

Identifier = StreamAccessLogsMessage.Identifier

_IDENTIFIER, _HTTP_LOGS, _TCP_LOGS = 1, 2, 3
_LOG_ENTRY: Final = 1

REPLY: Final = StreamAccessLogsResponse().SerializeToString()
"""The response to a stream: it has no fields."""


class UnreadableMessageError(Exception):
    """Bytes that cannot even be split into entries."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The content of a message: entries of one type, as bytes if the message could not be parsed."""

    origin: Mapping[str, str] | None
    """`log_name`, `node_id`, `node_cluster` and the like, those that are set; None without an identifier."""
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
    origin = _origin(message.identifier) if message.HasField("identifier") else None
    return Batch(origin, message.http_logs.log_entry, message.tcp_logs.log_entry)


def _taken_apart(data: bytes) -> Batch:
    origin = None
    http: list[bytes] = []
    tcp: list[bytes] = []
    try:
        for number, content, _ in fields(data):
            if content is None:
                continue
            if number == _IDENTIFIER:
                origin = _read_origin(content)
            elif number == _HTTP_LOGS:
                http += _log_entries(content)
            elif number == _TCP_LOGS:
                tcp += _log_entries(content)
    except WireError as error:
        raise UnreadableMessageError(str(error)) from error
    return Batch(origin, http, tcp)


def _log_entries(data: bytes) -> Iterator[bytes]:
    return (content for number, content, _ in fields(data) if number == _LOG_ENTRY and content is not None)


def _read_origin(data: bytes) -> Mapping[str, str] | None:
    try:
        return _origin(parse_refused(Identifier, data))
    except DecodeError:
        return None


def _origin(identifier: Identifier) -> Mapping[str, str]:
    node = identifier.node
    origin = {
        "log_name": identifier.log_name,
        "node_id": node.id,
        "node_cluster": node.cluster,
        "node_region": node.locality.region,
        "node_zone": node.locality.zone,
    }
    return {name: shown(value) for name, value in origin.items() if value}
