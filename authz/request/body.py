"""Reads the fields of a request body, if Envoy sends it (`with_request_body`).

A body that two readers could parse differently is not read at all: a truncated body, a duplicate JSON key
(also in other letter case), JSON declared as a form, a text with a NUL, a `;` in a form, an unsupported
content type or encoding. Conditions on it are then unknown: an allow rule does not match, a deny rule does.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from authz.request.field_names import BAD_ESCAPE, MAX_FIELDS, Meanings, fold_members, fold_name, pairs_of
from authz.request.request import Request
from common.configfile import json_place

MAX_BODY_BYTES: Final = 256 * 1024
"""A larger body is not read, because it would stall the loop for milliseconds. Envoy's `max_request_bytes` is
the operator's own limit and usually far smaller."""

_PARTIAL: Final = "x-envoy-auth-partial-body"


class UnreadableBodyError(Exception):
    """The body cannot be read, or could be read in several ways. The message is for operators."""


_MAY_BE_JSON: Final = re.compile(r"[\s\ufeff]*(?:\{|\[\s*[\[{\"]|/[/*])")
"""The beginning of JSON, also for parsers that accept a byte order mark or comments."""

_NO_TEXT: Final = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
"""JSON escapes of a NUL and of surrogates."""
_NO_TEXT_WITHIN: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000|[\ud800-\udfff]")
"""A NUL escape or half a surrogate, in JSON whose pairs of surrogates have been decoded."""


class Body:
    """The parsed content of a body."""

    __slots__ = ("_of_form", "_of_json", "content", "is_form")

    def __init__(self, content: Any, *, is_form: bool = False) -> None:
        self.content = content
        """The JSON value, or the fields of a form with their lists of values; None without a body."""
        self.is_form = is_form
        self._of_form: Meanings[tuple[str, Any]] | None = None
        self._of_json: Mapping[str, Sequence[tuple[str, Any]]] | None = None

    def fields(self, folded: str) -> Sequence[tuple[str, Any]]:
        """Return the spelling and value of fields that some upstream may read under a (folded) name.

        For JSON, this includes the members of every object, at any depth.
        """
        if self.is_form:
            if self._of_form is None:
                self._of_form = Meanings((name, (name, values)) for name, values in self.content.items())
            return self._of_form.under(folded)
        if self._of_json is None:
            self._of_json = _by_folded(self.content)
        return self._of_json.get(folded, ())


def _by_folded(content: Any) -> Mapping[str, Sequence[tuple[str, Any]]]:
    found: dict[str, list[tuple[str, Any]]] = {}
    for name, value in _members(content):
        found.setdefault(fold_name(name), []).append((name, value))
    return found


def _members(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield the members of every object in the JSON."""
    waiting = [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


_NO_BODY: Final = Body(None)


def fields_of(request: Request) -> Any:
    """Return the content of the body. Raises UnreadableBodyError."""
    return read_body(request).content


def read_body(request: Request) -> Body:
    """Return the body, which is parsed once per request. Raises UnreadableBodyError."""
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
    # A client may send this header too, so every line must say that the body is complete.
    if any(value != "false" for value in partial):
        raise UnreadableBodyError("Envoy truncated the body (max_request_bytes)")
    body = request.body
    if not body:
        # If Envoy sends no bodies, a client can forge the header, and HTTP/2 does not require a length.
        if list(request.header_values("content-length")) != ["0"]:
            raise UnreadableBodyError("there may be a body, and Envoy did not send it")
        return _NO_BODY
    if len(body) > MAX_BODY_BYTES:
        raise UnreadableBodyError(f"larger than {MAX_BODY_BYTES} bytes")
    if any(value.lower() != "identity" for value in request.header_values("content-encoding")):
        raise UnreadableBodyError("compressed")
    if request.masks_body and b"!" in body:
        raise UnreadableBodyError("Envoy shows ! for bytes that are not UTF-8 (without pack_as_bytes)")
    return _read(_media_type(request.header_values("content-type")), body)


def body_values(body: Body, parts: Sequence[str]) -> Sequence[Any]:
    """Return the values of the field of these names, like `values_at`.

    Raises UnreadableBodyError if upstreams may read other values: if the name occurs in another spelling
    (Go's encoding/json reads `Role` as `role`, and forms have `role[]`), or if it may occur in the items of a
    list.
    """
    if body.is_form:
        return _form_values(body, parts)
    below = body.content
    for part in parts:
        if isinstance(below, list) and any(isinstance(item, Mapping | list) for item in below):
            raise UnreadableBodyError(f"{part} is below a list")
        if not isinstance(below, Mapping):
            break
        if part not in below:
            folded = fold_name(part)
            if any(fold_name(name) == folded for name in below):
                raise UnreadableBodyError(f"{part} occurs in another spelling")
            break
        below = below[part]
    return values_at(body.content, parts)


def _form_values(body: Body, parts: Sequence[str]) -> Sequence[Any]:
    name = ".".join(parts)
    for other, _ in body.fields(fold_members(name)):
        if other != name or len(parts) > 1:
            raise UnreadableBodyError(f"{name} occurs in another spelling")
    values: Sequence[Any] = body.content.get(name, ())
    return values if len(parts) == 1 else ()


def is_below_list(content: Any, parts: Sequence[str]) -> bool:
    """Whether a field of these names would be inside the items of a list."""
    for part in parts:
        if isinstance(content, list):
            return any(isinstance(item, Mapping | list) for item in content)
        if not isinstance(content, Mapping):
            return False
        content = content.get(part)
    return False


def values_at(content: Any, parts: Sequence[str]) -> Sequence[Any]:
    """Return the values of the field of these names; empty if it is absent or null."""
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
            return Body(_json(text))
    except json.JSONDecodeError as error:
        place = json_place(error)
        raise UnreadableBodyError(f"not valid {media_type} from {place} on") from error
    except UnicodeDecodeError as error:
        raise UnreadableBodyError("not in UTF-8") from error
    except RecursionError as error:
        raise UnreadableBodyError(f"not valid {media_type}: it is nested too deeply") from error
    except ValueError as error:
        raise UnreadableBodyError(f"not valid {media_type}: {error}") from error
    raise UnreadableBodyError(f"{media_type or 'a body without a type'} is not read")


def _json(text: str) -> Any:
    content = json.loads(text, object_pairs_hook=_object, parse_constant=_no_json)
    # Some readers end a text at a NUL, and some drop half a surrogate.
    if _NO_TEXT.search(text) and _NO_TEXT_WITHIN.search(json.dumps(content, ensure_ascii=False)):
        raise ValueError("a text contains a NUL or half a surrogate")
    return content


def _form(text: str) -> Mapping[str, list[str]]:
    if _MAY_BE_JSON.match(text):
        # Go's json.NewDecoder and Flask's get_json(force=True), for example, ignore the content type.
        raise ValueError("it may be JSON")
    if ";" in text:
        raise ValueError("some readers treat ; as a separator of fields")
    if text.count("&") >= MAX_FIELDS:
        raise ValueError(f"more than {MAX_FIELDS} fields")
    if any(value is None for _, value in pairs_of(text)) or BAD_ESCAPE.search(text):
        raise ValueError("an escape is invalid, or a value contains a NUL")
    fields: dict[str, list[str]] = {}
    if text and not all("=" in field for field in text.split("&")):
        raise ValueError("a field has no =")
    pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object. Raises ValueError for duplicate keys, also if they differ only in letter case.

    Some readers use the first of two equal keys, others the last (RFC 8259 section 4).
    """
    content = dict(pairs)
    if len(pairs) > 1 and len({key.casefold() for key in content}) < len(pairs):
        raise ValueError("duplicate key")
    return content


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON (RFC 8259 section 6)")
