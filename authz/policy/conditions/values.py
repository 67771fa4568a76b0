"""Comparisons of a value: of a header, a query parameter, a claim or a field of the body."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from authz.policy.conditions.regular_expressions import compile_pattern
from authz.policy.types.names import AT_LEAST_ONE, PolicyBlock, Text


class Unknown(Enum):
    """Represents a value that exists but cannot be known."""

    VALUE = "unknown"


UNKNOWN: Final = Unknown.VALUE

MAX_INT: Final = 2**63 - 1
"""The largest whole number for a comparison: JSON libraries keep no larger ones (RFC 8259 section 6)."""

MAX_MATCHED_CHARACTERS: Final = 8_192
"""Whether a longer value matches is unknown. RE2 takes linear time, but clients choose the values."""


def _pattern(value: str) -> str:
    compile_pattern(value)
    return value


Pattern = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_pattern)]
Number = StrictInt | StrictFloat
Scalar = StrictBool | StrictInt | StrictFloat | Annotated[StrictStr, Field(max_length=1024)]


def _shorthand(value: Any) -> Any:
    """Expand the short form: a plain value means equality, a list means any of its values."""
    if isinstance(value, list | tuple):
        return {"one_of": value}
    return {"equals": value} if isinstance(value, str | int | float | bool) else value


class TextComparison(PolicyBlock):
    """A comparison of a text. Exactly one key must be present."""

    equals: Annotated[StrictStr, Field(max_length=1024)] | None = None
    """It is exactly this text."""
    one_of: Annotated[tuple[Text, ...], AT_LEAST_ONE] | None = None
    """It is one of these texts."""
    not_one_of: Annotated[tuple[Text, ...], AT_LEAST_ONE] | None = None
    """The value is present and is none of these."""
    prefix: Text | None = None
    """It begins with this text."""
    suffix: Text | None = None
    """It ends with this text."""
    matches: Pattern | None = None
    """The whole value matches this RE2 expression."""
    present: bool | None = None
    """Whether it is there at all."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return _shorthand(value)

    @model_validator(mode="after")
    def _one_operator(self) -> "TextComparison":
        _check_operators(self)
        return self


def _header_text(comparison: TextComparison) -> TextComparison:
    for expected in comparison.model_dump(exclude_none=True).values():
        texts = expected if isinstance(expected, tuple) else (expected,)
        for text in (text for text in texts if isinstance(text, str)):
            if not text.isascii():
                raise ValueError(
                    f"{text!r}: a header holds ASCII (RFC 9110 section 5.5); clients encode other characters "
                    "differently, so this would match only some of them"
                )
    return comparison


HeaderComparison = Annotated[TextComparison, AfterValidator(_header_text)]
"""A comparison with ASCII text, which all clients encode the same way."""


class Comparison(PolicyBlock):
    """A comparison of a claim or field. Exactly one key must be present, or at_least and at_most together."""

    equals: Scalar | None = None
    """It is exactly this value, of the same type."""
    one_of: Annotated[tuple[Scalar, ...], AT_LEAST_ONE] | None = None
    """The value is one of these, or a list that contains one of these."""
    not_one_of: Annotated[tuple[Scalar, ...], AT_LEAST_ONE] | None = None
    """The value is present, and neither it nor any item of it is one of these."""
    contains: Scalar | None = None
    """The value is a list that contains this."""
    prefix: Text | None = None
    """It is a text that begins with this."""
    suffix: Text | None = None
    """It is a text that ends with this."""
    matches: Pattern | None = None
    """It is a text that matches this RE2 expression as a whole."""
    at_least: Number | None = None
    """It is a number and not less than this."""
    at_most: Number | None = None
    """It is a number and not more than this."""
    present: bool | None = None
    """Whether it is there at all."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return _shorthand(value)

    @model_validator(mode="after")
    def _one_operator(self) -> "Comparison":
        _check_operators(self)
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"nothing is at least {self.at_least} and at most {self.at_most}")
        for key in self.model_fields_set:
            _check_numbers(getattr(self, key))
        return self


def _check_numbers(expected: Any) -> None:
    for value in expected if isinstance(expected, tuple) else (expected,):
        good = (
            isfinite(value)
            if isinstance(value, float)
            else not isinstance(value, int) or abs(value) <= MAX_INT
        )
        if not good:
            raise ValueError(f"{value}: expected a number of at most 64 bits, as tokens and bodies have them")


def _check_operators(comparison: TextComparison | Comparison) -> None:
    keys = comparison.model_fields_set
    if any(getattr(comparison, key) is None for key in keys):
        raise ValueError("a value cannot be compared with null")
    if len(keys) != 1 and keys != {"at_least", "at_most"}:
        known = ", ".join(type(comparison).model_fields)
        raise ValueError(f"say exactly one of {known}")


@dataclass(frozen=True, slots=True)
class CompiledComparison:
    """A compiled comparison."""

    text: str
    one: Callable[[Any], bool | None]
    """Tests one value; the result is None if it is unknown."""
    negative: bool = False
    """Whether it excludes values."""
    exact: bool = False
    """Whether it compares the whole value with others."""
    absent: bool = False
    """Whether it requires that no value is present."""
    inside: bool = False
    """Whether it tests a list as a whole."""
    reads: bool = True
    """Whether it depends on the value, and not only on its presence."""

    def of_untrusted(self, values: Sequence[Any], *, denies: bool) -> bool | None:
        """Whether values that a client chose match: all of them for an allow rule, any for a deny rule."""
        return self._over(values, _any_of if denies else _all_of)

    def over_readings(
        self, first: Sequence[Any], others: Sequence[Any] | None, *, denies: bool
    ) -> bool | None:
        """Whether values match that some upstreams read as `first` and others as `others` (None: all agree).

        Both readings must match for an allow rule, either reading for a deny rule.
        """
        held = self.of_untrusted(first, denies=denies)
        if others is None or held is denies:
            return held
        return either_reading((held, self.of_untrusted(others, denies=denies)), denies=denies)

    def of_trusted(self, values: Sequence[Any]) -> bool | None:
        """Whether a value that an issuer vouches for, or any item of it, matches."""
        return self._over(values, _all_of if self.negative else _any_of)

    def _over(
        self, values: Sequence[Any], together: Callable[[Iterable[bool | None]], bool | None]
    ) -> bool | None:
        if self.absent:
            return not values
        if not values:
            return None if self.negative else False
        return together(map(self._one_known, values))

    def _one_known(self, value: Any) -> bool | None:
        return None if value is UNKNOWN and self.reads else self.one(value)


def either_reading(found: Iterable[bool | None], *, denies: bool) -> bool | None:
    """Combine the results of several readings: all must hold for an allow rule, any for a deny rule."""
    return (_any_of if denies else _all_of)(found)


def _any_of(found: Iterable[bool | None]) -> bool | None:
    result: bool | None = False
    for one in found:
        if one:
            return True
        result = None if one is None else result
    return result


def _all_of(found: Iterable[bool | None]) -> bool | None:
    result: bool | None = True
    for one in found:
        if one is False:
            return False
        result = None if one is None else result
    return result


def check_of(comparison: TextComparison | Comparison) -> CompiledComparison:
    """Compile a comparison."""
    operator = next(iter(comparison.model_fields_set))
    expected = getattr(comparison, operator)
    match operator:
        case "equals":
            return CompiledComparison(f"is {expected!r}", is_one_of((expected,)), exact=True)
        case "one_of":
            return CompiledComparison(f"is one of {_listed(expected)}", is_one_of(expected), exact=True)
        case "not_one_of":
            return CompiledComparison(f"is none of {_listed(expected)}", _is_none_of(expected), negative=True)
        case "contains":
            member = is_one_of((expected,))
            return CompiledComparison(f"contains {expected!r}", _holds(member), inside=True)
        case "prefix":
            return CompiledComparison(
                f"begins with {expected!r}", _of_texts(lambda text: text.startswith(expected))
            )
        case "suffix":
            return CompiledComparison(
                f"ends with {expected!r}", _of_texts(lambda text: text.endswith(expected))
            )
        case "matches":
            return CompiledComparison(f"matches {expected}", _matches(expected))
        case "present":
            text = "is present" if expected else "is absent"
            return CompiledComparison(text, lambda _value: True, absent=not expected, reads=False)
    assert isinstance(comparison, Comparison)  # noqa: S101 - only its operators are left
    return _range(comparison.at_least, comparison.at_most)


def _range(low: float | None, high: float | None) -> CompiledComparison:
    def within(value: Any) -> bool | None:
        # The upstream may read "5000" as a number, so whether it is too large is unknown.
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return (low is None or value >= low) and (high is None or value <= high)

    words = [f"is at least {low}"] if low is not None else []
    words += [f"is at most {high}"] if high is not None else []
    return CompiledComparison(" and ".join(words), within)


def is_one_of(expected: Sequence[Any]) -> Callable[[Any], bool | None]:
    """Return a test whether a value is one of `expected`; None if only readers that convert types say so.

    Such readers take `"5"` for 5, `"true"` and 1 for true, and in JavaScript `["admin"]` for `admin`. PHP
    treats an object as a list of its values.
    """
    texts = frozenset(value for value in expected if isinstance(value, str))
    # In Python, True equals 1; in a policy it does not.
    others = tuple((isinstance(value, bool), value) for value in expected if not isinstance(value, str))
    numbers = frozenset(value for is_bool, value in others if not is_bool)
    spelled = frozenset(spelling for value in expected for spelling in _spellings(value))

    def known(value: Any) -> bool | None:
        if isinstance(value, str):
            if value in texts:
                return True
            unlike = not others or (value.strip().casefold() not in spelled and _number(value) not in numbers)
            return False if unlike else None
        if isinstance(value, list | dict):
            return None if any(known(item) is not False for item in _items(value)) else False
        if not isinstance(value, int | float):
            return False
        if (isinstance(value, bool), value) in others:
            return True
        return False if spelled.isdisjoint(_spellings(value)) else None

    return known


def _is_none_of(expected: Sequence[Any]) -> Callable[[Any], bool | None]:
    known = is_one_of(expected)

    def unknown(value: Any) -> bool | None:
        found = known(value)
        return None if found is None else not found

    return unknown


_TRUE: Final = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE: Final = frozenset({"false", "0", "no", "off", "f", "n", ""})


def _spellings(value: Any) -> frozenset[str]:
    """Return the texts that readers which convert types take for the value: `"true"` and `"1"` for true."""
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if isinstance(value, int | float):
        return frozenset({f"{value:g}", str(value)})
    return frozenset({value.strip().casefold()})


def _items(value: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _holds(member: Callable[[Any], bool | None]) -> Callable[[Any], bool | None]:
    def holds(value: Any) -> bool | None:
        return _any_of(map(member, value)) if isinstance(value, list | tuple | set | frozenset) else False

    return holds


def _matches(pattern: str) -> Callable[[Any], bool | None]:
    compiled = compile_pattern(pattern)

    def matches(text: str) -> bool | None:
        if len(text) > MAX_MATCHED_CHARACTERS:
            return None
        try:
            return compiled.fullmatch(text) is not None
        except UnicodeEncodeError:  # a lone surrogate, which a claim can hold
            return None

    return _of_texts(matches)


def _of_texts(holds: Callable[[str], bool | None]) -> Callable[[Any], bool | None]:
    """Return a test of texts; None for other values that type-converting readers may see as such a text."""

    def of(value: Any) -> bool | None:
        if isinstance(value, str):
            return holds(value)
        if isinstance(value, list | dict):
            return None if any(of(item) is not False for item in _items(value)) else False
        if isinstance(value, int | float):
            return None if any(holds(text) is not False for text in _spellings(value)) else False
        return False

    return of


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(repr(value) for value in values)
