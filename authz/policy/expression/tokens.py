"""Splits an expression into tokens, and reads the text of a literal."""

import re
from dataclasses import dataclass
from typing import Any, Final

_TOKEN: Final = re.compile(
    r"""\s+|//[^\n]*
    |(?P<text>[rR]?(?:'{3}.*?'{3}|"{3}.*?"{3}|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))
    |(?P<bytes>[bB][rR]?(?:'{3}.*?'{3}|"{3}.*?"{3}|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))
    |(?P<fraction>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+)
    |(?P<whole>0[xX][0-9a-fA-F]+[uU]?|\d+[uU]?)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<sign>&&|\|\||[=!<>]=|[-+*/%!<>?:.,()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)


class NotKnownError(Exception):
    """The parser met unknown syntax, so the expression is not checked."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `sort` is text, bytes, fraction, whole, name or sign."""

    sort: str
    text: str
    start: int
    end: int


def tokens(text: str) -> list[Token]:
    """Return the tokens, without blanks and comments. Raises NotKnownError."""
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise NotKnownError
        if match.lastgroup is not None:
            found.append(Token(match.lastgroup, match[0], at, match.end()))
        at = match.end()
    return found


def text_of(literal: str) -> str | None:
    """Return the value of a text literal; None if the library does not return a text."""
    if "\\" not in literal:
        inside = literal.lstrip("rR")
        quotes = 3 if inside[:3] in {"'''", '"""'} else 1
        return inside[quotes:-quotes]
    import cel  # here, because its package takes 0.2 s to import

    found: Any = cel.evaluate(literal)
    return found if isinstance(found, str) else None
