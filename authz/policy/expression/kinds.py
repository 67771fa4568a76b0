"""The kinds (types) of values in an expression, and which of them fit together.

The rules are those of CEL (the language definition, "Gradual type checking" and the standard functions),
except that numbers of all kinds can be compared with each other, as in the library.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value. `inside` is the kind of list items or map values, `key` that of map keys."""

    name: str
    inside: "Kind | None" = None
    key: "Kind | None" = None

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
    """Return the kind of a list of these items."""
    return Kind("list", inside)


def map_of(inside: Kind, key: Kind = TEXT) -> Kind:
    """Return the kind of a map to these values, whose keys are texts by default."""
    return Kind("map", inside, key)


def walked(kind: Kind) -> Kind:
    """Return the kind that a macro iterates over: the items of a list, the keys of a map."""
    return (kind.key if kind.name == "map" else kind.inside) or ANY


TEXTS: Final = list_of(TEXT)
VARIABLE_KINDS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("kind", "subject", "issuer"), TEXT),
    **dict.fromkeys(("scopes", "roles", "audiences"), TEXTS),
    "claims": map_of(ANY),
    **dict.fromkeys(("method", "host", "client", "peer"), TEXT),
    "now": MOMENT,
    "context_extensions": map_of(TEXT),
    "path": TEXT,
    "segments": TEXTS,
    **dict.fromkeys(("headers", "query"), map_of(TEXTS)),
    "body": ANY,
    "vars": map_of(TEXT),
}
"""The kind of each variable."""

TYPE_NAMES: Final = frozenset({
    "bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint",
})  # fmt: skip
"""The names of types that `type()` is compared with."""

NUMBERS: Final = (WHOLE, UNSIGNED, FRACTION)
_ORDERED: Final = (*NUMBERS, TEXT, BYTES, MOMENT, DURATION, BOOL)
_JOINED: Final = (TEXT, BYTES, DURATION)


@dataclass(frozen=True, slots=True)
class Operand:
    """A part of the expression: the kind of its value, and what else is known about it."""

    kind: Kind
    text: str
    literal: str | None = None
    """The value, if the operand is a text literal."""
    items: tuple["Operand", ...] = ()
    """The items of a list literal."""
    variable: str = ""
    """The name, if the operand is a variable."""


def may_be_equal(one: Kind, other: Kind) -> bool:
    """Whether values of these kinds can be equal."""
    if {one, other} & {ANY, NULL} or (one in NUMBERS and other in NUMBERS):
        return True
    if one.inside is not None and other.inside is not None:
        return one.name == other.name and may_be_equal(one.inside, other.inside)
    return one == other


def need_equal(left: Operand, right: Operand, sign: str) -> None:
    """Raise ValueError if `==` or `!=` always has the same result."""
    if may_be_equal(left.kind, right.kind):
        return
    never = "never equal" if sign == "==" else "always different"
    hint = (
        _member_hint(left, right, sign)
        or _member_hint(right, left, sign)
        or _type_hint(left, right)
        or _type_hint(right, left)
    )
    raise ValueError(f"{left.text} is {left.kind} and {right.text} is {right.kind}: they are {never}{hint}")


def need_member(left: Operand, right: Operand) -> None:
    """Raise ValueError if `left in right` always fails or always has the same result."""
    if right.kind.name not in {"list", "map", "any"}:
        hint = f"; write {right.text}.contains({left.text})" if {left.kind, right.kind} == {TEXT} else ""
        raise ValueError(f"in needs a list or a map, but {right.text} is {right.kind}{hint}")
    if not may_be_equal(left.kind, walked(right.kind)):
        raise ValueError(f"{left.text} is {left.kind}, and {right.text} never contains one")


def need_order(left: Operand, right: Operand) -> None:
    """Raise ValueError if the two kinds have no order."""
    if ANY in {left.kind, right.kind}:
        return
    if left.kind not in _ORDERED or not may_be_equal(left.kind, right.kind):
        raise ValueError(
            f"{left.text} is {left.kind} and {right.text} is {right.kind}: neither is less than the other"
        )


def need_condition(operand: Operand) -> None:
    """Raise ValueError unless the operand is true or false."""
    if operand.kind not in {BOOL, ANY}:
        hint = f"; write has({operand.text})" if operand.kind.inside and "." in operand.text else ""
        raise ValueError(f"{operand.text} is {operand.kind}, neither true nor false{hint}")


def result(left: Operand, right: Operand, sign: str) -> Kind:
    """Return the kind of `left sign right`. Raises ValueError if the operator does not apply."""
    one, other = left.kind, right.kind
    if ANY in {one, other}:
        return ANY
    if one == other:
        if one in NUMBERS and not (sign == "%" and one == FRACTION):
            return one
        if sign == "+" and one in _JOINED:
            return one
        if sign == "-" and one in {MOMENT, DURATION}:
            return DURATION
    if sign == "+" and one.name == other.name == "list":
        return one if one == other else list_of(ANY)
    if one == MOMENT and other == DURATION and sign in {"+", "-"}:
        return MOMENT
    raise ValueError(
        f"{left.text} is {one} and {right.text} is {other}: {sign} does not take both"
        f"{_result_hint(left, right, sign)}"
    )


def _result_hint(left: Operand, right: Operand, sign: str) -> str:
    if left.kind != right.kind and left.kind in NUMBERS and right.kind in NUMBERS:
        return f"; write {'double' if FRACTION in {left.kind, right.kind} else 'int'}() around both"
    if (left.kind, right.kind, sign) == (DURATION, MOMENT, "+"):
        return f"; write {right.text} + {left.text}"
    return ""


def negated(operand: Operand) -> Kind:
    """Return the kind of `-operand`. Raises ValueError if the operator does not apply."""
    if operand.kind not in {WHOLE, FRACTION, ANY}:
        raise ValueError(f"{operand.text} is {operand.kind}: - does not take it")
    return operand.kind


def _type_hint(kind: Operand, one: Operand) -> str:
    if kind.kind != TYPE or one.literal not in TYPE_NAMES:
        return ""
    return f"; write {one.literal} without quotes"


def _member_hint(held: Operand, one: Operand, sign: str) -> str:
    if held.kind.name != "list" or not may_be_equal(held.kind.inside or ANY, one.kind):
        return ""
    right = f"{one.text} in {held.text}"
    return f"; write {right}" if sign == "==" else f"; write !({right})"
