"""An explanation as plain data, for programs."""

from typing import Any

from authz.tools.explain import Answer, Considered, Explanation, Finding


def as_data(explanation: Explanation) -> dict[str, Any]:
    """The explanation as plain data: the format of `--json`, which only ever gains keys."""
    return {
        **_answer(explanation.answer),
        "steps": [{"title": step.title, "text": step.text} for step in explanation.steps],
        "shadow": None if explanation.shadow is None else _answer(explanation.shadow),
        "rules": [_rule(one) for one in explanation.considered],
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "outcome": answer.outcome.value,
        "status": answer.status,
        "reason": answer.reason,
        "rule": answer.rule,
    }


def _rule(one: Considered) -> dict[str, Any]:
    rule = one.rule
    return {
        "rule": rule.name,
        "source": rule.source,
        "effect": "allow" if rule.allows else "deny",
        "mode": "shadow" if rule.shadow else "enforce",
        "covers": one.covered,
        "why_not": one.why_not,
        "applies": one.applies,
        "conditions": [_finding(finding) for finding in (*one.requests, *one.demands)],
        "callers": [[_finding(finding) for finding in conditions] for conditions in one.callers],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {"text": finding.text, "held": finding.held, "found": finding.found, "name": finding.name}
