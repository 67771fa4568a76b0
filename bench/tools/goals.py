"""The figures of a benchmark and their goals."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any

Figures = dict[str, float | str | None]
"""The result of a benchmark by key, with the unit in the key. None if it could not be measured here."""

NOISY_SPREAD = 0.25
"""Above this share of the median between the smallest and the largest round, a difference means little."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of a benchmark that keeps its rounds."""

    figures: Figures
    rounds: dict[str, list[float]] = field(default_factory=dict)
    """Each round's value of a figure, by its key."""
    details: dict[str, Any] = field(default_factory=dict)
    """More for the report, as JSON values."""
    notes: tuple[str, ...] = ()
    """What a reader must know before believing the figures."""
    headlines: tuple[str, ...] = ()
    """The keys to print, if there are too many figures; the others are only in the JSON."""


class Rounds:
    """Collects the values of interleaved rounds."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, key: str, value: float) -> None:
        """Add the value of this round."""
        self.values.setdefault(key, []).append(value)

    def median(self, key: str) -> float:
        """Return the median of the rounds."""
        return median(self.values[key])

    def ratio(self, key: str, numerator: str, denominator: str) -> None:
        """Add, under `key`, the ratio of two figures in each round."""
        pairs = zip(self.values[numerator], self.values[denominator], strict=True)
        self.values[key] = [upper / lower for upper, lower in pairs if lower > 0]

    def medians(self) -> Figures:
        """Return the median of every figure; None if no round has a value."""
        return {key: median(values) if values else None for key, values in self.values.items()}

    def noise(self, key: str) -> str:
        """Return a warning if the rounds of a figure differ so much that it says little; else nothing."""
        values = self.values[key]
        spread = (max(values) - min(values)) / median(values)
        if spread <= NOISY_SPREAD:
            return ""
        return f"the machine was too noisy to tell: {key} differs by {spread:.0%} between rounds"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for one figure; the benchmark states the reason."""

    at_least: float | None = None
    at_most: float | None = None

    def met_by(self, figure: float) -> bool:
        """Whether `figure` is within the bound."""
        return (self.at_least is None or figure >= self.at_least) and (
            self.at_most is None or figure <= self.at_most
        )

    def __str__(self) -> str:
        bounds = ((">=", self.at_least), ("<=", self.at_most))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
