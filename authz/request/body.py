"""The fields of a request body, where Envoy sends it (`with_request_body`).

Whatever two readers of the body could understand differently is not read at all: a truncated body,
a JSON key that stands twice or in other letter case, JSON that calls itself a form, a text with a NUL,
a `;` in a form, a content type or encoding that is not the one we read. A rule that allows is then not
met, and a rule that denies is.
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
"""A larger body is not read: it would hold up the loop for milliseconds. Envoy's `max_request_bytes`
is the operator's own limit and usually far smaller."""

_PARTIAL: Final = "x-envoy-auth-partial-body"


class UnreadableBodyError(Exception):
    """The body cannot be read, or not in exactly one way. Its text says why, for operators."""


_MAY_BE_JSON: Final = re.compile(r"[\s\ufeff]*(?:\{|\[\s*[\[{\"]|/[/*])")
"""How JSON begins, for parsers that take a byte order mark or comments, too."""

_NO_TEXT: Final = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
"""Escapes of a NUL and of surrogates."""
_NO_TEXT_WITHIN: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000|[\ud800-\udfff]")
"""The same once each whole pair of surrogates is a character."""


class Body:
    """The content that was read of a body."""

    __slots__ = ("_of_form", "_of_json", "content", "is_form")

    def __init__(self, content: Any, *, is_form: bool = False) -> None:
        self.content = content
        """What the JSON says, or the fields of a form with their lists of values; None: there is no body."""
        self.is_form = is_form
        self._of_form: Meanings[tuple[str, Any]] | None = None
        self._of_json: Mapping[str, Sequence[tuple[str, Any]]] | None = None

    def fields(self, folded: str) -> Sequence[tuple[str, Any]]:
        """The fields that some upstream may read under a name, given in its folded form: spelling and value.

        Of JSON they are those of every object, at any depth.
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
    """The fields of every object within the JSON."""
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
        # For an Envoy that sends no bodies a client may forge the header, and HTTP/2 asks for no length.
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
    """As `values_at`, for a body. Raises UnreadableBodyError where that is not all there is to know.

    Where a name is there in another spelling: some readers take `Role` for `role` (Go's encoding/json, for
    one), and `role[]` in a form. And where the name may be in each item of a list.
    """
    if body.is_form:
        return _form_values(body, parts)
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


def _form_values(body: Body, parts: Sequence[str]) -> Sequence[Any]:
    name = ".".join(parts)
    for other, _ in body.fields(fold_members(name)):
        if other != name or len(parts) > 1:
            raise UnreadableBodyError(f"{name} is there in another spelling")
    values: Sequence[Any] = body.content.get(name, ())
    return values if len(parts) == 1 else ()


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
            return Body(_json(text))
    except json.JSONDecodeError as error:
        place = json_place(error)
        raise UnreadableBodyError(f"no {media_type} from {place} on") from error
    except UnicodeDecodeError as error:
        raise UnreadableBodyError("not in UTF-8") from error
    except RecursionError as error:
        raise UnreadableBodyError(f"no {media_type}: it nests too deep") from error
    except ValueError as error:
        raise UnreadableBodyError(f"no {media_type}: {error}") from error
    raise UnreadableBodyError(f"{media_type or 'a body without a type'} is not read")


def _json(text: str) -> Any:
    content = json.loads(text, object_pairs_hook=_object, parse_constant=_no_json)
    # Some readers end a text at its NUL, and some leave out a half surrogate.
    if _NO_TEXT.search(text) and _NO_TEXT_WITHIN.search(json.dumps(content, ensure_ascii=False)):
        raise ValueError("a text holds a NUL or half a surrogate")
    return content


def _form(text: str) -> Mapping[str, list[str]]:
    if _MAY_BE_JSON.match(text):
        # Go's json.NewDecoder and Flask's get_json(force=True), for two, do not ask for the content type.
        raise ValueError("it may be JSON")
    if ";" in text:
        raise ValueError("a ; separates fields to some readers")
    if text.count("&") >= MAX_FIELDS:
        raise ValueError(f"more than {MAX_FIELDS} fields")
    if any(value is None for _, value in pairs_of(text)) or BAD_ESCAPE.search(text):
        raise ValueError("an escape is none, or a value has a NUL")
    fields: dict[str, list[str]] = {}
    if text and not all("=" in field for field in text.split("&")):
        raise ValueError("a field has no =")
    pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
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
