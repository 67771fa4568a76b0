"""Texts that are written out in an expression, and can never be what they are meant for."""

import re
from typing import Final

from authz.policy.conditions.regular_expressions import compile_pattern
from authz.request.identity import CredentialKind
from authz.request.request import BadRequestError, canonical_host

_KINDS: Final = tuple(kind.value for kind in CredentialKind)
_DURATION: Final = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:h|ms|us|µs|ns|m|s)")
_EXAMPLES: Final = 'write it as in timestamp("2026-01-31T08:00:00Z"), duration("1h30m") or int("7")'


def need_pattern(pattern: str) -> None:
    """Raises ValueError for what is no pattern to the library, whose own engine is linear, too."""
    import cel  # here, because its package takes 0.2 s to import

    try:
        cel.evaluate("''.matches(pattern)", {"pattern": pattern})
    except Exception:  # the library raises what fits
        compile_pattern(pattern)  # says what is wrong with most of them
        raise ValueError(f"{pattern!r} is no regular expression that matches() knows") from None


def need_convertible(name: str, literal: str, source: str) -> None:
    """Raises ValueError for a conversion of a text that always fails: `timestamp("tomorrow")`."""
    import cel  # here, because its package takes 0.2 s to import

    try:
        cel.evaluate(f"{name}(literal)", {"literal": literal})
    except Exception:  # the library raises what fits
        raise ValueError(f"{source} always fails: {_EXAMPLES}") from None
    if name == "duration" and _DURATION.sub("", literal) not in {"", "0"}:
        raise ValueError(f"{source} is not read to its end: {_EXAMPLES}")


def ignores_case(pattern: str) -> bool:
    """Whether the RE2 pattern begins with the flag that makes it ignore letter case."""
    return re.match(r"\^?\(\?[a-zA-Z]*i", pattern) is not None


def need_lower_case(header: str) -> None:
    """Raises ValueError for the name of a header that is not spelled as Envoy sends it."""
    if header != header.lower():
        raise ValueError(f"headers has its names in lower case: write {header.lower()!r}")


def need_possible(variable: str, text: str) -> None:
    """Raises ValueError for a text that the variable never is."""
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
    except BadRequestError:
        return text
