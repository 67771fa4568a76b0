"""Records which variables and fields an expression compares with literals, while it is parsed."""

import re
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, NamedTuple

from authz.policy.expression.kinds import FRACTION, UNSIGNED, WHOLE, Operand

Scalar = bool | int | float | str

_FIELD: Final = re.compile(r"""(?:\.\s?(\w+)|\[\s?(["'])([^"']*)\2\s?\])(?:\s?\[\s?\d+\s?\])*$""")
"""The name at the end of `body.user.role`, `body['role']` and `body.roles[0]`."""
_CLAIM: Final = re.compile(r"""claims(?:\s?\.\s?\w+|\s?\[\s?(?:\d+|"[^"]*"|'[^']*')\s?\])+""")
"""`claims.level`, `claims['level']`, `claims.levels[0]`."""
_PATH: Final = re.compile(r"path|segments(?:\s?\[[^\]]*\])?")
_NUMBER: Final = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+)[uU]?")


@dataclass(frozen=True, slots=True)
class Compared:
    """A variable that is compared with a text."""

    variable: str
    text: str


class Comparisons(NamedTuple):
    """The comparisons of an expression with literals."""

    variables: tuple[Compared, ...] = ()
    fields: Mapping[str, Sequence[Scalar]] = {}
    """Values compared with `==` or `!=`, by the name of the field of the body or of an item in it."""
    lists: Collection[str] = ()
    """Fields used as lists: `'admin' in body.roles`."""
    claims: Mapping[str, Sequence[Operand]] = {}
    """Operands by the claim that is compared with them or tested to contain them."""
    paths: Sequence[str] = ()
    """Texts compared with `path`, `segments` or one segment, unless the test is negated."""
    members: Mapping[str, Sequence[Scalar]] = {}
    """Values tested to be in a list, by the field that is the list."""


class Notes:
    """Collects the comparisons of one expression."""

    def __init__(self) -> None:
        self._variables: list[Compared] = []
        self._fields: dict[str, list[Scalar]] = {}
        self._lists: set[str] = set()
        self._claims: dict[str, list[Operand]] = {}
        self._paths: list[str] = []
        self._members: dict[str, list[Scalar]] = {}
        self._sources: dict[str, str] = {}
        """Fields by the name that a macro binds to each of their items."""

    def compared(self, operand: Operand, other: Operand, bound: AbstractSet[str]) -> None:
        """Record that `operand` is compared with `other`. `bound` are the names bound by macros."""
        if operand.variable and other.literal is not None:
            self._variables.append(Compared(operand.variable, other.literal))
        field, value = _field_of(operand, bound), _scalar(other)
        if field and value is not None:
            self._fields.setdefault(field, []).append(value)
        if operand.text in self._sources and value is not None:
            self._members.setdefault(self._sources[operand.text], []).append(value)
        self.claim(operand, other, bound)

    def claim(self, operand: Operand, other: Operand, bound: AbstractSet[str]) -> None:
        """If `operand` is a claim, record that it is compared with `other` or tested to contain it."""
        if _CLAIM.fullmatch(operand.text) and "claims" not in bound:
            self._claims.setdefault(operand.text, []).append(other)

    def path(self, operand: Operand, other: Operand, bound: AbstractSet[str]) -> None:
        """If `operand` is the path or a part of it, record that it is compared with `other`."""
        found = _PATH.fullmatch(operand.text)
        if found and other.literal is not None and bound.isdisjoint(("path", "segments")):
            self._paths.append(other.literal)

    def list_compared(
        self, operand: Operand, bound: AbstractSet[str], member: Operand | None = None, item: str = ""
    ) -> None:
        """Record that the expression uses `operand` as a list.

        It tests for `member`, or a macro binds each item to the name `item`.
        """
        field = _field_of(operand, bound)
        if not field:
            return
        self._lists.add(field)
        value = None if member is None else _scalar(member)
        if value is not None:
            self._members.setdefault(field, []).append(value)
        if item:
            self._sources[item] = field

    def all(self) -> Comparisons:
        """Return everything recorded so far."""
        return Comparisons(
            tuple(self._variables), self._fields, self._lists, self._claims, self._paths, self._members
        )


def _field_of(operand: Operand, bound: AbstractSet[str]) -> str:
    """Return the name of the field of the body, or of an item in it; empty for other operands."""
    root, field = re.match(r"\w+", operand.text), _FIELD.search(operand.text)
    if root is None or field is None or root[0] not in {"body", *bound}:
        return ""
    return field[1] or field[3]


def _scalar(operand: Operand) -> Scalar | None:
    """Return the literal value; None if it is not a text, number, true or false."""
    if operand.literal is not None:
        return operand.literal
    if operand.text in {"true", "false"}:
        return operand.text == "true"
    if operand.kind in {WHOLE, UNSIGNED, FRACTION} and _NUMBER.fullmatch(operand.text):
        return float(operand.text) if operand.kind is FRACTION else int(operand.text.rstrip("uU"), 0)
    return None
