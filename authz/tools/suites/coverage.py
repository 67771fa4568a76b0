"""What of a policy the cases reached: rules that decided, conditions that were seen to hold and not to."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from authz.policy.compile.compile import Policy
from authz.policy.conditions.condition import Condition
from authz.policy.rule import Rule
from authz.tools.explain import Explanation, Finding


@dataclass(slots=True)
class ConditionCoverage:
    """One condition of a rule."""

    text: str
    held: int = 0
    failed: int = 0
    """It did not hold, or that could not be told."""


@dataclass(slots=True)
class RuleCoverage:
    """One rule."""

    rule: Rule
    spoke: int = 0
    """In how many cases it spoke of the request and the caller."""
    conditions: list[ConditionCoverage] = field(default_factory=list)

    @property
    def points(self) -> tuple[int, int]:
        """(reached, all): one for the rule itself, two for each condition."""
        reached = bool(self.spoke) + sum(bool(one.held) + bool(one.failed) for one in self.conditions)
        return reached, 1 + 2 * len(self.conditions)

    @property
    def missing(self) -> list[str]:
        """What no case reached, in words."""
        lines = [] if self.spoke else ["no case in which it speaks"]
        for one in self.conditions:
            if not one.held:
                lines.append(f"never seen to hold: {one.text}")
            if not one.failed:
                lines.append(f"never seen not to hold: {one.text}")
        return lines


class Coverage:
    """The coverage of one policy, by rule and condition.

    That a caller is authenticated counts for `allow: authenticated` only, not for every description again.
    """

    def __init__(self, policy: Policy) -> None:
        self.rules = [RuleCoverage(rule, conditions=_conditions(rule)) for rule in policy.rules]

    def add(self, explanation: Explanation) -> None:
        """Count one more case."""
        for considered in explanation.considered:
            entry = self.rules[considered.rule.order]
            if considered.spoke:
                entry.spoke += 1
            findings = [*considered.requests, *considered.demands]
            findings += [one for conditions in considered.callers for one in conditions]
            _count(entry, findings)

    @property
    def percent(self) -> float:
        """How much of all there is was reached, from 0 to 100; 100 for a policy without rules."""
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
