"""Unquoted YAML scalars as Go reads them: the two parsers resolve a few of them differently.

gopkg.in/yaml.v2, which envoyproxy/ratelimit uses, reads `y` and `n` as booleans, `0o17` as a number and `1e3`
as a float, but dates and base-60 numbers such as `1:30` as text.
"""

import re
from datetime import date
from typing import Any, Final

_SWITCHES: Final = {"y": True, "Y": True, "n": False, "N": False}
_INTEGER = re.compile(r"[-+]?0([oO][0-7]+|[bB][01]+|[xX][0-9a-fA-F]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def as_in_go(value: Any, plain: str | None) -> Any:
    """The value of a scalar in Go.

    `value` is what PyYAML reads, `plain` the scalar as it is written, None where that is in quotes.
    """
    if plain is None:
        return value
    if isinstance(value, str):
        if plain in _SWITCHES:
            return _SWITCHES[plain]
        if _INTEGER.fullmatch(plain):
            return int(plain, 0)
        return float(plain) if _FLOAT.fullmatch(plain) else value
    return plain if isinstance(value, date) or is_base_60(value, plain) else value


def is_base_60(value: Any, plain: str) -> bool:
    """Whether PyYAML has read the text `plain` as a number in base 60."""
    return isinstance(value, int | float) and ":" in plain
