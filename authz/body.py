"""The fields of a request body, where Envoy sends it (`with_request_body`).

Whatever two readers of the body could understand differently is not read at all: a truncated body,
a JSON key that stands twice or in other letter case, a `;` in a form, a content type or encoding that
is not the one we read. A rule that allows is then not met, and a rule that denies is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from authz.field_names import BAD_ESCAPE, MAX_FIELDS, WantedNames, fold_name, pairs_of
from authz.request import Request

MAX_BODY_BYTES: Final = 256 * 1024
"""A larger body is not read: it would hold up the loop for milliseconds. Envoy's `max_request_bytes`
is the operator's own limit and usually far smaller."""

_PARTIAL: Final = "x-envoy-auth-partial-body"


class UnreadableBodyError(Exception):
    """The body cannot be read, or not in exactly one way. Its text says why, for operators."""


@dataclass(frozen=True, slots=True)
class Body:
    """What was read of a body."""

    content: Any
    """What the JSON says, or a mapping of form fields to their lists of values; None: there is no body."""
    is_form: bool = False


_NO_BODY: Final = Body(None)


def fields_of(request: Request) -> Any:
    """The content of the body. Raises UnreadableBodyError."""
    return read_body(request).content


def read_body(request: Request) -> Body:
    """The body, read once for each request. Raises UnreadableBodyError."""
    if request.body_fields is None:
        try:
            request.body_fields = _body(request)
        except UnreadableBodyError as error:
            request.body_fields = error
    if isinstance(request.body_fields, UnreadableBodyError):
        raise request.body_fields
    found: Body = request.body_fields
    return found


def _body(request: Request) -> Body:
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
        return _NO_BODY
    if len(body) > MAX_BODY_BYTES:
        raise UnreadableBodyError(f"larger than {MAX_BODY_BYTES} bytes")
    if any(value.lower() != "identity" for value in request.header_values("content-encoding")):
        raise UnreadableBodyError("compressed")
    if request.masks_body and b"!" in body:
        raise UnreadableBodyError("Envoy shows ! for bytes that are not UTF-8 (without pack_as_bytes)")
    return _read(_media_type(request.header_values("content-type")), body)


def body_values(body: Body, parts: Sequence[str]) -> Sequence[Any]:
    """As `values_at`, for a body. Raises UnreadableBodyError where that is not all there is to know.

    Where a name is there in another spelling: some readers take `Role` for `role` (Go's encoding/json, for
    one), and `role[]` in a form. And where the name may be in each item of a list.
    """
    if body.is_form:
        return _form_values(body.content, parts)
    below = body.content
    for part in parts:
        if isinstance(below, list) and any(isinstance(item, Mapping | list) for item in below):
            raise UnreadableBodyError(f"{part} is asked for below a list")
        if not isinstance(below, Mapping):
            break
        if part not in below:
            folded = fold_name(part)
            if any(fold_name(name) == folded for name in below):
                raise UnreadableBodyError(f"{part} is there in another spelling")
            break
        below = below[part]
    return values_at(body.content, parts)


def _form_values(fields: Mapping[str, list[str]], parts: Sequence[str]) -> Sequence[Any]:
    name = ".".join(parts)
    wanted = WantedNames((name,))
    for other in fields:
        if (other != name or len(parts) > 1) and wanted.mean(other):
            raise UnreadableBodyError(f"{name} is there in another spelling")
    return fields.get(name, ()) if len(parts) == 1 else ()


def is_below_list(content: Any, parts: Sequence[str]) -> bool:
    """Whether a field of these names would be in the items of a list."""
    for part in parts:
        if isinstance(content, list):
            return any(isinstance(item, Mapping | list) for item in content)
        if not isinstance(content, Mapping):
            return False
        content = content.get(part)
    return False


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


def _read(media_type: str, body: bytes) -> Body:
    try:
        text = body.decode()
        if media_type == "application/x-www-form-urlencoded":
            return Body(_form(text), is_form=True)
        if media_type == "application/json" or media_type.endswith("+json"):
            return Body(json.loads(text, object_pairs_hook=_object, parse_constant=_no_json))
    except (ValueError, RecursionError) as error:
        raise UnreadableBodyError(f"no {media_type}: {error}") from error
    raise UnreadableBodyError(f"{media_type or 'a body without a type'} is not read")


def _form(text: str) -> Mapping[str, list[str]]:
    if ";" in text:
        raise ValueError("a ; separates fields to some readers")
    if text.count("&") >= MAX_FIELDS:
        raise ValueError(f"more than {MAX_FIELDS} fields")
    if any(value is None for _, value in pairs_of(text)) or BAD_ESCAPE.search(text):
        raise ValueError("an escape is none, or a value has a NUL")
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
