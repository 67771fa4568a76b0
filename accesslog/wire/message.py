"""A StreamAccessLogsMessage, read so that one bad entry costs that entry alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from accesslog.wire.shallow import MESSAGE
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
    """The content of a message: the bytes of its entries, which are all of one type."""

    origin: Mapping[str, str] | None
    """`log_name`, `node_id`, `node_cluster` and the like, those that are set; None without an identifier."""
    http: Sequence[bytes] = ()
    tcp: Sequence[bytes] = ()


def read_message(data: bytes) -> Batch:
    """The entries in `data`. Raises UnreadableMessageError."""
    try:
        message = MESSAGE.FromString(data)
    except DecodeError:
        return _taken_apart(data)
    if message.HasField("identifier"):
        return _taken_apart(data)  # with the identifier, once in each stream
    return Batch(None, tuple(message.http_logs.log_entry), tuple(message.tcp_logs.log_entry))


def _taken_apart(data: bytes) -> Batch:
    identifier = None
    http: list[bytes] = []
    tcp: list[bytes] = []
    try:
        for number, content, _ in fields(data):
            if content is None:
                continue
            if number == _IDENTIFIER:
                # One after the other, as protobuf merges messages.
                identifier = (identifier or b"") + content
            elif number == _HTTP_LOGS:
                http += _log_entries(content)
            elif number == _TCP_LOGS:
                tcp += _log_entries(content)
    except WireError as error:
        raise UnreadableMessageError(str(error)) from error
    return Batch(None if identifier is None else _read_origin(identifier), http, tcp)


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
