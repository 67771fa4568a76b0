"""Checks literals in an expression: texts that can never match what they are compared with."""

import re
from typing import Final

from authz.policy.conditions.regular_expressions import compile_pattern
from authz.request.host import MalformedHostError, canonical_host
from authz.request.identity import CredentialKind

_KINDS: Final = tuple(kind.value for kind in CredentialKind)
_DURATION: Final = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:h|ms|us|µs|ns|m|s)")
_EXAMPLES: Final = 'write it as in timestamp("2026-01-31T08:00:00Z"), duration("1h30m") or int("7")'


def need_pattern(pattern: str) -> None:
    """Raise ValueError if the library, whose engine is linear too, does not accept the pattern."""
    import cel  # here, because its package takes 0.2 s to import

    try:
        cel.evaluate("''.matches(pattern)", {"pattern": pattern})
    except Exception:  # the library raises many types
        compile_pattern(pattern)  # raises a precise error in most cases
        raise ValueError(f"{pattern!r} is not a regular expression that matches() supports") from None


def need_convertible(name: str, literal: str, source: str) -> None:
    """Raise ValueError for a conversion of a text that always fails: `timestamp("tomorrow")`."""
    import cel  # here, because its package takes 0.2 s to import

    try:
        cel.evaluate(f"{name}(literal)", {"literal": literal})
    except Exception:  # the library raises many types
        raise ValueError(f"{source} always fails: {_EXAMPLES}") from None
    if name == "duration" and _DURATION.sub("", literal) not in {"", "0"}:
        raise ValueError(f"{source} is not read to its end: {_EXAMPLES}")


def ignores_case(pattern: str) -> bool:
    """Whether the RE2 pattern begins with the flag that makes it ignore letter case."""
    return re.match(r"\^?\(\?[a-zA-Z]*i", pattern) is not None


def need_lower_case(header: str) -> None:
    """Raise ValueError for a header name that is not in lower case, as Envoy sends it."""
    if header != header.lower():
        raise ValueError(f"names in headers are in lower case: write {header.lower()!r}")


def need_possible(variable: str, text: str) -> None:
    """Raise ValueError for a text that the variable never equals."""
    if variable == "kind" and text not in _KINDS:
        raise ValueError(f"kind is never {text!r}; it is {' or '.join(_KINDS)}")
    if variable == "method" and text != text.upper():
        raise ValueError(f"method is compared with case: write {text.upper()!r}")
    if variable == "path" and not text.startswith("/"):
        raise ValueError(f"path begins with a slash: write {'/' + text!r}")
    if variable == "host" and text != _host(text):
        raise ValueError(f"host is in lower case and has no port: write {_host(text)!r}")


def _host(text: str) -> str:
    try:
        return canonical_host(text)
    except MalformedHostError:
        return text
