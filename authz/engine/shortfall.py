"""Describes to operators what a request or caller lacks. Clients never see it."""

from collections.abc import Iterable
from typing import Final

from authz.policy.conditions.condition import Condition
from authz.policy.index import INSUFFICIENT, UNMET, RuleSet
from authz.policy.rule import Verdict
from authz.request.identity import Identity
from authz.request.request import Request

MAX_CONDITIONS: Final = 4
"""The most conditions listed for one rule; most rules have one to three."""


def shortfall(rule_set: RuleSet, verdict: Verdict, identity: Identity, request: Request, now: float) -> str:
    """Return the conditions that kept the request from being allowed; empty for other verdicts.

    Conditions appear as the policy spells them. The values found instead are shown for scopes, roles and the
    like, never for headers, claims or bodies, which may hold secrets. `now` is in unix seconds.
    """
    if verdict.reason == UNMET.reason and rule_set.missed is not None:
        return _text(_failing(rule_set.missed.requests, identity, request, now), identity, request, now)
    if verdict.reason == INSUFFICIENT.reason and rule_set.allows:
        rule = rule_set.allows[0]
        lacking = _failing(rule.demands, identity, request, now)
        described = [_failing(conditions, identity, request, now) for conditions in rule.callers]
        # Among several descriptions of callers, name the one that this caller came closest to.
        nearest = min(described, key=len, default=[])
        return _text([*lacking, *nearest], identity, request, now)
    return ""


def _failing(
    conditions: Iterable[Condition], identity: Identity, request: Request, now: float
) -> list[Condition]:
    return [one for one in conditions if one.test(identity, request, now) is not True]


def _text(failing: Iterable[Condition], identity: Identity, request: Request, now: float) -> str:
    parts = []
    for condition in [*failing][:MAX_CONDITIONS]:
        found = f" (found: {condition.why(identity, request, now)})" if condition.loggable else ""
        parts.append(f"{condition.text}{found}")
    return f"needs: {'; '.join(parts)}" if parts else ""
