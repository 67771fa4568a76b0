"""Judges a policy next to the one in service, and counts where they differ, before it decides anything.

The candidate never authenticates: it is given the caller that the policy in service has found. A rule of the
candidate that needs a caller, for a request whose credential was not examined, cannot be judged; such
requests are counted as unknown.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from authz.engine.decide import Authorizer, Decision
from authz.engine.metrics import MAX_RULES, OTHER_RULES
from authz.policy.compile.compile import Policy
from authz.policy.index import MISSING
from authz.policy.rule import Outcome
from authz.request.identity import ANONYMOUS, Authentication, Refusal, RefusalReason
from authz.request.request import Request

_REFUSALS: Final = {reason.value: Refusal(reason) for reason in RefusalReason}


class CandidateCounts(Collector):
    """Counts what candidates would have decided. It is created once and survives reloads."""

    def __init__(self) -> None:
        self.same = 0
        self.changed = 0
        self.unknown = 0
        self._differences: dict[tuple[str, Outcome, Outcome], int] = {}
        self._rules: set[str] = set()

    def differ(self, rule: str, was: Outcome, becomes: Outcome) -> None:
        """Count a decision that the candidate changes by `rule`."""
        self.changed += 1
        if rule not in self._rules:
            if len(self._rules) >= MAX_RULES:
                rule = OTHER_RULES
            self._rules.add(rule)
        key = (rule, was, becomes)
        self._differences[key] = self._differences.get(key, 0) + 1

    def totals(self) -> dict[str, float]:
        """Return the decisions since the start by how the candidate would have decided."""
        return {"same": self.same, "changed": self.changed, "unknown": self.unknown}

    def collect(self) -> Iterable[Metric]:
        """Return the metrics for Prometheus."""
        judged = CounterMetricFamily(
            "authz_candidate_decisions",
            "Decisions that the policy of the next wave was judged on: same, changed or unknown.",
            labels=["result"],
        )
        for result, times in self.totals().items():
            judged.add_metric([result], times)
        yield judged
        differences = CounterMetricFamily(
            "authz_candidate_differences",
            "Decisions that the policy of the next wave would change, by the rule that decides there.",
            labels=["rule", "was", "outcome"],
        )
        for (rule, was, becomes), times in self._differences.items():
            differences.add_metric([rule, was, becomes], times)
        yield differences


class Candidate:
    """A policy that decides nothing yet."""

    __slots__ = ("_authorizer", "_caller", "_counts", "policy")

    def __init__(self, policy: Policy, counts: CandidateCounts) -> None:
        self.policy = policy
        self._counts = counts
        self._authorizer = Authorizer(policy, self, lambda: "")
        self._caller: Authentication = None

    def authenticate(self, request: Request, now: float) -> Authentication:  # noqa: ARG002  # an Authenticator
        """Return what the policy in service found. Raises LookupError if it did not look."""
        if self._caller is None:
            raise LookupError
        return None if self._caller is ANONYMOUS else self._caller

    def judge(self, request: Request, decision: Decision, now: float) -> None:
        """Count whether this policy would have decided otherwise. `now`: Unix seconds."""
        verdict = decision.verdict
        if verdict.outcome is Outcome.ERROR:
            self._counts.unknown += 1
            return
        self._caller = _caller_of(decision)
        try:
            other = self._authorizer.decide(request, now)
        except LookupError:
            other = None
        if not isinstance(other, Decision):
            self._counts.unknown += 1
        elif other.verdict.outcome is verdict.outcome:
            self._counts.same += 1
        else:
            self._counts.differ(other.verdict.rule or verdict.rule, verdict.outcome, other.verdict.outcome)


def _caller_of(decision: Decision) -> Authentication:
    """Return who asked: ANONYMOUS if no credential came, None if that was not examined."""
    if decision.identity is not ANONYMOUS:
        return decision.identity
    reason = decision.verdict.reason
    if reason == MISSING.reason:
        return ANONYMOUS
    return _REFUSALS.get(reason)
