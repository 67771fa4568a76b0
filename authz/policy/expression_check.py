"""Finds what an expression can never mean: a list compared with a text, a condition that is none.

The library that evaluates has no checker of its own, so a comparison that is never true loads and does
nothing. This one reads the expression once, following CEL's grammar, and knows what the variables hold.
Where it cannot know (claims, bodies), everything may be.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from authz.identity import CredentialKind
from authz.policy.kinds import (
    ANY,
    BOOL,
    BYTES,
    DURATION,
    FRACTION,
    MOMENT,
    NULL,
    TEXT,
    TYPE,
    UNSIGNED,
    VARIABLE_KINDS,
    WHOLE,
    Kind,
    Operand,
    list_of,
    map_of,
    need_condition,
    need_equal,
    need_member,
    need_order,
    need_text,
    result,
)
from authz.policy.values import compile_pattern
from authz.request import BadRequestError, canonical_host

_TEXT_METHODS: Final = frozenset({"contains", "endsWith", "matches", "startsWith"})
_MACROS: Final = frozenset({"all", "exists", "exists_one", "filter", "map"})
_CONVERSIONS: Final[Mapping[str, Kind]] = {
    "int": WHOLE, "uint": UNSIGNED, "double": FRACTION, "string": TEXT, "bytes": BYTES, "bool": BOOL,
    "timestamp": MOMENT, "duration": DURATION, "size": WHOLE, "dyn": ANY, "type": TYPE,
}  # fmt: skip
_KINDS: Final = tuple(kind.value for kind in CredentialKind)
_WITH_SIZE: Final = frozenset({"list", "map", "text", "string of bytes", "any"})

_TOKEN: Final = re.compile(
    r"""\s+|//[^\n]*
    |(?P<text>[rR]?(?:'{3}.*?'{3}|"{3}.*?"{3}|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))
    |(?P<bytes>[bB][rR]?(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))
    |(?P<fraction>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+)
    |(?P<whole>0[xX][0-9a-fA-F]+[uU]?|\d+[uU]?)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<sign>&&|\|\||[=!<>]=|[-+*/%!<>?:.,()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)


_FIELD: Final = re.compile(r"""(?:\.\s?(\w+)|\[\s?(["'])([^"']*)\2\s?\])(?:\s?\[\s?\d+\s?\])*$""")
"""The name at the end of `body.user.role`, `body['role']` and `body.roles[0]`."""

Scalar = bool | int | float | str
_Part = Callable[[], Operand]
_NUMBER: Final = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+)[uU]?")
_EXAMPLES: Final = 'write it as in timestamp("2026-01-31T08:00:00Z"), duration("1h30m") or int("7")'
_PREFIXES: Final = "rR"


class _NotKnownError(Exception):
    """The reader met what it does not know: nothing is said about the expression."""


@dataclass(frozen=True, slots=True)
class _Token:
    sort: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Compared:
    """A variable that is compared with a text."""

    variable: str
    text: str


class Comparisons(NamedTuple):
    """What an expression compares with what is written out."""

    variables: tuple[Compared, ...] = ()
    fields: Mapping[str, Sequence[Scalar]] = {}
    """By the name of a field of the body, or of an item in it: what it is asked to equal, or not to equal."""
    lists: Collection[str] = ()
    """The fields that it looks into as lists: `'admin' in body.roles`."""


def check_kinds(text: str) -> Comparisons:
    """What the expression compares. Raises ValueError where the kinds of values do not fit.

    `text` is an expression that the library has compiled: its syntax is right.
    """
    try:
        reader = _Reader(text)
        found = reader.whole()
    except (_NotKnownError, RecursionError):
        return Comparisons()
    need_condition(found)
    return Comparisons(tuple(reader.compared), reader.fields, reader.lists)


class _Reader:
    """Reads by recursive descent, and gives each part its kind at once: there is no tree."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._at = 0
        self._bound: list[tuple[str, Kind]] = []
        self.compared: list[Compared] = []
        self.fields: dict[str, list[Scalar]] = {}
        self.lists: set[str] = set()

    def whole(self) -> Operand:
        found = self._choice()
        if self._at < len(self._tokens):
            raise _NotKnownError
        return found

    def _peek(self) -> str:
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

    def _next(self) -> _Token:
        if self._at >= len(self._tokens):
            raise _NotKnownError
        self._at += 1
        return self._tokens[self._at - 1]

    def _take(self, *texts: str) -> str:
        """The next token if it is one of these."""
        if self._at < len(self._tokens) and self._tokens[self._at].text in texts:
            return self._next().text
        return ""

    def _need(self, text: str) -> None:
        if self._next().text != text:
            raise _NotKnownError

    def _operand(self, kind: Kind, begin: int) -> Operand:
        source = self._text[self._tokens[begin].start : self._tokens[self._at - 1].end]
        return Operand(kind, " ".join(source.split()))

    def _choice(self) -> Operand:
        begin = self._at
        condition = self._either()
        if not self._take("?"):
            return condition
        need_condition(condition)
        one = self._either()
        self._need(":")
        other = self._choice()
        return self._operand(one.kind if one.kind == other.kind else ANY, begin)

    def _either(self) -> Operand:
        return self._logical("||", lambda: self._logical("&&", self._relation))

    def _logical(self, sign: str, part: _Part) -> Operand:
        begin = self._at
        found = part()
        while self._take(sign):
            need_condition(found)
            need_condition(part())
            found = self._operand(BOOL, begin)
        return found

    def _relation(self) -> Operand:
        begin = self._at
        left = self._sum()
        while sign := self._take("==", "!=", "<", "<=", ">", ">=", "in"):
            right = self._sum()
            if sign == "in":
                self._member(left, right)
            elif sign in {"==", "!="}:
                self._equal(left, right, sign)
            else:
                need_order(left, right)
            left = self._operand(BOOL, begin)
        return left

    def _equal(self, left: Operand, right: Operand, sign: str) -> None:
        need_equal(left, right, sign)
        self._note(left, right)
        self._note(right, left)

    def _member(self, left: Operand, right: Operand) -> None:
        need_member(left, right)
        self._note_list(right)
        if right.variable == "headers" and left.literal is not None:
            _need_lower_case(left.literal)
        for item in right.items:
            self._note(left, item)

    def _note(self, operand: Operand, other: Operand) -> None:
        if operand.variable and other.literal is not None:
            _need_possible(operand.variable, other.literal)
            self.compared.append(Compared(operand.variable, other.literal))
        field, value = self._field_of(operand), _scalar(other)
        if field and value is not None:
            self.fields.setdefault(field, []).append(value)

    def _note_list(self, operand: Operand) -> None:
        field = self._field_of(operand)
        if field:
            self.lists.add(field)

    def _field_of(self, operand: Operand) -> str:
        """The name of the field of the body, or of an item in it, that the operand is; empty for others."""
        root, field = re.match(r"\w+", operand.text), _FIELD.search(operand.text)
        if root is None or field is None or root[0] not in {"body", *(name for name, _ in self._bound)}:
            return ""
        return field[1] or field[3]

    def _sum(self) -> Operand:
        return self._arithmetic(("+", "-"), lambda: self._arithmetic(("*", "/", "%"), self._unary))

    def _arithmetic(self, signs: Sequence[str], part: _Part) -> Operand:
        begin = self._at
        left = part()
        while sign := self._take(*signs):
            right = part()
            left = self._operand(result(left, right, sign), begin)
        return left

    def _unary(self) -> Operand:
        begin = self._at
        sign = self._take("!", "-")
        if not sign:
            return self._access()
        operand = self._unary()
        if sign == "!":
            need_condition(operand)
            return self._operand(BOOL, begin)
        return self._operand(operand.kind, begin)

    def _access(self) -> Operand:
        begin = self._at
        found = self._primary()
        while sign := self._take(".", "["):
            if sign == "[":
                found = self._index(found, begin)
            else:
                token = self._next()
                if token.sort != "name":
                    raise _NotKnownError
                found = (
                    self._method(found, token.text, begin)
                    if self._take("(")
                    else self._field(found, token, begin)
                )
        return found

    def _field(self, of: Operand, token: _Token, begin: int) -> Operand:
        if of.kind.name not in {"map", "any"}:
            raise ValueError(
                f"{of.text} is {of.kind}, which has no fields: .{token.text} means nothing there"
            )
        if of.variable == "headers":
            _need_lower_case(token.text)
        return self._operand(of.kind.inside or ANY, begin)

    def _index(self, of: Operand, begin: int) -> Operand:
        key = self._choice()
        self._need("]")
        if of.kind.name not in {"list", "map", "any"}:
            raise ValueError(f"{of.text} is {of.kind}, which has no [{key.text}]")
        wanted = WHOLE if of.kind.name == "list" else TEXT
        if key.kind == WHOLE:
            self._note_list(of)
        if of.kind.name != "any" and key.kind not in {wanted, ANY}:
            raise ValueError(
                f"{of.text} is {of.kind}: what stands in its brackets is {wanted}, not {key.text}"
            )
        if of.variable == "headers" and key.literal is not None:
            _need_lower_case(key.literal)
        return self._operand(of.kind.inside or ANY, begin)

    def _method(self, of: Operand, name: str, begin: int) -> Operand:
        if name in _MACROS:
            return self._macro(of, name, begin)
        arguments = self._arguments(")")
        if name in _TEXT_METHODS:
            need_text(of, name, arguments)
            if name == "matches" and arguments and arguments[0].literal is not None:
                compile_pattern(arguments[0].literal)
            if of.variable == "path" and name == "startsWith" and arguments and arguments[0].literal:
                _need_possible("path", arguments[0].literal)
            return self._operand(BOOL, begin)
        if name == "size":
            return self._sized(of, begin)
        if name.startswith("get") and of.kind not in {MOMENT, DURATION, ANY}:
            raise ValueError(f"{of.text} is {of.kind}, and {name}() asks a moment, as in now.{name}()")
        return self._operand(WHOLE if name.startswith("get") else ANY, begin)

    def _macro(self, of: Operand, name: str, begin: int) -> Operand:
        if of.kind.name not in {"list", "map", "any"}:
            raise ValueError(f"{of.text} is {of.kind}, and {name}() goes through a list")
        self._note_list(of)
        bound = self._next()
        if bound.sort != "name":
            raise _NotKnownError
        self._need(",")
        self._bound.append((bound.text, TEXT if of.kind.name == "map" else of.kind.inside or ANY))
        arguments = self._arguments(")")
        self._bound.pop()
        if name == "map":
            return self._operand(list_of(arguments[-1].kind), begin)
        need_condition(arguments[0])
        return self._operand(of.kind if name == "filter" else BOOL, begin)

    def _sized(self, of: Operand, begin: int) -> Operand:
        if of.kind.name not in _WITH_SIZE:
            raise ValueError(f"{of.text} is {of.kind}, which has no size")
        return self._operand(WHOLE, begin)

    def _arguments(self, closing: str) -> list[Operand]:
        found: list[Operand] = []
        while not self._take(closing):
            found.append(self._choice())
            if not self._take(",") and self._peek() != closing:
                raise _NotKnownError
        return found

    def _primary(self) -> Operand:
        begin, token = self._at, self._next()
        match token.sort, token.text:
            case "text", text:
                return Operand(TEXT, text, _unquoted(text))
            case "bytes", text:
                return Operand(BYTES, text)
            case "fraction", text:
                return Operand(FRACTION, text)
            case "whole", text:
                return Operand(UNSIGNED if text[-1] in "uU" else WHOLE, text)
            case "name", name:
                return self._name(name, begin)
            case _, "(":
                inside = self._choice()
                self._need(")")
                return inside
            case _, "[":
                items = tuple(self._arguments("]"))
                kinds = {item.kind for item in items}
                made = self._operand(list_of(kinds.pop() if len(kinds) == 1 else ANY), begin)
                return Operand(made.kind, made.text, items=items)
            case _, "{":
                return self._map(begin)
        raise _NotKnownError

    def _constant(self, begin: int) -> None:
        """Raises ValueError for a conversion of a text that always fails: `timestamp("tomorrow")`."""
        import cel  # here, because its package takes 0.2 s to import

        source = self._operand(ANY, begin).text
        try:
            cel.evaluate(source)
        except Exception:  # the library raises what fits
            raise ValueError(f"{source} always fails: {_EXAMPLES}") from None

    def _map(self, begin: int) -> Operand:
        while not self._take("}"):
            self._choice()
            self._need(":")
            self._choice()
            self._take(",")
        return self._operand(map_of(ANY), begin)

    def _name(self, name: str, begin: int) -> Operand:
        if name in {"true", "false"}:
            return Operand(BOOL, name)
        if name == "null":
            return Operand(NULL, name)
        if not self._take("("):
            bound = next((kind for other, kind in reversed(self._bound) if other == name), None)
            return Operand(bound or VARIABLE_KINDS.get(name, ANY), name)
        arguments = self._arguments(")")
        if name == "has":
            return self._operand(BOOL, begin)
        if name in _CONVERSIONS and arguments and arguments[0].literal is not None:
            self._constant(begin)
        if name == "size" and arguments:
            return self._sized(arguments[0], begin)
        return self._operand(_CONVERSIONS.get(name, ANY), begin)


def _scalar(operand: Operand) -> Scalar | None:
    """What is written out; None where it is no text, number, true or false."""
    if operand.literal is not None:
        return operand.literal
    if operand.text in {"true", "false"}:
        return operand.text == "true"
    if operand.kind in {WHOLE, UNSIGNED, FRACTION} and _NUMBER.fullmatch(operand.text):
        return float(operand.text) if operand.kind is FRACTION else int(operand.text.rstrip("uU"), 0)
    return None


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _NotKnownError
        if match.lastgroup is not None:
            found.append(_Token(match.lastgroup, match[0], at, match.end()))
        at = match.end()
    return found


def _unquoted(text: str) -> str | None:
    """The text between the quotes; None where it has escapes."""
    inside = text.lstrip(_PREFIXES)
    quotes = 3 if inside[:3] in {"'''", '"""'} else 1
    inside = inside[quotes:-quotes]
    return inside if "\\" not in inside else None


def _need_lower_case(header: str) -> None:
    if header != header.lower():
        raise ValueError(f"headers has its names in lower case: write {header.lower()!r}")


def _need_possible(variable: str, text: str) -> None:
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
