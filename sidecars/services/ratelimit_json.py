"""RateLimitRequest and RateLimitResponse as JSON over HTTP, as envoyproxy/ratelimit's `/json` has them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from sidecars.admin.routes import AdminAnswer, AdminRequest
from sidecars.transport.api.service import StatusError, UnaryHandler

_STATUS: Final = {RateLimitResponse.OK: 200, RateLimitResponse.OVER_LIMIT: 429}
_BAD_REQUEST: Final = AdminAnswer(400, b"Bad Request\n", "text/plain")


@dataclass(frozen=True, slots=True)
class _HttpCall:
    """A call without a deadline."""

    method: str = "/json"
    peer: str = "http:"
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    deadline: float | None = None
    cancelled: bool = False


_CALL: Final = _HttpCall()


async def answer_json(handler: UnaryHandler, request: AdminRequest) -> AdminAnswer:
    """The answer of `handler` to a RateLimitRequest in protobuf's JSON.

    429 where the request is refused; 400 for what is not a RateLimitRequest, and for what gRPC answers with
    an error.
    """
    from google.protobuf.json_format import MessageToJson, Parse, ParseError  # few processes serve `/json`

    try:
        message = Parse(request.body, RateLimitRequest(), max_recursion_depth=16).SerializeToString()
    except (ParseError, ValueError, RecursionError):
        return _BAD_REQUEST
    try:
        reply = handler(message, _CALL)
        encoded = reply if isinstance(reply, bytes) else await reply
    except StatusError:
        return _BAD_REQUEST
    response = RateLimitResponse.FromString(encoded)
    body = MessageToJson(response, indent=None)
    return AdminAnswer(_STATUS.get(response.overall_code, 500), body.encode())
