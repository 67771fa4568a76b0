"""What an expression compares with values that are written out in it, noted while it is read."""

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
    """What an expression compares with what is written out."""

    variables: tuple[Compared, ...] = ()
    fields: Mapping[str, Sequence[Scalar]] = {}
    """By the name of a field of the body, or of an item in it: what it is asked to equal, or not to equal."""
    lists: Collection[str] = ()
    """The fields that it looks into as lists: `'admin' in body.roles`."""
    claims: Mapping[str, Sequence[Operand]] = {}
    """By claim: what it is compared with, or asked to hold."""
    paths: Sequence[str] = ()
    """The texts that `path`, `segments` or one of them is asked to match, unless the test is negated."""
    members: Mapping[str, Sequence[Scalar]] = {}
    """By a field that it looks into as a list: what it looks for there."""


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
        """By the name that a macro has bound: the field that it goes through."""

    def compared(self, operand: Operand, other: Operand, bound: AbstractSet[str]) -> None:
        """Note that `operand` is compared with `other`; `bound`: the names that macros have bound."""
        if operand.variable and other.literal is not None:
            self._variables.append(Compared(operand.variable, other.literal))
        field, value = _field_of(operand, bound), _scalar(other)
        if field and value is not None:
            self._fields.setdefault(field, []).append(value)
        if operand.text in self._sources and value is not None:
            self._members.setdefault(self._sources[operand.text], []).append(value)
        self.claim(operand, other, bound)

    def claim(self, operand: Operand, other: Operand, bound: AbstractSet[str]) -> None:
        """Note that `operand` is compared with `other` or asked to hold it, if it is a claim."""
        if _CLAIM.fullmatch(operand.text) and "claims" not in bound:
            self._claims.setdefault(operand.text, []).append(other)

    def path(self, operand: Operand, other: Operand, bound: AbstractSet[str]) -> None:
        """Note that `operand` is asked to match `other`, if it is the path or a part of it."""
        found = _PATH.fullmatch(operand.text)
        if found and other.literal is not None and bound.isdisjoint(("path", "segments")):
            self._paths.append(other.literal)

    def list_asked(
        self, operand: Operand, bound: AbstractSet[str], member: Operand | None = None, item: str = ""
    ) -> None:
        """Note that the expression looks into `operand` as a list.

        It looks for `member`, or a macro binds each item to the name `item`.
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
        """Everything noted so far."""
        return Comparisons(
            tuple(self._variables), self._fields, self._lists, self._claims, self._paths, self._members
        )


def _field_of(operand: Operand, bound: AbstractSet[str]) -> str:
    """The name of the field of the body, or of an item in it, that the operand is; empty for others."""
    root, field = re.match(r"\w+", operand.text), _FIELD.search(operand.text)
    if root is None or field is None or root[0] not in {"body", *bound}:
        return ""
    return field[1] or field[3]


def _scalar(operand: Operand) -> Scalar | None:
    """What is written out; None where it is no text, number, true or false."""
    if operand.literal is not None:
        return operand.literal
    if operand.text in {"true", "false"}:
        return operand.text == "true"
    if operand.kind in {WHOLE, UNSIGNED, FRACTION} and _NUMBER.fullmatch(operand.text):
        return float(operand.text) if operand.kind is FRACTION else int(operand.text.rstrip("uU"), 0)
    return None
