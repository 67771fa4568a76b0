"""Checks the types of expressions: finds a list compared with a text, or a condition that is not a boolean.

The library that evaluates has no type checker, so a comparison that is never true would load and do nothing.
This checker parses the expression once by CEL's grammar and knows the types of the variables. It accepts
every use of values whose type is unknown (claims, bodies).
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from authz.policy.expression.calls import TEXT_TESTS, call, method
from authz.policy.expression.comparisons import Comparisons, Notes
from authz.policy.expression.kinds import (
    ANY,
    BOOL,
    BYTES,
    FRACTION,
    NULL,
    TEXT,
    TYPE,
    TYPE_NAMES,
    UNSIGNED,
    VARIABLE_KINDS,
    WHOLE,
    Kind,
    Operand,
    list_of,
    map_of,
    may_be_equal,
    need_condition,
    need_equal,
    need_member,
    need_order,
    negated,
    result,
    walked,
)
from authz.policy.expression.literals import (
    ignores_case,
    need_convertible,
    need_lower_case,
    need_pattern,
    need_possible,
)
from authz.policy.expression.tokens import NotKnownError, Token, text_of, tokens

_MACROS: Final = frozenset({"all", "exists", "exists_one", "filter", "map"})
_CONVERSIONS: Final = frozenset({"int", "uint", "double", "timestamp", "duration"})
"""Conversions that fail for some texts."""

_Part = Callable[[], Operand]


def check_kinds(text: str) -> Comparisons:
    """Return what the expression compares. Raises ValueError if the kinds of values do not fit.

    `text` must be an expression that the library has compiled, so that its syntax is valid.
    """
    try:
        reader = _Reader(text)
        found = reader.whole()
    except (NotKnownError, RecursionError):
        return Comparisons()
    need_condition(found)
    return reader.notes.all()


class _Reader:
    """Parses by recursive descent and determines the kind of each part directly, without a tree."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._at = 0
        self._bound: list[tuple[str, Kind]] = []
        self._negated = False
        self.notes = Notes()

    def whole(self) -> Operand:
        found = self._choice()
        if self._at < len(self._tokens):
            raise NotKnownError
        return found

    def _token(self, ahead: int) -> Token:
        """Return the token that is `ahead` tokens after the current position, without consuming it."""
        at = self._at + ahead
        if at >= len(self._tokens):
            raise NotKnownError
        return self._tokens[at]

    def _next(self) -> Token:
        token = self._token(0)
        self._at += 1
        return token

    def _take(self, *texts: str) -> str:
        """Consume and return the next token if it is one of these; otherwise return an empty text."""
        if self._at < len(self._tokens) and self._tokens[self._at].text in texts:
            return self._next().text
        return ""

    def _need(self, text: str) -> None:
        if self._next().text != text:
            raise NotKnownError

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
        for one, other in ((left, right), (right, left)):
            self._note(one, other)
            self._note_path(one, other, negated=sign == "!=")

    def _member(self, left: Operand, right: Operand) -> None:
        need_member(left, right)
        self.notes.list_compared(right, self._names(), left)
        self.notes.claim(right, left, self._names())
        self._note_path(right, left)
        if right.variable == "headers" and left.literal is not None:
            need_lower_case(left.literal)
        for item in right.items:
            self._note(left, item)
            self._note_path(left, item)

    def _note(self, operand: Operand, other: Operand) -> None:
        if operand.variable and other.literal is not None:
            need_possible(operand.variable, other.literal)
        self.notes.compared(operand, other, self._names())

    def _note_path(self, operand: Operand, other: Operand, *, negated: bool = False) -> None:
        if negated == self._negated:
            self.notes.path(operand, other, self._names())

    def _names(self) -> frozenset[str]:
        """Return the names that macros have bound at this position."""
        return frozenset(name for name, _ in self._bound)

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
        before, self._negated = self._negated, self._negated != (sign == "!")
        operand = self._unary()
        self._negated = before
        if sign == "!":
            need_condition(operand)
            return self._operand(BOOL, begin)
        return self._operand(negated(operand), begin)

    def _access(self) -> Operand:
        begin = self._at
        found = self._primary()
        while sign := self._take(".", "["):
            if sign == "[":
                found = self._index(found, begin)
            else:
                token = self._next()
                if token.sort != "name":
                    raise NotKnownError
                found = (
                    self._method(found, token.text, begin)
                    if self._take("(")
                    else self._field(found, token, begin)
                )
        return found

    def _field(self, of: Operand, token: Token, begin: int) -> Operand:
        if of.kind.name not in {"map", "any"}:
            raise ValueError(f"{of.text} is {of.kind}, which has no fields: remove .{token.text}")
        if of.variable == "headers":
            need_lower_case(token.text)
        return self._operand(of.kind.inside or ANY, begin)

    def _index(self, of: Operand, begin: int) -> Operand:
        key = self._choice()
        self._need("]")
        if key.kind == WHOLE:
            self.notes.list_compared(of, self._names())
        if of.kind.name == "list":
            _need_place(of, key)
        elif of.kind.name == "map":
            wanted = walked(of.kind)
            if not may_be_equal(key.kind, wanted):
                raise ValueError(f"{of.text} is {of.kind}: its brackets take {wanted}, not {key.text}")
        elif of.kind != ANY:
            raise ValueError(f"{of.text} is {of.kind}, which has no [{key.text}]")
        if of.variable == "headers" and key.literal is not None:
            need_lower_case(key.literal)
        return self._operand(of.kind.inside or ANY, begin)

    def _method(self, of: Operand, name: str, begin: int) -> Operand:
        if name in _MACROS:
            return self._macro(of, name, begin)
        arguments = self._arguments(")")
        kind = method(of, name, arguments)
        literal = arguments[0].literal if arguments else None
        if name in TEXT_TESTS and not (name == "matches" and literal and ignores_case(literal)):
            self._note_path(of, arguments[0])
        if name == "matches" and literal is not None:
            need_pattern(literal)
        if name == "startsWith" and of.variable == "path" and literal:
            need_possible("path", literal)
        return self._operand(kind, begin)

    def _macro(self, of: Operand, name: str, begin: int) -> Operand:
        if of.kind.name not in {"list", "map", "any"}:
            raise ValueError(f"{of.text} is {of.kind}, and {name}() needs a list or a map")
        bound = self._next()
        self.notes.list_compared(of, self._names(), item=bound.text)
        if bound.sort != "name":
            raise NotKnownError
        self._need(",")
        if name != "map" and self._token(0).sort == "name" and self._token(1).text == ",":
            raise ValueError(
                f"{name}() takes one name and a condition, as in roles.{name}(one, one == 'admin')"
            )
        self._bound.append((bound.text, walked(of.kind)))
        arguments = self._arguments(")")
        self._bound.pop()
        if not arguments:
            raise NotKnownError
        if name == "map":
            return self._operand(list_of(arguments[-1].kind), begin)
        need_condition(arguments[0])
        return self._operand(list_of(walked(of.kind)) if name == "filter" else BOOL, begin)

    def _arguments(self, closing: str) -> list[Operand]:
        found: list[Operand] = []
        while not self._take(closing):
            found.append(self._choice())
            if not self._take(",") and self._token(0).text != closing:
                raise NotKnownError
        return found

    def _primary(self) -> Operand:
        begin, token = self._at, self._next()
        match token.sort, token.text:
            case "text", text:
                return Operand(TEXT, text, text_of(text))
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
                made = self._operand(list_of(_common({item.kind for item in items})), begin)
                return Operand(made.kind, made.text, items=items)
            case _, "{":
                return self._map(begin)
            case _, "." if self._token(0).sort == "name":
                raise ValueError(f"a name does not begin with a dot: write {self._token(0).text}")
        raise NotKnownError

    def _map(self, begin: int) -> Operand:
        keys, values = set[Kind](), set[Kind]()
        while not self._take("}"):
            keys.add(self._choice().kind)
            self._need(":")
            values.add(self._choice().kind)
            self._take(",")
        return self._operand(map_of(_common(values), _common(keys)), begin)

    def _name(self, name: str, begin: int) -> Operand:
        if name in {"true", "false"}:
            return Operand(BOOL, name)
        if name == "null":
            return Operand(NULL, name)
        if self._take("("):
            return self._call(name, begin)
        if self._take("{"):
            raise ValueError(f"{name}{{...}} is a message, which policies do not have; a map is {{'a': 1}}")
        for other, kind in reversed(self._bound):
            if other == name:
                return Operand(kind, name)
        if name in VARIABLE_KINDS:
            return Operand(VARIABLE_KINDS[name], name, variable=name)
        if name in TYPE_NAMES:
            return Operand(TYPE, name)
        raise ValueError(unknown(name, self._text))

    def _call(self, name: str, begin: int) -> Operand:
        arguments = self._arguments(")")
        if name == "has":
            return self._operand(BOOL, begin)
        kind = call(name, arguments)
        made = self._operand(kind, begin)
        if name in _CONVERSIONS and arguments[0].literal is not None:
            need_convertible(name, arguments[0].literal, made.text)
        return made


def unknown(name: str, text: str) -> str:
    """Return the message about an unknown name in the expression `text`."""
    hint = "" if f"-{name}" not in text else '; a name with a hyphen is written headers["x-a"]'
    return f"{name!r} is unknown; known here: {', '.join(VARIABLE_KINDS)}{hint}"


def _common(kinds: set[Kind]) -> Kind:
    return kinds.pop() if len(kinds) == 1 else ANY


def _need_place(of: Operand, key: Operand) -> None:
    """Raise ValueError if `key` is not an index of a list."""
    if key.kind not in {WHOLE, UNSIGNED, ANY}:
        raise ValueError(f"{of.text} is {of.kind}: its brackets take {WHOLE}, not {key.text}")
    if re.fullmatch(r"-\s*\d+", key.text):
        from_end = key.text.removeprefix("-").strip()
        raise ValueError(
            f"{of.text}[{key.text}] always fails: the last is {of.text}[size({of.text}) - {from_end}]"
        )
