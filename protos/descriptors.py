"""The descriptors of every .proto in this folder and of those they import, as one file of the package."""

from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet

PROTOSET: Final = "edge-sidecars.protoset"
"""A serialized google.protobuf.FileDescriptorSet with imports and comments: for `grpcurl -protoset`."""


def protoset_path() -> Path:
    """The path of the descriptor set."""
    return Path(__file__).with_name(PROTOSET)


def read_descriptors() -> FileDescriptorSet:
    """The files of the descriptor set, each after those it imports. Raises OSError if it is missing."""
    return FileDescriptorSet.FromString(protoset_path().read_bytes())
