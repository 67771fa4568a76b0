"""Explains errors of expressions in terms of the language instead of the parser."""

import re
from collections.abc import Mapping
from typing import Final

_FINDING: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): ([^\n]*)")
_PIECE: Final = re.compile(r"[.\[]\?|\.`|/\*|[A-Za-z_]\w*|\d[\w.]*|[=!<>&|]{2,3}|\.\.+|\S")
_QUOTED: Final = re.compile("'([^']*)'")
_RESERVED: Final = re.compile(r"reserved identifier: (\w+)")

_OTHER_LANGUAGES: Final[Mapping[str, str]] = {
    "=": "write == to compare",
    "===": "write == to compare",
    "<>": "write !=",
    "and": "write &&",
    "or": "write ||",
    "not": "write !",
    "&": "write &&",
    "|": "write ||",
    ".?": "write has(claims.tenant) && ... for a field that may be missing",
    "[?": "write 'tenant' in claims && ... for a field that may be missing",
    ".`": 'write claims["a-b"] for a name with other signs',
    "/*": "a comment begins with // and ends with the line",
    "?": "a conditional is written CONDITION ? VALUE : VALUE",
}
"""Operators of other languages, and what to write instead."""


def what_is_wrong(text: str, found: str) -> str:
    """Describe the first error in `text` and its place. `found` is the parser's message."""
    findings = [finding for finding in _FINDING.findall(found) if "Incomplete" not in finding[2]]
    if not findings:
        return "nests too deep" if "recursion" in found.lower() or text.count("(") > 50 else "cannot be read"
    line, column, message = int(findings[0][0]), int(findings[0][1]), findings[0][2]
    return f"{_words(text, line, column, message)} (line {line}, character {column} of the expression)"


def why_failed(error: Exception) -> str:
    """Explain why an expression failed for a request. `error` is the exception of the library."""
    found = str(error)
    name = _QUOTED.search(found)
    match error:
        case KeyError():
            return f"{error.args[0]!r} does not exist"
        case IndexError():
            return f"a list has no item {found.rpartition(' ')[2]}"
        case ZeroDivisionError():
            return "it divides by zero"
        case OverflowError():
            return "a number is too large, or negative where it must not be"
        case RuntimeError() if name and found.startswith("Function"):
            return f"{name[1]}() cannot read its value"
        case RuntimeError() if name and found.startswith("Undefined"):
            return f"{name[1]} is undefined for this request, or does not take these values"
        case TypeError():
            return "values of incompatible kinds are compared or combined"
    return "it cannot be evaluated"


def _words(text: str, line: int, column: int, message: str) -> str:
    reserved = _RESERVED.search(message)
    if reserved:
        return f"{reserved[1]!r} is a reserved word"
    if "simple name" in message:
        return "the first argument of a macro is a name, as in roles.exists(role, role == 'admin')"
    if "has()" in message:
        return "has() tests whether a field exists, as in has(claims.tenant)"
    if "literal" in message:
        return "the number is too large"
    lines = text.splitlines() or [""]
    rest = lines[line - 1][column - 1 :] if line <= len(lines) else ""
    if rest[:1] in {"'", '"'}:
        return "a text has no closing quote, or contains an unknown escape"
    piece = _PIECE.match(rest.lstrip())
    if piece is None:
        missing = re.search(r"missing '(\S)'", message)
        return f"it ends where {missing[1] if missing else 'more'} is expected"
    before = _PIECE.findall(lines[line - 1][: column - 1])
    return _unexpected(piece[0], before[-1] if before else "")


def _unexpected(piece: str, before: str) -> str:
    for word in (before + piece, piece, before):
        if word in _OTHER_LANGUAGES:
            return f"{word!r} is not part of the language: {_OTHER_LANGUAGES[word]}"
    hint = f'; a field of that name is written ["{piece}"]' if before == "." and piece.isidentifier() else ""
    return f"{piece!r} is not expected here{hint}"
