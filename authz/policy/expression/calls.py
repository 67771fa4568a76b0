"""The functions of expressions, with the kinds that they take and return in the library.

CEL has more functions than the library: `int()` of a moment and `getHours()` with a time zone always fail
here. A call that always fails is an error when the policy is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from authz.policy.expression.kinds import (
    ANY,
    BOOL,
    BYTES,
    DURATION,
    FRACTION,
    MOMENT,
    NUMBERS,
    TEXT,
    TYPE,
    UNSIGNED,
    WHOLE,
    Kind,
    Operand,
)


@dataclass(frozen=True, slots=True)
class _Function:
    """A function of one value: `int(x)`."""

    gives: Kind
    takes: tuple[Kind, ...] = ()
    """The kinds accepted; empty for all."""


_FUNCTIONS: Final[Mapping[str, _Function]] = {
    "int": _Function(WHOLE, (TEXT, *NUMBERS)),
    "uint": _Function(UNSIGNED, (TEXT, *NUMBERS)),
    "double": _Function(FRACTION, (TEXT, *NUMBERS)),
    "string": _Function(TEXT, (TEXT, BYTES, *NUMBERS, MOMENT, DURATION)),
    "bytes": _Function(BYTES, (TEXT, BYTES)),
    "timestamp": _Function(MOMENT, (TEXT, MOMENT)),
    "duration": _Function(DURATION, (TEXT, DURATION)),
    "dyn": _Function(ANY),
    "type": _Function(TYPE),
}
_WITH_SIZE: Final = frozenset({"list", "map", TEXT.name, BYTES.name, ANY.name})
TEXT_TESTS: Final = frozenset({"contains", "endsWith", "matches", "startsWith"})
_OF_MOMENTS: Final = frozenset({
    "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMilliseconds",
    "getMinutes", "getMonth", "getSeconds",
})  # fmt: skip
_OF_DURATIONS: Final = frozenset({"getHours", "getMilliseconds", "getMinutes", "getSeconds"})

FUNCTION_NAMES: Final = frozenset({*_FUNCTIONS, "size"}) | TEXT_TESTS | _OF_MOMENTS


def call(name: str, arguments: Sequence[Operand]) -> Kind:
    """Return the kind of `name(arguments)`. Raises ValueError if the call always fails."""
    if name in TEXT_TESTS | _OF_MOMENTS:
        of, *others = (argument.text for argument in arguments) if arguments else ("now",)
        raise ValueError(f"{name}() is a method of a value: write {of}.{name}({', '.join(others)})")
    if len(arguments) != 1:
        raise ValueError(f"{name}() takes one value, not {len(arguments)}")
    if name == "size":
        return _size(arguments[0])
    function = _FUNCTIONS.get(name)
    if function is None:
        return ANY
    if function.takes and arguments[0].kind not in {*function.takes, ANY}:
        raise ValueError(
            f"{arguments[0].text} is {arguments[0].kind}, which {name}() does not take"
            f"{_hint(name, arguments[0])}"
        )
    return function.gives


def method(of: Operand, name: str, arguments: Sequence[Operand]) -> Kind:
    """Return the kind of `of.name(arguments)`. Raises ValueError if the call always fails."""
    if name in TEXT_TESTS:
        _need_text(of, name, arguments)
        return BOOL
    if name in _OF_MOMENTS:
        _need_moment(of, name, arguments)
        return WHOLE
    if name in _FUNCTIONS:
        raise ValueError(f"{name}() takes its value as an argument: write {name}({of.text})")
    if name == "size":
        if arguments:
            raise ValueError(f"the method size() takes no arguments: write {of.text}.size()")
        return _size(of)
    return ANY


def _hint(name: str, argument: Operand) -> str:
    if name == "timestamp" and argument.kind in NUMBERS:
        return (
            '; for seconds since 1970, write timestamp("1970-01-01T00:00:00Z") + '
            f'duration(string({argument.text}) + "s")'
        )
    if name == "duration" and argument.kind in NUMBERS:
        return f'; write duration("{argument.text}s")' if argument.text.isdecimal() else ""
    if argument.kind == MOMENT:
        return '; moments are compared with each other, as in now > timestamp("2026-01-31T08:00:00Z")'
    return ""


def _size(of: Operand) -> Kind:
    if of.kind.name not in _WITH_SIZE:
        raise ValueError(f"{of.text} is {of.kind}, which has no size")
    return WHOLE


def _need_text(of: Operand, name: str, arguments: Sequence[Operand]) -> None:
    listed = ", ".join(argument.text for argument in arguments)
    if len(arguments) != 1:
        raise ValueError(f"{name}() takes one text, not {len(arguments)}")
    if of.kind.name == "list":
        right = (
            f"{listed} in {of.text}" if name == "contains" else f"{of.text}.exists(one, one.{name}({listed}))"
        )
        raise ValueError(f"{of.text} is {of.kind}, and {name}() needs a text; write {right}")
    if of.kind.name == "map" and name == "contains":
        raise ValueError(f"{of.text} is {of.kind}, and {name}() needs a text; write {listed} in {of.text}")
    for operand in (of, *arguments):
        if operand.kind not in {TEXT, ANY}:
            raise ValueError(f"{operand.text} is {operand.kind}, and {name}() needs a text")


def _need_moment(of: Operand, name: str, arguments: Sequence[Operand]) -> None:
    if of.kind not in {MOMENT, ANY} and not (of.kind == DURATION and name in _OF_DURATIONS):
        raise ValueError(f"{of.text} is {of.kind}, and {name}() needs a moment, as in now.{name}()")
    if arguments:
        raise ValueError(
            f"{of.text}.{name}() is in UTC and takes no time zone; the key time of a rule does, as in "
            "time: {zone: Europe/Berlin, from: '08:00', until: '18:00'}"
        )
