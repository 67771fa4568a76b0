"""Path templates as Envoy matches them: exactly the paths that authz matches.

authz splits a path into segments and decodes each once; Envoy compares the path as it is. So a template
becomes an exact path or a prefix of whole segments if it has plain text only, else a regular expression
that also covers the escapes of a literal.
"""

import re
from typing import Any, Final

from authz.policy.types.pattern import Template

MAX_PROGRAM_SIZE: Final = 100
"""The longest regular expression that Envoy accepts, in instructions of RE2, unless its runtime sets
`re2.max_program_size.error_level`. With a longer one it would reject the routes of every team."""

_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]*")
"""Characters with one spelling: Envoy decodes their escapes (`normalize_path`, RFC 3986 section 2.3)."""
_SPELLED_BOTH_WAYS: Final = frozenset("!$&'()*+,;:=@\"<>[]^`{|}")
"""Characters that clients send as they are or as an escape; they have to escape all others."""

_BASE: Final = 4
_VARIABLE: Final = 3
_REST: Final = 5
_ESCAPED_BYTE: Final = 6
"""Instructions, which Envoy counts in the encoding Latin-1; the last is an upper bound."""


def path_match(template: Template) -> dict[str, Any]:
    """Return the path part of Envoy's RouteMatch."""
    literals = [segment for segment in template.segments if segment is not None]
    if len(literals) < len(template.segments) or not all(map(_UNRESERVED.fullmatch, literals)):
        return {"safe_regex": {"regex": _regex(template)}}
    path = "/" + "/".join(literals)
    if not template.rest:
        return {"path": path}
    return {"path_separated_prefix": path} if literals else {"prefix": "/"}


def program_size(template: Template) -> int:
    """Return the instructions of RE2 for the template, or a few more; 0 without an expression."""
    if "safe_regex" not in path_match(template):
        return 0
    sizes = (_VARIABLE if segment is None else _literal_size(segment) for segment in template.segments)
    return _BASE + (_REST if template.rest else 0) + len(template.segments) + sum(sizes)


def _literal_size(literal: str) -> int:
    return sum(
        1 if _UNRESERVED.fullmatch(character) else _ESCAPED_BYTE * len(character.encode())
        for character in literal
    )


def _regex(template: Template) -> str:
    segments = (
        "[^/]+" if segment is None else "".join(map(_spellings, segment)) for segment in template.segments
    )
    path = "".join(f"/{segment}" for segment in segments)
    return f"{path}(?:/.*)?" if template.rest else path


def _spellings(character: str) -> str:
    """Return a regular expression for one character of a segment and its escapes."""
    plain = re.escape(character)
    if _UNRESERVED.fullmatch(character):
        return plain
    escape = "".join(f"%{_digit(byte >> 4)}{_digit(byte & 15)}" for byte in character.encode())
    return f"(?:{plain}|{escape})" if character in _SPELLED_BOTH_WAYS else escape


def _digit(value: int) -> str:
    """Return a regular expression for a hexadecimal digit in either letter case."""
    return f"{value}" if value < 10 else f"[{value:X}{value:x}]"
