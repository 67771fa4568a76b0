"""Server reflection: tells tools such as grpcurl which services an address has, and what their messages are.

The protocol is grpc/grpc doc/server-reflection.md. Its version v1alpha has the same messages as v1.
"""

from collections.abc import AsyncIterator, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from protos.reflection_pb2 import (
    ErrorResponse,
    ExtensionNumberResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)
from sidecars.services.message_reader import Reader
from sidecars.transport.api.service import Bidirectional, Call, Code, Service, StatusError

if TYPE_CHECKING:  # else each process would load the messages that describe messages, 0.8 MB
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

MAX_STREAMS: Final = 20
"""Streams at once on an address; a tool needs one. Answers are a thousand times as large as questions."""

NAMES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class Files:
    """The .proto files of a descriptor set, found by their names and by what they define."""

    def __init__(self, descriptors: "FileDescriptorSet") -> None:
        self._pool = DescriptorPool()
        self._imports: dict[str, tuple[str, ...]] = {}
        self._serialized: dict[str, bytes] = {}
        for file in descriptors.file:
            self._imports[file.name] = tuple(file.dependency)
            self._serialized[file.name] = file.SerializeToString()
            self._pool.AddSerializedFile(self._serialized[file.name])

    def named(self, name: str) -> list[bytes]:
        """The file and all that it imports, the file first. Raises KeyError where there is none."""
        names = {name: None}
        waiting = [name]
        for one in waiting:
            waiting += [imported for imported in self._imports[one] if imported not in names]
            names.update(dict.fromkeys(waiting))
        return [self._serialized[one] for one in names]

    def defining(self, symbol: str) -> list[bytes]:
        """The file that defines `symbol` and all that it imports. Raises KeyError where there is none."""
        try:
            name = self._pool.FindFileContainingSymbol(symbol).name
        except KeyError:  # it knows every kind of symbol but methods
            name = self._pool.FindMethodByName(symbol).containing_service.file.name
        return self.named(name)

    def has_message(self, name: str) -> bool:
        """Whether a message has this full name."""
        try:
            self._pool.FindMessageTypeByName(name)
        except KeyError:
            return False
        return True


class Reflection:
    """Both versions of the reflection service, for an address that also serves `names`."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted((*names, *NAMES))
        self._readers: set[Reader] = set()
        self._finished = False

    @property
    def services(self) -> tuple[Service, ...]:
        """`grpc.reflection.v1.ServerReflection` and the same of v1alpha."""
        return tuple(
            Service(name, {"ServerReflectionInfo": Bidirectional(self._answer_all)}) for name in NAMES
        )

    def finish_streams(self) -> None:
        """End every stream with OK once its questions are answered; a later one ends at once."""
        self._finished = True
        for reader in self._readers:
            reader.stop()

    @cached_property
    def _files(self) -> Files:
        from protos.descriptors import read_descriptors  # the first question needs it

        return Files(read_descriptors())

    async def _answer_all(self, requests: AsyncIterator[bytes], _call: Call) -> AsyncIterator[bytes]:
        if len(self._readers) >= MAX_STREAMS:
            raise StatusError(Code.RESOURCE_EXHAUSTED, f"more than {MAX_STREAMS} reflection streams at once")
        reader = Reader(requests)
        self._readers.add(reader)
        if self._finished:
            reader.stop()
        try:
            while (request := await reader.next()) is not None:
                yield self._answer(request)
        finally:
            self._readers.discard(reader)

    def _answer(self, message: bytes) -> bytes:
        try:
            request = ServerReflectionRequest.FromString(message)
        except DecodeError as error:
            raise StatusError(Code.INVALID_ARGUMENT, "malformed ServerReflectionRequest") from error
        response = ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            self._fill(response, request)
        except KeyError:
            text = f"{request.WhichOneof('message_request')}: this server has none of that name"
            response.error_response.CopyFrom(ErrorResponse(error_code=Code.NOT_FOUND, error_message=text))
        return response.SerializeToString()

    def _fill(self, response: ServerReflectionResponse, request: ServerReflectionRequest) -> None:
        """Raises KeyError for what is not there."""
        match request.WhichOneof("message_request"):
            case "list_services":
                listed = [ServiceResponse(name=name) for name in self._names]
                response.list_services_response.CopyFrom(ListServiceResponse(service=listed))
            case "file_by_filename":
                files = self._files.named(request.file_by_filename)
                response.file_descriptor_response.CopyFrom(
                    FileDescriptorResponse(file_descriptor_proto=files)
                )
            case "file_containing_symbol":
                files = self._files.defining(request.file_containing_symbol)
                response.file_descriptor_response.CopyFrom(
                    FileDescriptorResponse(file_descriptor_proto=files)
                )
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                if not self._files.has_message(name):
                    raise KeyError(name)
                # Files in proto3 define no extensions.
                numbers = ExtensionNumberResponse(base_type_name=name)
                response.all_extension_numbers_response.CopyFrom(numbers)
            case "file_containing_extension":
                raise KeyError(request.file_containing_extension.containing_type)
            case _:
                text = "the request holds no question"
                response.error_response.CopyFrom(
                    ErrorResponse(error_code=Code.INVALID_ARGUMENT, error_message=text)
                )
