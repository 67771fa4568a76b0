"""Counts decisions in plain integers, which are read when Prometheus scrapes.

Everything is counted on the event loop's thread, so the request path needs no lock.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from authz.engine.decide import Decision
from authz.policy.rule import Outcome

MAX_RULES: Final = 1_000
"""The most rules with a label of their own, which bounds the number of time series."""

OTHER_RULES: Final = "(other)"
"""The label that all further rules share."""


class DecisionMetrics(Collector):
    """A Prometheus collector that counts decisions. It is created once and survives reloads."""

    def __init__(self) -> None:
        # By (reason, rule, credential): each reason belongs to one outcome.
        self._decisions: dict[tuple[str, str, str], int] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._shadows: dict[tuple[str, Outcome], int] = {}
        self._rules: set[str] = set()

    def count(self, decision: Decision) -> None:
        """Count a decision."""
        verdict = decision.verdict
        key = (verdict.reason, verdict.rule, decision.credential)
        known = self._decisions.get(key)
        if known is not None:
            self._decisions[key] = known + 1
        else:
            self._outcomes[verdict.reason] = verdict.outcome
            key = (verdict.reason, self._label(verdict.rule), decision.credential)
            self._decisions[key] = self._decisions.get(key, 0) + 1
        if decision.shadow is not None:
            shadow = (self._label(decision.shadow.rule), decision.shadow.outcome)
            self._shadows[shadow] = self._shadows.get(shadow, 0) + 1

    def totals(self) -> dict[str, dict[str, float]]:
        """Return the decisions by outcome, and those that are not allows by reason."""
        outcomes: dict[str, float] = dict.fromkeys(Outcome, 0)
        reasons: dict[str, float] = {}
        for (reason, _, _), times in self._decisions.items():
            outcome = self._outcomes[reason]
            outcomes[outcome] += times
            if outcome is not Outcome.ALLOW:
                reasons[reason] = reasons.get(reason, 0) + times
        return {"outcomes": outcomes, "reasons": reasons}

    def collect(self) -> Iterable[Metric]:
        """Return the metrics for Prometheus."""
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
        for (shadow_rule, outcome), times in self._shadows.items():
            shadows.add_metric([shadow_rule, outcome], times)
        yield shadows

    def _label(self, rule: str) -> str:
        if not rule or rule in self._rules:
            return rule
        if len(self._rules) >= MAX_RULES:
            return OTHER_RULES
        self._rules.add(rule)
        return rule
