"""The fields of a request body, where Envoy sends it (`with_request_body`).

Whatever two readers of the body could understand differently is not read at all: a truncated body,
a JSON key that stands twice or in other letter case, a `;` in a form, a content type or encoding that
is not the one we read. A rule that allows is then not met, and a rule that denies is.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from authz.request import Request

MAX_BODY_BYTES: Final = 256 * 1024
"""A larger body is not read: it would hold up the loop for milliseconds. Envoy's `max_request_bytes`
is the operator's own limit and usually far smaller."""

MAX_FIELDS: Final = 1_000
"""Of a form."""

_PARTIAL: Final = "x-envoy-auth-partial-body"


class UnreadableBodyError(Exception):
    """The body cannot be read, or not in exactly one way. Its text says why, for operators."""


def fields_of(request: Request) -> Any:
    """What the JSON says, or a mapping of form fields to their lists of values; None: there is no body.

    Raises UnreadableBodyError.
    """
    if request.body_fields is None:
        request.body_fields = _outcome(request)
    if isinstance(request.body_fields, UnreadableBodyError):
        raise request.body_fields
    return request.body_fields[0]


def _outcome(request: Request) -> tuple[Any] | UnreadableBodyError:
    try:
        return (_fields(request),)
    except UnreadableBodyError as error:
        return error


def _fields(request: Request) -> Any:
    partial = request.header_values(_PARTIAL)
    if not partial:
        raise UnreadableBodyError("Envoy sends no bodies (with_request_body is not set)")
    # A client may send this header too: every line has to say that nothing was cut off.
    if any(value != "false" for value in partial):
        raise UnreadableBodyError("Envoy cut the body off (max_request_bytes)")
    body = request.body
    if not body:
        # A client that forges the header for an Envoy that sends no bodies says so itself.
        if any(value != "0" for value in request.header_values("content-length")):
            raise UnreadableBodyError("there is a body, and Envoy did not send it")
        return None
    if len(body) > MAX_BODY_BYTES:
        raise UnreadableBodyError(f"larger than {MAX_BODY_BYTES} bytes")
    if any(value.lower() != "identity" for value in request.header_values("content-encoding")):
        raise UnreadableBodyError("compressed")
    return _read(_media_type(request.header_values("content-type")), body)


def body_values(content: Any, parts: Sequence[str]) -> Sequence[Any]:
    """As `values_at`, for a body. Raises UnreadableBodyError where that is not all there is to know.

    Where a name is there in other letter case: some readers take `Role` for `role` (Go's encoding/json,
    for one). And where the name may be in each item of a list.
    """
    below = content
    for part in parts:
        if isinstance(below, list) and any(isinstance(item, Mapping | list) for item in below):
            raise UnreadableBodyError(f"{part} is asked for below a list")
        if not isinstance(below, Mapping):
            break
        if part not in below:
            folded = part.casefold()
            if any(name.casefold() == folded for name in below):
                raise UnreadableBodyError(f"{part} is there in other letter case")
            break
        below = below[part]
    return values_at(content, parts)


def values_at(content: Any, parts: Sequence[str]) -> Sequence[Any]:
    """The values of the field of these names; empty when it is absent, or null."""
    for part in parts:
        if not isinstance(content, Mapping) or part not in content:
            return ()
        content = content[part]
    if isinstance(content, list):
        return content
    return () if content is None else (content,)


def _media_type(lines: Sequence[str]) -> str:
    if len(lines) != 1:
        raise UnreadableBodyError("not exactly one content-type")
    kind, _, parameters = lines[0].partition(";")
    charset = parameters.replace('"', "").replace(" ", "").lower()
    if "charset" in charset and charset != "charset=utf-8":
        raise UnreadableBodyError("not in UTF-8")
    return kind.strip(" \t").lower()


def _read(media_type: str, body: bytes) -> Any:
    try:
        text = body.decode()
        if media_type == "application/x-www-form-urlencoded":
            return _form(text)
        if media_type == "application/json" or media_type.endswith("+json"):
            return json.loads(text, object_pairs_hook=_object, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise UnreadableBodyError(f"no {media_type}: {error}") from error
    raise UnreadableBodyError(f"{media_type or 'a body without a type'} is not read")


def _form(text: str) -> Mapping[str, list[str]]:
    if ";" in text:
        raise ValueError("a ; separates fields to some readers")
    fields: dict[str, list[str]] = {}
    pairs = parse_qsl(
        text, keep_blank_values=True, strict_parsing=True, max_num_fields=MAX_FIELDS, errors="strict"
    )
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two equal keys some readers take the first, others the last (RFC 8259 section 4).

    Equal to some are keys that differ in letter case only.
    """
    content = dict(pairs)
    if len(pairs) > 1 and len({key.casefold() for key in content}) < len(pairs):
        raise ValueError("a key stands twice")
    return content


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON (RFC 8259 section 6)")
