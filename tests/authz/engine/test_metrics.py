from prometheus_client import CollectorRegistry, generate_latest

from authz.engine.decide import INTERNAL_ERROR, Decision
from authz.engine.metrics import MAX_RULES, OTHER_RULES, DecisionMetrics
from authz.policy.rule import Outcome, Verdict


def decision(rule: str, credential: str = "", shadow: Verdict | None = None) -> Decision:
    return Decision(
        Verdict(Outcome.ALLOW, "allowed", 200, rule), "id", "revision", credential=credential, shadow=shadow
    )


def test_decisions_are_counted_by_outcome_reason_rule_and_credential() -> None:
    registry, metrics = CollectorRegistry(), DecisionMetrics()
    registry.register(metrics)
    for _ in range(2):
        metrics.count(decision("users", "jwt"))
    metrics.count(Decision(INTERNAL_ERROR, "id", "revision"))
    allowed = {"outcome": "allow", "reason": "allowed", "rule": "users", "credential": "jwt"}
    failed = {"outcome": "error", "reason": "internal_error", "rule": "", "credential": "none"}
    assert registry.get_sample_value("authz_decisions_total", allowed) == 2
    assert registry.get_sample_value("authz_decisions_total", failed) == 1


def test_rules_beyond_the_bound_share_a_label() -> None:
    registry, metrics = CollectorRegistry(), DecisionMetrics()
    registry.register(metrics)
    for number in range(MAX_RULES + 5):
        for _ in range(2):
            metrics.count(decision(f"rule {number}"))
    others = {"outcome": "allow", "reason": "allowed", "rule": OTHER_RULES, "credential": "none"}
    assert registry.get_sample_value("authz_decisions_total", others) == 10
    assert len(generate_latest(registry).splitlines()) < MAX_RULES + 10


def test_what_shadow_rules_would_change_is_counted() -> None:
    registry, metrics = CollectorRegistry(), DecisionMetrics()
    registry.register(metrics)
    metrics.count(decision("users", shadow=Verdict(Outcome.DENY, "denied_by_rule", 403, "new")))
    labels = {"rule": "new", "outcome": "deny"}
    assert registry.get_sample_value("authz_shadow_differences_total", labels) == 1
