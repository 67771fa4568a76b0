"""What the decisions count. Plain numbers, read when Prometheus asks.

All of it is counted on the loop's one thread, so no lock is needed on the way of a request.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from authz.engine.decide import Decision
from authz.policy.rule import Outcome

MAX_RULES: Final = 1_000
"""Rules that have a label of their own; a larger policy would make more time series than Prometheus likes."""

OTHER_RULES: Final = "(other)"
"""The label of all further rules."""


class DecisionMetrics(Collector):
    """Counts decisions: a Prometheus collector, made once and kept over reloads."""

    def __init__(self) -> None:
        # By (reason, rule, credential): each reason belongs to one outcome.
        self._decisions: dict[tuple[str, str, str], int] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._trials: dict[tuple[str, Outcome], int] = {}
        self._rules: set[str] = set()

    def count(self, decision: Decision) -> None:
        """Count a decision."""
        verdict = decision.verdict
        key = (verdict.reason, verdict.rule, decision.credential)
        if key in self._decisions:
            self._decisions[key] += 1
        else:
            self._outcomes[verdict.reason] = verdict.outcome
            key = (verdict.reason, self._label(verdict.rule), decision.credential)
            self._decisions[key] = self._decisions.get(key, 0) + 1
        if decision.shadow is not None:
            shadow = (self._label(decision.shadow.rule), decision.shadow.outcome)
            self._trials[shadow] = self._trials.get(shadow, 0) + 1

    def collect(self) -> Iterable[Metric]:
        """The metrics as Prometheus reads them."""
        decisions = CounterMetricFamily(
            "authz_decisions", "Decisions made.", labels=["outcome", "reason", "rule", "credential"]
        )
        for (reason, rule, credential), times in self._decisions.items():
            decisions.add_metric([self._outcomes[reason], reason, rule, credential or "none"], times)
        yield decisions
        shadows = CounterMetricFamily(
            "authz_shadow_differences",
            "Decisions that shadow rules would have turned into this outcome.",
            labels=["rule", "outcome"],
        )
        for (trial_rule, outcome), times in self._trials.items():
            shadows.add_metric([trial_rule, outcome], times)
        yield shadows

    def _label(self, rule: str) -> str:
        if not rule or rule in self._rules:
            return rule
        if len(self._rules) >= MAX_RULES:
            return OTHER_RULES
        self._rules.add(rule)
        return rule
