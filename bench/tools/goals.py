"""The goals of the figures."""

from dataclasses import dataclass

Figures = dict[str, float | str | None]
"""The result of a benchmark by key, with the unit in the key. None if it could not be measured here."""


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
