"""Envoy's dynamic metadata and filter state as JSON-able values."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.wrappers_pb2 import (
    BoolValue,
    BytesValue,
    DoubleValue,
    FloatValue,
    Int32Value,
    Int64Value,
    StringValue,
    UInt32Value,
    UInt64Value,
)

from protos.core_pb2 import Metadata
from protos.lenient import parse_refused

_AUTHZ: Final = {
    "decision_id": "authz_decision_id",
    "rule": "authz_rule",
    "policy_revision": "authz_policy_revision",
    "subject": "authz_subject",
    "outcome": "authz_outcome",
    "reason": "authz_reason",
    "credential": "authz_credential",
    "shadow_outcome": "authz_shadow_outcome",
    "shadow_rule": "authz_shadow_rule",
    # Envoy's own, on allowed requests (ext_authz.cc): whole milliseconds, so mostly 0, and left out.
    "ext_authz_duration": "",
}
_RATELIMIT: Final = {
    "domain": "ratelimit_domain",
    "outcome": "ratelimit_outcome",
    "rule": "ratelimit_rule",
    "limit": "ratelimit_limit",
    "period": "ratelimit_period",
    "remaining": "ratelimit_remaining",
    "reason": "ratelimit_reason",
    "revision": "ratelimit_revision",
    "hitsAddend": "ratelimit_hits",
    "descriptors": "ratelimit_descriptors",
    "metadata": "ratelimit_metadata",
}
JOINED: Mapping[str, Mapping[str, str]] = {
    "envoy.filters.http.ext_authz": _AUTHZ,
    "envoy.filters.network.ext_authz": _AUTHZ,
    "envoy.filters.http.ratelimit": _RATELIMIT,
    "envoy.filters.network.ratelimit": _RATELIMIT,
}
"""Namespaces whose keys become fields of the record, or are left out (empty); their other keys stay in
`metadata`."""

_PLAIN: Mapping[str, type[Message]] = {
    f"type.googleapis.com/{kind.DESCRIPTOR.full_name}": kind
    for kind in (
        BoolValue,
        BytesValue,
        DoubleValue,
        FloatValue,
        Int32Value,
        Int64Value,
        StringValue,
        Struct,
        UInt32Value,
        UInt64Value,
    )
}


_SHORT_ITEM: Final = 128
"""The length in one byte."""


class NotUtf8Error(Exception):
    """A text within an Any holds bytes that are not UTF-8, so the entry has to be read leniently."""


def add_metadata(record: dict[str, Any], metadata: Metadata) -> None:
    """Add to `record` the joined fields of `metadata`, and the rest as the map `metadata`."""
    rest: dict[str, Any] = {}
    namespaces = metadata.filter_metadata
    for namespace in sorted(namespaces):
        names = JOINED.get(namespace)
        fields = namespaces[namespace].fields
        others: dict[str, Any] = {}
        for key in sorted(fields):
            value = fields[key]
            # Nearly every value is text: testing that first saves finding out which of six kinds it is.
            plain = value.string_value or plain_value(value)
            name = names.get(key) if names else None
            if name is None:
                others[key] = plain
            elif name:
                record[name] = plain
        if others:
            rest[namespace] = others
    typed = metadata.typed_filter_metadata
    for namespace in sorted(typed):
        rest.setdefault(namespace, plain_any(typed[namespace]))
    if rest:
        record["metadata"] = {namespace: rest[namespace] for namespace in sorted(rest)}


def other_metadata(data: bytes) -> dict[str, Any]:
    """The map `metadata` alone of a Metadata. Raises DecodeError and NotUtf8Error."""
    record: dict[str, Any] = {}
    add_metadata(record, Metadata.FromString(data))
    return {"metadata": record["metadata"]} if "metadata" in record else {}


def struct_item(data: bytes) -> tuple[str, Any]:
    """The key and the value of an item of a Struct. Raises DecodeError, or ValueError for bad UTF-8."""
    size = len(data)
    if size < _SHORT_ITEM and data[:1] == b"\x0a":
        # A short text, as nearly all are: the key, and within the value a text that fills it.
        at = 2 + data[1]
        head = bytes((0x12, size - at - 2, 0x1A, size - at - 4)) if 2 <= at <= size - 4 else b"-"
        if data.startswith(head, at):
            return data[2:at].decode(), data[at + 4 :].decode()
    item = Struct.FieldsEntry.FromString(data)
    return item.key, item.value.string_value or plain_value(item.value)


def plain_value(value: Value) -> Any:
    """A google.protobuf.Value as JSON has it; a number without a fraction as an integer."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        # Beyond 2**53 a double is inexact (RFC 8259 section 6); inf and nan are not integers.
        return int(number) if number.is_integer() and abs(number) <= 2**53 else number
    if kind == "string_value":
        return value.string_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return plain_struct(value.struct_value)
    if kind == "list_value":
        return plain_list(value.list_value)
    return None


def plain_struct(struct: Struct) -> dict[str, Any]:
    """A Struct as a dictionary. Its depth is bounded by the parser's limit of 100."""
    fields = struct.fields
    return {key: plain_value(fields[key]) for key in sorted(fields)}


def plain_list(values: ListValue) -> list[Any]:
    """A ListValue as a list."""
    return [plain_value(value) for value in values.values]


def plain_any(value: AnyMessage) -> Any:
    """The value of a wrapper or Struct; any other type as `{"@type": ..., "base64": ...}`.

    Raises NotUtf8Error where a text in it is not UTF-8.
    """
    kind = _PLAIN.get(value.type_url)
    if kind is not None:
        try:
            content: Any = kind.FromString(value.value)
        except DecodeError:
            _refuse_not_utf8(kind, value.value)
        else:
            if kind is Struct:
                return plain_struct(content)
            inner = content.value
            return b64encode(inner).decode() if isinstance(inner, bytes) else inner
    return {"@type": value.type_url, "base64": b64encode(value.value).decode()}


def _refuse_not_utf8(kind: type[Message], data: bytes) -> None:
    try:
        parse_refused(kind, data)
    except DecodeError:
        return
    raise NotUtf8Error
