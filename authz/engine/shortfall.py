"""What a request or a caller lacks, in words for operators. No client ever sees it."""

from collections.abc import Iterable

from authz.policy.conditions.condition import Condition
from authz.policy.index import INSUFFICIENT, UNMET, RuleSet
from authz.policy.rule import Verdict
from authz.request.identity import Identity
from authz.request.request import Request

MAX_CONDITIONS = 4
"""The most conditions named for one rule; most rules have one to three."""


def shortfall(cell: RuleSet, verdict: Verdict, identity: Identity, request: Request, now: float) -> str:
    """What kept the request from being allowed; `verdict` of `cell` says only that something did.

    Names the conditions as the policy spells them. Of what the request has instead, it shows scopes, roles
    and the like, but no header, claim or body, which may hold secrets. `now`: unix seconds.
    """
    if verdict.reason == UNMET.reason and cell.missed is not None:
        return _told(_failing(cell.missed.requests, identity, request, now), identity, request, now)
    if verdict.reason == INSUFFICIENT.reason and cell.allows:
        rule = cell.allows[0]
        lacking = _failing(rule.demands, identity, request, now)
        described = [_failing(conditions, identity, request, now) for conditions in rule.callers]
        # Among several descriptions of callers, name the one that this caller came closest to.
        nearest = min(described, key=len, default=[])
        return _told([*lacking, *nearest], identity, request, now)
    return ""


def _failing(
    conditions: Iterable[Condition], identity: Identity, request: Request, now: float
) -> list[Condition]:
    return [one for one in conditions if one.test(identity, request, now) is not True]


def _told(failing: Iterable[Condition], identity: Identity, request: Request, now: float) -> str:
    parts = []
    for condition in [*failing][:MAX_CONDITIONS]:
        found = f" (found: {condition.why(identity, request, now)})" if condition.tells else ""
        parts.append(f"{condition.text}{found}")
    return f"needs: {'; '.join(parts)}" if parts else ""
