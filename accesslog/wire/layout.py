"""Which field of an entry becomes which field of its record: the tables of `accesslog.records.lines`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import UInt32Value

from accesslog.wire.metadata import NotUtf8Error, plain_any
from accesslog.wire.names import LOG_TYPES, METHODS, PROTOCOLS, flag_codes
from accesslog.wire.record import Record, add_address, add_tags, add_tls
from protos.accesslog_data_pb2 import (
    AccessLogCommon,
    HTTPRequestProperties,
    HTTPResponseProperties,
    ResponseFlags,
    TLSProperties,
)
from protos.core_pb2 import Address

READ_ERRORS: Final = (DecodeError, NotUtf8Error)
"""What readers raise for a content that protobuf refuses, or that has to be read leniently."""


class Kind(Enum):
    """How a field is written into the line."""

    REPEATING = auto()
    """Most entries have one of a few contents, whose rendering is remembered."""
    COUNT = auto()
    MICROSECONDS = auto()
    START_TIME = auto()
    ID = auto()
    """Mostly a UUID that Envoy made."""
    TARGET = auto()
    """A path with its query."""
    MAP = auto()
    METADATA = auto()


@dataclass(frozen=True, slots=True)
class Part:
    """A field of an entry."""

    kind: Kind
    field: str
    """The field of the record; the first one, where there are several."""
    read: Callable[[Any], Record]
    """The fields of the record for a number or the bytes of a content; for a map, those of one item."""


def _text(field: str, kind: Kind = Kind.REPEATING) -> Part:
    return Part(kind, field, lambda content: {field: content.decode()} if content else {})


def _number(field: str, kind: Kind = Kind.COUNT) -> Part:
    return Part(kind, field, lambda number: {field: number} if number else {})


def _enum(field: str, names: Mapping[Any, str]) -> Part:
    def read(number: int) -> Record:
        return {field: names.get(number) or str(number)} if number else {}

    return Part(Kind.REPEATING, field, read)


def _microseconds(field: str) -> Part:
    return Part(Kind.MICROSECONDS, field, dict)


def _address(field: str, first: str = "") -> Part:
    def read(content: bytes) -> Record:
        record: Record = {}
        add_address(record, field, Address.FromString(content))
        return record

    return Part(Kind.REPEATING, first or field, read)


def _code(content: bytes) -> Record:
    return {"code": UInt32Value.FromString(content).value}


def _port(content: bytes) -> Record:
    port = UInt32Value.FromString(content).value
    return {"port": port} if port else {}


def _flags(content: bytes) -> Record:
    flags = ResponseFlags.FromString(content).SerializeToString()
    return {"response_flags": flag_codes(flags)} if flags else {}


def _tls(content: bytes) -> Record:
    record: Record = {}
    add_tls(record, TLSProperties.FromString(content))
    return record


def _map(field: str, item: Any) -> Part:
    def read(content: bytes) -> Record:
        parsed = item.FromString(content)
        return {field: {parsed.key: parsed.value}}

    return Part(Kind.MAP, field, read)


def _tag(content: bytes) -> Record:
    record: Record = {}
    item = AccessLogCommon.CustomTagsEntry.FromString(content)
    add_tags(record, {item.key: item.value})
    return record


def _filter_state(content: bytes) -> Record:
    item = AccessLogCommon.FilterStateObjectsEntry.FromString(content)
    return {"filter_state": {item.key: plain_any(item.value)}}


COMMON: Final[Mapping[int, Part]] = {
    1: _number("envoy_sample_rate", Kind.REPEATING),
    2: _address("downstream_remote_address", first="client_ip"),
    3: _address("downstream_local_address"),
    4: Part(Kind.REPEATING, "tls_version", _tls),
    5: Part(Kind.START_TIME, "time", dict),
    6: _microseconds("time_to_last_rx_byte_us"),
    7: _microseconds("time_to_first_upstream_tx_byte_us"),
    8: _microseconds("time_to_last_upstream_tx_byte_us"),
    9: _microseconds("time_to_first_upstream_rx_byte_us"),
    10: _microseconds("time_to_last_upstream_rx_byte_us"),
    11: _microseconds("time_to_first_downstream_tx_byte_us"),
    12: _microseconds("time_to_last_downstream_tx_byte_us"),
    13: _address("upstream_remote_address"),
    14: _address("upstream_local_address"),
    15: _text("cluster"),
    16: Part(Kind.REPEATING, "response_flags", _flags),
    17: Part(Kind.METADATA, "metadata", dict),
    18: _text("upstream_transport_failure_reason"),
    19: _text("route"),
    20: _address("downstream_direct_remote_address"),
    21: Part(Kind.MAP, "filter_state", _filter_state),
    22: Part(Kind.MAP, "tags", _tag),
    23: _microseconds("duration_us"),
    24: _number("upstream_attempts"),
    25: _text("connection_termination_details"),
    26: _text("stream_id", Kind.ID),
    27: _number("intermediate", Kind.REPEATING),
    28: _text("downstream_transport_failure_reason"),
    29: _number("downstream_wire_bytes_sent"),
    30: _number("downstream_wire_bytes_received"),
    31: _number("upstream_wire_bytes_sent"),
    32: _number("upstream_wire_bytes_received"),
    33: _enum("access_log_type", LOG_TYPES),
}
"""AccessLogCommon by field number."""

REQUEST: Final[Mapping[int, Part]] = {
    1: _enum("method", METHODS),
    2: _text("scheme"),
    3: _text("authority"),
    4: Part(Kind.REPEATING, "port", _port),
    5: _text("path", Kind.TARGET),
    6: _text("user_agent"),
    7: _text("referer"),
    8: _text("forwarded_for"),
    9: _text("request_id", Kind.ID),
    10: _text("original_path", Kind.TARGET),
    11: _number("request_headers_bytes"),
    12: _number("request_body_bytes"),
    13: _map("request_headers", HTTPRequestProperties.RequestHeadersEntry),
    14: _number("upstream_header_bytes_sent"),
    15: _number("downstream_header_bytes_received"),
}
"""HTTPRequestProperties by field number."""

RESPONSE: Final[Mapping[int, Part]] = {
    1: Part(Kind.REPEATING, "code", _code),
    2: _number("response_headers_bytes"),
    3: _number("response_body_bytes"),
    4: _map("response_headers", HTTPResponseProperties.ResponseHeadersEntry),
    5: _map("response_trailers", HTTPResponseProperties.ResponseTrailersEntry),
    6: _text("code_details"),
    7: _number("upstream_header_bytes_received"),
    8: _number("downstream_header_bytes_sent"),
}
"""HTTPResponseProperties by field number."""

CONNECTION: Final[Mapping[int, Part]] = {1: _number("received_bytes"), 2: _number("sent_bytes")}
"""ConnectionProperties by field number."""

PROTOCOL: Final = _enum("protocol", PROTOCOLS)

PARTS: Final[Mapping[str, Mapping[str, Mapping[int, Part]]]] = {
    "http": {"": {2: PROTOCOL}, "common_properties": COMMON, "request": REQUEST, "response": RESPONSE},
    "tcp": {"common_properties": COMMON, "connection_properties": CONNECTION},
}
"""The fields of an entry by its type, the inner message they are in, and their number."""
