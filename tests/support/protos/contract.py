"""The wire contract of a .proto as flat text: one line for each field, enum value or method."""

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

Contract = dict[str, str]
"""Maps names such as `envoy.service.auth.v3.CheckRequest.attributes` to `1 optional message .envoy...`."""


def contract(files: Iterable[FileDescriptorProto]) -> Contract:
    """Return the contract of `files`."""
    return {name: promise for file in files for name, promise in _file(file)}


def _file(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for message in file.message_type:
        yield from _message(f"{file.package}.{message.name}", message)
    for enum in file.enum_type:
        yield from _enum(f"{file.package}.{enum.name}", enum)
    for service in file.service:
        for method in service.method:
            request = f"{'stream ' if method.client_streaming else ''}{method.input_type}"
            reply = f"{'stream ' if method.server_streaming else ''}{method.output_type}"
            yield f"{file.package}.{service.name}.{method.name}", f"({request}) returns ({reply})"


def _message(name: str, message: DescriptorProto) -> Iterator[tuple[str, str]]:
    yield name, "map entry" if message.options.map_entry else "message"
    for field in message.field:
        label = FieldDescriptorProto.Label.Name(field.label).removeprefix("LABEL_").lower()
        kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        oneof = (
            f" oneof {message.oneof_decl[field.oneof_index].name}" if field.HasField("oneof_index") else ""
        )
        yield f"{name}.{field.name}", f"{field.number} {label} {kind} {field.type_name}{oneof}"
    for nested in message.nested_type:
        yield from _message(f"{name}.{nested.name}", nested)
    for enum in message.enum_type:
        yield from _enum(f"{name}.{enum.name}", enum)


def _enum(name: str, enum: EnumDescriptorProto) -> Iterator[tuple[str, str]]:
    yield name, "enum"
    for value in enum.value:
        yield f"{name}.{value.name}", str(value.number)


def embedded_files(binary: Path, names: Iterable[str]) -> Iterator[FileDescriptorProto]:
    """Return the descriptors of `names` compiled into a C++ program. Raises LookupError if one is missing."""
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        for name in names:
            # A serialised FileDescriptorProto begins with field 1, its name.
            start = image.find(b"\x0a" + bytes([len(name)]) + name.encode())
            if start < 0:
                raise LookupError(f"{binary} holds no {name}")
            yield FileDescriptorProto.FromString(image[start : _descriptor_end(image, start)])


def _descriptor_end(image: mmap.mmap, start: int) -> int:
    """Return the end of the descriptor at `start`: protoc writes `syntax` (field 12) last."""
    position = start
    while True:
        tag, body = _varint(image, position)
        length, body = _varint(image, body)
        position = body + length
        if tag >> 3 == 12:
            return position


def _varint(image: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = image[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
