"""What changed between two results beyond noise."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bench.tools.document import Document

SMALLEST_CHANGE: Final = 0.02
ASSUMED_NOISE: Final = 0.1
"""For a figure without rounds: a change up to this share may be noise."""

_LOWER_IS_BETTER: Final = ("_us", "_ms", "_seconds", "_mb", "_bytes", "_failed")


@dataclass(frozen=True, slots=True)
class Change:
    """A figure in two results."""

    bench: str
    figure: str
    before: float
    after: float
    noise: str
    """Why it may be noise; empty if it changed beyond that."""
    higher_is_better: bool | None = None

    @property
    def share(self) -> float:
        """The change as a share of the value before."""
        return self.after / self.before - 1 if self.before else float("inf") if self.after else 0.0

    @property
    def verdict(self) -> str:
        """`better` or `worse`; empty if it may be noise or has no direction."""
        if self.noise or self.higher_is_better is None:
            return ""
        return "better" if (self.after > self.before) is self.higher_is_better else "worse"


def changes(before: dict[str, Document], after: dict[str, Document]) -> Iterator[Change]:
    """Yield the figures that both results have, of each benchmark that both have."""
    for bench in before.keys() & after.keys():
        old, new = before[bench], after[bench]
        for figure, value in old["figures"].items():
            other = new["figures"].get(figure)
            if isinstance(value, float | int) and isinstance(other, float | int):
                noise = _noise(
                    old.get("rounds", {}).get(figure), new.get("rounds", {}).get(figure), value, other
                )
                yield Change(bench, figure, value, other, noise, _direction(figure, new))


def _direction(figure: str, content: Document) -> bool | None:
    """Return whether more is better: the goal says it, or the unit; None if neither does."""
    goal = content.get("goals", {}).get(figure)
    if goal is not None:
        return goal["at_least"] is not None
    if figure.endswith("_rps"):
        return True
    return False if figure.endswith(_LOWER_IS_BETTER) else None


def incomparable(before: dict[str, Document], after: dict[str, Document]) -> list[str]:
    """Return why the results say little about each other."""
    reasons = []
    for bench in sorted(before.keys() & after.keys()):
        old, new = before[bench], after[bench]
        for key in ("cpu", "cores", "python"):
            was, is_now = (content.get("machine", {}).get(key) for content in (old, new))
            if was != is_now:
                reasons.append(f"{bench}: {key} differs: {was}, then {is_now}; only ratios can be compared")
        if old.get("quick") != new.get("quick"):
            reasons.append(f"{bench}: one of them was measured with --quick")
    return reasons


def _noise(old: list[float] | None, new: list[float] | None, before: float, after: float) -> str:
    if before == after or (before and abs(after / before - 1) < SMALLEST_CHANGE):
        return f"less than {SMALLEST_CHANGE:.0%}"
    if old and new and len(old) > 1 and len(new) > 1:
        return "the rounds overlap" if max(old) >= min(new) and max(new) >= min(old) else ""
    if before and abs(after / before - 1) <= ASSUMED_NOISE:
        return f"has no rounds, and changed by less than {ASSUMED_NOISE:.0%}"
    return ""
