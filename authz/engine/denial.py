"""Builds the denied response: status, WWW-Authenticate challenge, and a body in the negotiated format."""

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from html import escape
from http import HTTPStatus
from typing import Final

import orjson

from authz.engine.cors import Script, origin_of
from authz.engine.decide import Decision
from authz.policy.rule import Cors, Outcome, Verdict
from authz.request.request import Request
from authz.wire import DeniedHttpResponse, HeaderValueOption, appending, denied, overwriting

RETRY_AFTER_SECONDS: Final = {503: 1, 429: 10}
"""Default seconds of Retry-After by status. Outages of key servers and stores pass within seconds."""

MAX_ACCEPT_CHARACTERS: Final = 1_024
"""A longer Accept header is ignored. Browsers send about 150 characters."""

_DETAILS: Final = {
    "credentials_missing": "This resource needs a credential.",
    "credentials_insufficient": "The credential does not give access to this resource.",
    "token_expired": "The token has expired.",
    "session_expired": "The session has expired.",
}
"""The text that clients see for a reason. All other reasons use the text of their status."""
_DETAILS_BY_STATUS: Final = {
    400: "The request could be understood in more than one way.",
    401: "The credential was not accepted.",
    403: "Access to this resource is not allowed.",
    429: "Too many refused credentials. Try again later.",
    503: "Access could not be decided. Try again later.",
}
_GRPC_STATUS: Final = {400: 3, 401: 16, 403: 7, 404: 5, 409: 10, 429: 8, 503: 14}
"""gRPC status by HTTP status. Envoy would send INTERNAL for 400 and UNAVAILABLE for 429, which clients retry
at once (envoyproxy/envoy#11079; grpc/doc/http-grpc-status-mapping.md)."""
_PERMISSION_DENIED: Final = 7


class BodyFormat(StrEnum):
    """The format of a denial's body."""

    PROBLEM = "problem"
    """Problem details (RFC 9457)."""
    HTML = "html"
    TEXT = "text"
    GRPC = "grpc"


_CONTENT_TYPES: Final = {
    BodyFormat.PROBLEM: "application/problem+json",
    BodyFormat.HTML: "text/html; charset=utf-8",
    BodyFormat.TEXT: "text/plain; charset=utf-8",
}
_OFFERS: Final = (
    (BodyFormat.PROBLEM, ("application/problem+json", "application/json")),
    (BodyFormat.HTML, ("text/html",)),
    (BodyFormat.TEXT, ("text/plain",)),
)
"""The media types of each format; among equally preferred formats the first wins."""


def form_of(request: Request | None) -> BodyFormat:
    """Return the format for the client: gRPC by content type, else by Accept (RFC 9110 section 12.5.1)."""
    if request is None:
        return BodyFormat.PROBLEM
    kinds = request.header_values("content-type")
    if kinds and kinds[0].lower().startswith("application/grpc"):
        return BodyFormat.GRPC
    accept = request.header_values("accept")
    if not accept:
        return BodyFormat.PROBLEM
    wanted = ",".join(accept)
    return _negotiated(wanted) if len(wanted) <= MAX_ACCEPT_CHARACTERS else BodyFormat.PROBLEM


@lru_cache(maxsize=1_024)
def _negotiated(accept: str) -> BodyFormat:
    ranges: dict[str, float] = {}
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip(" \t") for piece in part.split(";"))
        weight = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        try:
            ranges[kind] = float(weight)
        except ValueError:
            continue
    weights = {form: max(_weight(ranges, kind) for kind in kinds) for form, kinds in _OFFERS}
    # If nothing matches, another format is better than no body (RFC 9110 section 15.5.7).
    return max(weights, key=lambda form: weights[form])


def _weight(ranges: Mapping[str, float], kind: str) -> float:
    """Return the weight of the most specific media range that matches `kind`."""
    for found in (kind, kind.partition("/")[0] + "/*", "*/*"):
        if found in ranges:
            return ranges[found]
    return 0.0


def denial(decision: Decision, form: BodyFormat) -> DeniedHttpResponse:
    """Return the denied response in this format, with a challenge if a credential would help."""
    verdict = decision.verdict
    headers: dict[str, str] = {}
    if form is not BodyFormat.GRPC:
        headers |= {"content-type": _CONTENT_TYPES[form], "cache-control": "no-store", "vary": "accept"}
    challenge = _challenge(verdict)
    if challenge:
        headers["www-authenticate"] = challenge
    if verdict.status in RETRY_AFTER_SECONDS:
        headers["retry-after"] = str(verdict.retry_after_seconds or RETRY_AFTER_SECONDS[verdict.status])
    if form is BodyFormat.HTML:
        headers["content-security-policy"] = "default-src 'none'"
    if form is BodyFormat.GRPC:
        # Envoy turns it into 200 with a grpc-message; our own content type would break the response.
        headers["grpc-status"] = str(_GRPC_STATUS.get(verdict.status, _PERMISSION_DENIED))
    return denied(verdict.status, headers, _body(decision, form))


def preflight_answer(decision: Decision) -> DeniedHttpResponse:
    """Return the response to a CORS preflight."""
    cors, request = decision.verdict.mutations.cors, decision.request
    origin = origin_of(request, cors)
    assert cors is not None and request is not None and origin is not None  # noqa: PT018, S101 - why it is one
    headers = script_headers(cors, origin) | {
        "access-control-allow-methods": request.header_values("access-control-request-method")[0],
        "access-control-allow-headers": cors.allow_headers,
        "access-control-max-age": str(cors.max_age_seconds),
        "vary": "origin, access-control-request-method",
    }
    headers.pop("access-control-expose-headers", None)
    return denied(decision.verdict.status, headers, "")


def for_script(script: Script) -> list[HeaderValueOption]:
    """Return the headers that let a script read the response or the denial, except `vary`."""
    return [overwriting(*pair) for pair in script_headers(script.cors, script.origin).items()]


def varying(*, denied: bool = False) -> HeaderValueOption:
    """Return the `vary` header that keeps caches from serving one origin the response for another."""
    # A denial has `vary: accept` already.
    return (overwriting if denied else appending)("vary", "origin")


def script_headers(cors: Cors, origin: str) -> dict[str, str]:
    """Return the headers that let a script of this origin read the response."""
    headers = {"access-control-allow-origin": origin}
    if cors.credentials:
        headers["access-control-allow-credentials"] = "true"
    if cors.expose_headers:
        headers["access-control-expose-headers"] = cors.expose_headers
    return headers


def _body(decision: Decision, form: BodyFormat) -> str:
    verdict = decision.verdict
    title = HTTPStatus(verdict.status).phrase
    detail = verdict.detail or _DETAILS.get(verdict.reason) or _DETAILS_BY_STATUS.get(verdict.status, title)
    match form:
        case BodyFormat.GRPC:
            return detail
        case BodyFormat.TEXT:
            return f"{verdict.status} {title}\n{detail}\nDecision {decision.id}\n"
        case BodyFormat.HTML:
            return (
                f"<!doctype html><html lang=en><meta charset=utf-8><title>{verdict.status} {title}</title>"
                f"<h1>{title}</h1><p>{escape(detail)}<p><small>Decision {decision.id}</small></html>\n"
            )
        case BodyFormat.PROBLEM:
            problem = {
                "type": "about:blank",
                "title": title,
                "status": verdict.status,
                "detail": detail,
                "decision_id": decision.id,
            }
            return orjson.dumps(problem).decode()


def _challenge(verdict: Verdict) -> str:
    """Return the value of WWW-Authenticate (RFC 6750 section 3); empty if no credential would help.

    If the request had no credential, the challenge has no error code (section 3.1).
    """
    parameters = {}
    if verdict.reason == "credentials_insufficient":
        parameters["error"] = "insufficient_scope"
    elif verdict.status == 401 and verdict.reason != "credentials_missing":
        parameters["error"] = "invalid_token"
        parameters["error_description"] = _DETAILS.get(verdict.reason, _DETAILS_BY_STATUS[401])
    elif verdict.status != 401 or verdict.outcome is Outcome.ERROR:
        return ""
    if verdict.scope:
        parameters["scope"] = verdict.scope
    quoted = ", ".join(f'{name}="{value}"' for name, value in parameters.items())
    return f"Bearer {quoted}".rstrip()
