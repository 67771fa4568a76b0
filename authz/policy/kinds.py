"""The kinds of values that an expression handles, and which of them fit together.

What fits is CEL's own rule (the language definition, "Gradual type checking" and its list of standard
functions), save that numbers of every kind are compared, as the library does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value; `inside`: of what a list, or the values of a map, hold."""

    name: str
    inside: "Kind | None" = None

    def __str__(self) -> str:
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


ANY: Final = Kind("any")
BOOL: Final = Kind("yes or no")
TEXT: Final = Kind("text")
WHOLE: Final = Kind("whole number")
UNSIGNED: Final = Kind("unsigned number")
FRACTION: Final = Kind("fraction")
BYTES: Final = Kind("string of bytes")
MOMENT: Final = Kind("moment")
DURATION: Final = Kind("duration")
NULL: Final = Kind("null")
TYPE: Final = Kind("type")


def list_of(inside: Kind) -> Kind:
    """A list of these."""
    return Kind("list", inside)


def map_of(inside: Kind) -> Kind:
    """A map from names to these."""
    return Kind("map", inside)


TEXTS: Final = list_of(TEXT)
VARIABLE_KINDS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("kind", "subject", "issuer", "method", "host", "path", "client", "peer"), TEXT),
    **dict.fromkeys(("scopes", "roles", "audiences", "segments"), TEXTS),
    **dict.fromkeys(("headers", "query"), map_of(TEXTS)),
    "vars": map_of(TEXT),
    "claims": map_of(ANY),
    "now": MOMENT,
}
"""What each variable holds; a body may hold anything."""

_NUMBERS: Final = (WHOLE, UNSIGNED, FRACTION)
_ORDERED: Final = (*_NUMBERS, TEXT, BYTES, MOMENT, DURATION, BOOL)
_JOINED: Final = (TEXT, BYTES, DURATION)


@dataclass(frozen=True, slots=True)
class Operand:
    """A part of the expression: what kind of value it gives, and what else is known of it."""

    kind: Kind
    text: str
    literal: str | None = None
    """The text itself, where it is written out."""
    items: tuple["Operand", ...] = ()
    """Of a list that is written out."""

    @property
    def variable(self) -> str:
        """The variable that it is, if it is one."""
        return self.text if self.text in VARIABLE_KINDS else ""


def may_be_equal(one: Kind, other: Kind) -> bool:
    """Whether there are values of these kinds that are equal."""
    if {one, other} & {ANY, NULL} or (one in _NUMBERS and other in _NUMBERS):
        return True
    if one.inside is not None and other.inside is not None:
        return one.name == other.name and may_be_equal(one.inside, other.inside)
    return one == other


def need_equal(left: Operand, right: Operand, sign: str) -> None:
    """Raises ValueError where `==` or `!=` can have one answer only."""
    if may_be_equal(left.kind, right.kind):
        return
    never = "never equal" if sign == "==" else "always different"
    hint = _member_hint(left, right, sign) or _member_hint(right, left, sign)
    raise ValueError(f"{left.text} is {left.kind} and {right.text} is {right.kind}: they are {never}{hint}")


def need_member(left: Operand, right: Operand) -> None:
    """Raises ValueError where `left in right` can have no answer, or one only."""
    if right.kind.name not in {"list", "map", "any"}:
        hint = f"; write {right.text}.contains({left.text})" if {left.kind, right.kind} == {TEXT} else ""
        raise ValueError(f"in looks into a list or a map, but {right.text} is {right.kind}{hint}")
    inside = TEXT if right.kind.name == "map" else right.kind.inside or ANY
    if not may_be_equal(left.kind, inside):
        raise ValueError(f"{left.text} is {left.kind}, and {right.text} never holds one")


def need_order(left: Operand, right: Operand) -> None:
    """Raises ValueError where neither can be more than the other."""
    if ANY in {left.kind, right.kind}:
        return
    if left.kind not in _ORDERED or not may_be_equal(left.kind, right.kind):
        raise ValueError(
            f"{left.text} is {left.kind} and {right.text} is {right.kind}: neither is less than the other"
        )


def need_condition(operand: Operand) -> None:
    """Raises ValueError for what is neither true nor false."""
    if operand.kind not in {BOOL, ANY}:
        hint = f"; write has({operand.text})" if operand.kind.inside and "." in operand.text else ""
        raise ValueError(f"{operand.text} is {operand.kind}, neither true nor false{hint}")


def need_text(of: Operand, method: str, arguments: Sequence[Operand]) -> None:
    """Raises ValueError where the method of a text is asked of something else, or about something else."""
    asked = ", ".join(argument.text for argument in arguments)
    if of.kind.name == "list":
        right = (
            f"{asked} in {of.text}"
            if method == "contains"
            else f"{of.text}.exists(one, one.{method}({asked}))"
        )
        raise ValueError(f"{of.text} is {of.kind}, and {method}() asks a text; write {right}")
    for operand in (of, *arguments):
        if operand.kind not in {TEXT, ANY}:
            raise ValueError(f"{operand.text} is {operand.kind}, and {method}() asks a text")


def result(left: Operand, right: Operand, sign: str) -> Kind:
    """The kind of what `left sign right` gives. Raises ValueError where it gives nothing."""
    kinds = (left.kind, right.kind)
    if ANY in kinds:
        return ANY
    if kinds[0] == kinds[1]:
        if kinds[0] in _NUMBERS or (sign == "+" and (kinds[0] in _JOINED or kinds[0].name == "list")):
            return kinds[0]
        if sign == "-" and kinds[0] in {MOMENT, DURATION}:
            return DURATION
    if sign == "+" and {kind.name for kind in kinds} == {"list"}:
        return list_of(ANY)
    if set(kinds) == {MOMENT, DURATION} and sign in {"+", "-"}:
        return MOMENT
    hint = "; write double() around both" if kinds[0] in _NUMBERS and kinds[1] in _NUMBERS else ""
    raise ValueError(
        f"{left.text} is {left.kind} and {right.text} is {right.kind}: {sign} does not take both{hint}"
    )


def _member_hint(held: Operand, one: Operand, sign: str) -> str:
    if held.kind.name != "list" or not may_be_equal(held.kind.inside or ANY, one.kind):
        return ""
    right = f"{one.text} in {held.text}"
    return f"; write {right}" if sign == "==" else f"; write !({right})"
