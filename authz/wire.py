"""Pieces of Envoy's messages that every answer is made of."""

from google.protobuf.wrappers_pb2 import BoolValue

from protos.core_pb2 import HeaderValue, HeaderValueOption


def overwriting(name: str, value: str) -> HeaderValueOption:
    """A header that takes the place of every other of its name.

    `append` is deprecated, but Envoy 1.37 reads its absence as "append" (envoyproxy/envoy#43310) and
    versions before 1.25 know no `append_action`: only both together mean the same everywhere.
    """
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append=BoolValue(value=False),
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def appending(name: str, value: str) -> HeaderValueOption:
    """A header beside every other of its name: for lists that the upstream adds to, such as Vary."""
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append=BoolValue(value=True),
        append_action=HeaderValueOption.APPEND_IF_EXISTS_OR_ADD,
    )
