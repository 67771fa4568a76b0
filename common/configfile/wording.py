"""What a pydantic finding means to the person who wrote the file: what is wrong, and what would be right."""

import re
from collections.abc import Callable, Mapping
from datetime import date, time
from typing import Any, Final

Context = Mapping[str, Any]

MAX_SHOWN_CHARACTERS: Final = 80
"""How much of a wrong value is shown: enough to find it, short enough to read the rest of the line."""

_TEXT: Final = "text"
_LIST: Final = "a list"
_KEYS: Final = "keys and values"
_MOMENT: Final = "a date or a moment, as in 2026-01-31 or 2026-01-31T18:00:00+01:00"
_WHOLE: Final = "a whole number"
_NUMBER: Final = "a number"
_SWITCH: Final = "true or false"

SHAPES: Final[Mapping[str, str]] = {
    "string_type": _TEXT,
    "string_unicode": _TEXT,
    "path_type": "the path of a file or folder",
    "bool_type": _SWITCH,
    "bool_parsing": _SWITCH,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "a finite number",
    "tuple_type": _LIST,
    "list_type": _LIST,
    "set_type": _LIST,
    "frozen_set_type": _LIST,
    "set_item_not_hashable": "a single value",
    "dict_type": _KEYS,
    "mapping_type": _KEYS,
    "model_type": _KEYS,
    "model_attributes_type": _KEYS,
    "dataclass_type": _KEYS,
    "datetime_type": _MOMENT,
    "datetime_parsing": _MOMENT,
    "datetime_object_invalid": _MOMENT,
    "datetime_from_date_parsing": _MOMENT,
}
"""What would be right, by the type of the finding, if only the shape of the value is wrong."""


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


BOUNDS: Final[Mapping[str, Callable[[Context], str]]] = {
    "greater_than": lambda context: f"more than {_plain(context['gt'])}",
    "greater_than_equal": lambda context: f"at least {_plain(context['ge'])}",
    "less_than": lambda context: f"less than {_plain(context['lt'])}",
    "less_than_equal": lambda context: f"at most {_plain(context['le'])}",
    "literal_error": lambda context: choices(context["expected"]),
    "enum": lambda context: choices(context["expected"]),
    "union_tag_invalid": lambda context: choices(context["expected_tags"]),
}
"""What would be right, by the type of the finding, if the value is out of range."""

SIZES: Final[Mapping[str, Callable[[Context, Any], str]]] = {
    "too_short": lambda context, _: (
        f"expected at least {_counted(context['min_length'], 'item')}, not {context['actual_length']}"
    ),
    "too_long": lambda context, value: (
        f"expected at most {_counted(context['max_length'], 'item')}, not {_length(value)}"
    ),
    "string_too_short": lambda context, value: (
        "must not be empty"
        if not value
        else f"expected at least {_counted(context['min_length'], 'character')}, not {_length(value)}"
    ),
    "string_too_long": lambda context, value: (
        f"expected at most {_counted(context['max_length'], 'character')}, not {_length(value)}"
    ),
}
"""The message, by the type of the finding, if the value has the wrong length."""

OTHERS: Final[Mapping[str, str]] = {
    "missing": "is required",
    "recursion_loop": "holds itself (an alias inside its own anchor)",
    "recursion_depth_exceeded": "nests too deep",
    "invalid_key": "a key must be text",
}
"""The whole message, by the type of the finding."""

_CONSTANTS: Final = {"True": "true", "False": "false", "None": "nothing"}


def expected(kind: str, context: Context) -> str:
    """What would be right instead of a value with a finding of the type `kind`; empty if unknown."""
    if kind in SHAPES:
        return SHAPES[kind]
    return BOUNDS[kind](context) if kind in BOUNDS else ""


def instead(value: Any, written: str | None, wanted: str) -> str:
    """`, not VALUE`, with the present value. `written`: the value as the file spells it, if that is known."""
    if value is None:
        return ", but it is empty"
    text = f", not {shown(value, written)}"
    if _TEXT in wanted and isinstance(value, bool | int | float | date | time):
        quoted = written or shown(value, None)
        kind = _yaml_kind(value)
        read = f"YAML reads {quoted} as {kind}" if kind != quoted else f"YAML does not read {quoted} as text"
        text += f': {read}, so write it in quotes: "{quoted}"'
    return text


def shown(value: Any, written: str | None) -> str:
    """The value as its writer knows it, never as Python spells it."""
    if isinstance(value, dict):
        return _KEYS
    if isinstance(value, list | tuple | set | frozenset):
        return _LIST
    text = repr(value) if isinstance(value, str) else (written or _spelled(value))
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."


def own_words(message: str, value: Any, written: str | None) -> str:
    """The message of one of our validators about `value`, without Python's spelling of it."""
    text = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if isinstance(value, str):
        return text
    spelled = "nothing" if value is None else shown(value, written)
    return re.sub(rf"(?<![\w'\"]){re.escape(repr(value))}(?![\w'\"])", lambda _: spelled, text)


def choices(listed: str) -> str:
    """Pydantic's list `'a', 'b' or True`, spelled as in YAML."""
    names = re.findall(r"'((?:[^'\\]|\\.)*)'|(\w+)(?=,|$| or )", listed)
    return any_of([text or _CONSTANTS.get(other, other) for text, other in names])


def any_of(words: list[str]) -> str:
    """`a, b or c`."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _length(value: Any) -> int | str:
    return len(value) if hasattr(value, "__len__") else "more"


def _plain(number: Any) -> str:
    return (
        f"{number:g}" if isinstance(number, float) and number.is_integer() and number < 1e6 else str(number)
    )


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _yaml_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "a number" if isinstance(value, int | float) else "a date"
