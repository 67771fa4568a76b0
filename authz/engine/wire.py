"""Builds the parts of Envoy's messages that all responses share."""

from collections.abc import Mapping

from google.protobuf.wrappers_pb2 import BoolValue

from protos.authz_pb2 import DeniedHttpResponse
from protos.core_pb2 import HeaderValue, HeaderValueOption
from protos.types_pb2 import HttpStatus, StatusCode


def overwriting(name: str, value: str) -> HeaderValueOption:
    """Return a header that replaces every header of the same name.

    It sets both fields: `append` is deprecated, but Envoy 1.37 reads its absence as "append"
    (envoyproxy/envoy#43310), and versions before 1.25 do not know `append_action`.
    """
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append=BoolValue(value=False),
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def appending(name: str, value: str) -> HeaderValueOption:
    """Return a header that is added to those of the same name, such as Vary. Envoy ignores it in denials."""
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append=BoolValue(value=True),
        append_action=HeaderValueOption.APPEND_IF_EXISTS_OR_ADD,
    )


def denied(status: int, headers: Mapping[str, str], body: str) -> DeniedHttpResponse:
    """Return a response that Envoy sends to the client."""
    return DeniedHttpResponse(
        status=HttpStatus(code=StatusCode.Name(status)),
        headers=[overwriting(name, value) for name, value in headers.items()],
        body=body,
    )
