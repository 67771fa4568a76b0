"""Figures as text."""

from typing import Any


def time_label(microseconds: float) -> str:
    """Return a duration with the unit that suits it."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if abs(microseconds) >= size:
            return f"{microseconds / size:,.3g} {unit}"
    return f"{microseconds:,.3g} µs"


def shown(key: str, value: Any) -> str:
    """Return a figure as people read it; its unit is the end of its key."""
    if value is None:
        return "not measured"
    if not isinstance(value, float | int):
        return str(value)
    if key.endswith("_us"):
        return time_label(value)
    if key.endswith("_ms"):
        return time_label(value * 1000)
    if key.endswith("_seconds"):
        return time_label(value * 1e6)
    if "ratio" in key or abs(value) < 10:
        return f"{value:,.3f}"
    return f"{value:,.0f}"


def spread(key: str, rounds: list[float] | None) -> str:
    """Return the smallest and the largest round; nothing without several."""
    if not rounds or len(rounds) < 2:
        return ""
    return f"{shown(key, min(rounds))} to {shown(key, max(rounds))}"
