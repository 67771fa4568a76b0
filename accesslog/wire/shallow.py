"""Messages as Envoy sends them, with their texts and inner messages left as bytes.

Reading a field of such a message is one call in C, and no text is checked or copied that is not needed. The
types are made from those in `protos`, so a field has one definition.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from protos.accesslog_data_pb2 import HTTPAccessLogEntry, TCPAccessLogEntry
from protos.accesslog_pb2 import StreamAccessLogsMessage

PROPERTIES: Final = frozenset({"common_properties", "request", "response", "connection_properties"})
"""The inner messages of an entry that are messages here, too."""

TIMES: Final = frozenset({"Duration", "Timestamp"})
"""Types that are messages here, wherever they are: of numbers alone."""

_LABELS: Final = {True: FieldDescriptorProto.LABEL_REPEATED, False: FieldDescriptorProto.LABEL_OPTIONAL}
_BYTES: Final = FieldDescriptorProto.TYPE_BYTES
_TYPES: Final[Mapping[int, Any]] = {
    FieldDescriptor.TYPE_STRING: _BYTES,
    FieldDescriptor.TYPE_MESSAGE: _BYTES,
    FieldDescriptor.TYPE_ENUM: FieldDescriptorProto.TYPE_INT32,
}


def shallow(kind: Any, kept: AbstractSet[str] = frozenset()) -> Any:
    """The type `kind` with bytes for its texts and for its inner messages, those named `kept` aside."""
    # In proto2 a part that is empty can be told from one that is not there.
    file = FileDescriptorProto(name=kind.DESCRIPTOR.full_name, syntax="proto2", package="shallow")
    _add(file, kind.DESCRIPTOR, kept)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"shallow.{kind.DESCRIPTOR.name}"))


def _add(file: FileDescriptorProto, descriptor: Descriptor, kept: AbstractSet[str]) -> None:
    message = file.message_type.add(name=descriptor.name)
    for field in descriptor.fields:
        label = _LABELS[field.is_repeated]
        copy = message.field.add(name=field.name, number=field.number, label=label)
        if field.message_type is not None and (field.name in kept or field.message_type.name in TIMES):
            copy.type = FieldDescriptorProto.TYPE_MESSAGE
            copy.type_name = f".shallow.{field.message_type.name}"
            if field.message_type.name not in {inner.name for inner in file.message_type}:
                _add(file, field.message_type, kept)
        else:
            copy.type = _TYPES.get(field.type, cast("Any", field.type))


MESSAGE: Final = shallow(StreamAccessLogsMessage, frozenset({"http_logs", "tcp_logs"}))
"""The type of a whole message, with bytes for each entry."""

ENTRIES: Final[Mapping[str, Any]] = {
    "http": shallow(HTTPAccessLogEntry, PROPERTIES),
    "tcp": shallow(TCPAccessLogEntry, PROPERTIES),
}
"""The types of entries by the type in their records."""
