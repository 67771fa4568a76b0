"""Unquoted YAML scalars as Go reads them: the two parsers resolve a few of them differently.

gopkg.in/yaml.v2, which envoyproxy/ratelimit uses, reads `y` and `n` as booleans, `0o17` as a number and `1e3`
as a float, but dates and base-60 numbers such as `1:30` as text.
"""

import re
from collections.abc import Callable
from datetime import date
from typing import Any, Final

_SWITCHES: Final = {"y": True, "Y": True, "n": False, "N": False}
_INTEGER: Final = re.compile(r"[-+]?0([oO][0-7]+|[bB][01]+|[xX][0-9a-fA-F]+)")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


BASE_60: Final = re.compile(r"(?<![\w.:])[0-9][0-9_]*(:[0-5]?[0-9])+(?![\w:])")
"""Found in every text with a number in base 60, and in few others (times; not addresses with a port)."""


def as_in_go(value: Any, plain: Callable[[], str | None]) -> Any:
    """The value of a scalar in Go.

    `value` is what PyYAML reads. `plain` looks up how the scalar is written, None where that is in quotes; it
    costs time, and few scalars need it.
    """
    if isinstance(value, str):
        differs = value in _SWITCHES or _INTEGER.fullmatch(value) or _FLOAT.fullmatch(value)
        return _resolved(value) if differs and plain() is not None else value
    if isinstance(value, bool) or not isinstance(value, int | float | date):
        return value
    written = plain()
    if written is None:
        return value
    return written if isinstance(value, date) or is_base_60(value, written) else value


def is_base_60(value: Any, written: str) -> bool:
    """Whether PyYAML has read the text `written` as a number in base 60."""
    return isinstance(value, int | float) and ":" in written


def _resolved(written: str) -> Any:
    if written in _SWITCHES:
        return _SWITCHES[written]
    return int(written, 0) if _INTEGER.fullmatch(written) else float(written)
