"""Reads values of environment variables as Go's envconfig does. Each function raises ValueError."""

import re
from typing import Final

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_UNIT_SECONDS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "m": 60,
    "h": 3600,
}
_INTEGER: Final = re.compile(r"[-+]?[0-9]+")
_PART: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION: Final = re.compile(rf"[-+]?(0|({_PART.pattern})+)")


def text(value: str) -> str:
    """`value` itself."""
    return value


def boolean(value: str) -> bool:
    """As strconv.ParseBool reads it."""
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ValueError("expected true or false")


def integer(value: str) -> int:
    """A whole number in base 10."""
    if not _INTEGER.fullmatch(value):
        raise ValueError("expected a whole number")
    return int(value)


def number(value: str) -> float:
    """A floating-point number."""
    try:
        return float(value)
    except ValueError:
        raise ValueError("expected a number") from None


def seconds(value: str) -> float:
    """A duration as time.ParseDuration reads it (`1h30m`, `150us`), in seconds."""
    if not _DURATION.fullmatch(value):
        raise ValueError("expected a duration, as in 10s, 1h30m or 150us")
    total = sum(float(count) * _UNIT_SECONDS[unit] for count, unit in _PART.findall(value))
    return -total if value.startswith("-") else total
