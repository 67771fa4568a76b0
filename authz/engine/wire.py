"""Pieces of Envoy's messages that every answer is made of."""

from collections.abc import Mapping

from google.protobuf.wrappers_pb2 import BoolValue

from protos.authz_pb2 import DeniedHttpResponse
from protos.core_pb2 import HeaderValue, HeaderValueOption
from protos.types_pb2 import HttpStatus, StatusCode


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
    """A header next to others of its name, such as Vary. Not for denials: Envoy leaves it out there."""
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append=BoolValue(value=True),
        append_action=HeaderValueOption.APPEND_IF_EXISTS_OR_ADD,
    )


def denied(status: int, headers: Mapping[str, str], body: str) -> DeniedHttpResponse:
    """An answer for the client."""
    return DeniedHttpResponse(
        status=HttpStatus(code=StatusCode.Name(status)),
        headers=[overwriting(name, value) for name, value in headers.items()],
        body=body,
    )
