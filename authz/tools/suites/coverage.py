"""Coverage of a policy by test cases: rules that applied, and conditions that held and failed."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from authz.policy.compile.compile import Policy
from authz.policy.conditions.condition import Condition
from authz.policy.rule import Rule
from authz.tools.explain import Explanation, Finding


@dataclass(slots=True)
class ConditionCoverage:
    """The coverage of one condition of a rule."""

    text: str
    held: int = 0
    failed: int = 0
    """The number of cases in which it did not hold or was unknown."""


@dataclass(slots=True)
class RuleCoverage:
    """The coverage of one rule."""

    rule: Rule
    applied: int = 0
    """The number of cases in which it applied to the request and the caller."""
    conditions: list[ConditionCoverage] = field(default_factory=list)

    @property
    def points(self) -> tuple[int, int]:
        """The points (reached, total): one for the rule itself, two for each condition."""
        reached = bool(self.applied) + sum(bool(one.held) + bool(one.failed) for one in self.conditions)
        return reached, 1 + 2 * len(self.conditions)

    @property
    def missing(self) -> list[str]:
        """Descriptions of what no case reached."""
        lines = [] if self.applied else ["no case in which it applies"]
        for one in self.conditions:
            if not one.held:
                lines.append(f"never true: {one.text}")
            if not one.failed:
                lines.append(f"never false: {one.text}")
        return lines


class Coverage:
    """The coverage of one policy, by rule and condition.

    The implied condition "is authenticated" counts for `allow: authenticated` only, not in every description.
    """

    def __init__(self, policy: Policy) -> None:
        self.rules = [RuleCoverage(rule, conditions=_conditions(rule)) for rule in policy.rules]

    def add(self, explanation: Explanation) -> None:
        """Add the explanation of a case."""
        for considered in explanation.considered:
            entry = self.rules[considered.rule.order]
            if considered.applies:
                entry.applied += 1
            findings = [*considered.requests, *considered.demands]
            findings += [one for conditions in considered.callers for one in conditions]
            _count(entry, findings)

    @property
    def percent(self) -> float:
        """The percentage of points reached; 100 for a policy without rules."""
        points = [entry.points for entry in self.rules]
        everything = sum(total for _, total in points)
        return 100.0 * sum(reached for reached, _ in points) / everything if everything else 100.0


def _conditions(rule: Rule) -> list[ConditionCoverage]:
    everything = [*rule.requests, *rule.demands]
    for description in rule.callers:
        everything += description if len(description) == 1 else description[1:]
    return [ConditionCoverage(text) for text in dict.fromkeys(_texts(everything))]


def _texts(conditions: Iterable[Condition]) -> list[str]:
    return [condition.text for condition in conditions]


def _count(entry: RuleCoverage, findings: Iterable[Finding]) -> None:
    found = {one.text: one for one in entry.conditions}
    for finding in findings:
        condition = found.get(finding.text)
        if condition is None:
            continue
        if finding.held:
            condition.held += 1
        else:
            condition.failed += 1
