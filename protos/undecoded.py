"""Types of messages in which some fields are left as bytes: parts that few readers need are not decoded.

A submessage and bytes look the same on the wire (protobuf.dev, "Encoding"), so such a type reads and writes
the same messages. It is made from the generated one, so that a field has one definition. Where a field comes
twice, its bytes are those of the last: only a parser of submessages merges the two, and no encoder sends two.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass


def undecoded(kind: Any, fields: AbstractSet[str]) -> Any:
    """Return the message type `kind`, in which the submessages in `fields` (full names) are bytes."""
    pool = DescriptorPool()
    _add(pool, kind.DESCRIPTOR.file, fields, set())
    return GetMessageClass(pool.FindMessageTypeByName(kind.DESCRIPTOR.full_name))


def _add(pool: DescriptorPool, file: FileDescriptor, fields: AbstractSet[str], known: set[str]) -> None:
    """Add `file` to the pool, after the files that it imports."""
    if file.name in known:
        return
    known.add(file.name)
    for imported in file.dependencies:
        _add(pool, imported, fields, known)
    copy = FileDescriptorProto()
    file.CopyToProto(copy)
    _leave_bytes(copy.message_type, copy.package, fields)
    pool.Add(copy)


def _leave_bytes(messages: Iterable[DescriptorProto], parent: str, fields: AbstractSet[str]) -> None:
    for message in messages:
        name = f"{parent}.{message.name}"
        _leave_bytes(message.nested_type, name, fields)
        for field in message.field:
            if f"{name}.{field.name}" in fields:
                field.type = FieldDescriptorProto.TYPE_BYTES
                field.ClearField("type_name")
