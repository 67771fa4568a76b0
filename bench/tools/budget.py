"""bench/budget.yaml: the goals that a result must meet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from bench.tools.goals import Goal
from common.configfile import ConfigError, Problem, read, validate

BUDGET_FILE: Final = Path(__file__).parents[1] / "budget.yaml"
NAME: Final = r"^[a-z]+\.[a-z0-9_]+$"

Verdict = Literal["met", "missed", "not measured"]


class _Bound(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "_Bound":
        if self.at_least is None and self.at_most is None:
            raise ValueError("needs at_least or at_most")
        return self


class Baseline(BaseModel):
    """The tree that instructions are compared with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    instructions: dict[str, dict[str, int]] = {}
    """Its figures by interpreter, for clones without that commit."""


class _BudgetFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    baseline: Baseline | None = None
    goals: dict[Annotated[str, StringConstraints(pattern=NAME)], _Bound]


@dataclass(frozen=True, slots=True)
class Judged:
    """A goal and the figure that should meet it."""

    bench: str
    figure: str
    goal: Goal
    value: float | None
    verdict: Verdict


def load_budget(file: Path = BUDGET_FILE) -> dict[str, Goal]:
    """Return the goals by `BENCH.FIGURE`. Raises ConfigError with every problem at its line."""
    content = validate(read(file), _BudgetFile)
    return {name: Goal(bound.at_least, bound.at_most) for name, bound in content.goals.items()}


def baseline_commit(file: Path = BUDGET_FILE) -> Baseline:
    """Return the baseline. Raises ConfigError."""
    found = validate(read(file), _BudgetFile).baseline
    if found is None:
        raise ConfigError([Problem(str(file), 1, "baseline", "is missing")])
    return found


def goals_of(bench: str) -> dict[str, Goal]:
    """Return the goals of one benchmark by the key of the figure."""
    found = {}
    for name, goal in load_budget().items():
        owner, _, figure = name.partition(".")
        if owner == bench:
            found[figure] = goal
    return found


def judge(goals: Mapping[str, Goal], documents: Mapping[str, Mapping[str, Any]]) -> list[Judged]:
    """Compare the documents, by benchmark, with their goals; other benchmarks did not run."""
    found = []
    for name, goal in goals.items():
        bench, _, figure = name.partition(".")
        if bench not in documents:
            continue
        value = documents[bench]["figures"].get(figure)
        if not isinstance(value, float | int):
            found.append(Judged(bench, figure, goal, None, "not measured"))
        else:
            found.append(Judged(bench, figure, goal, value, "met" if goal.met_by(value) else "missed"))
    return found
