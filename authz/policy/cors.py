"""CORS: what scripts of other origins may ask (the Fetch standard, CORS protocol)."""

from authz.policy.compile import Policy
from authz.policy.rule import Cors, Outcome, Rule, Verdict
from authz.request import Request

PREFLIGHT_STATUS = 204


def preflight(policy: Policy, request: Request) -> Verdict | None:
    """The answer to a browser that asks whether it may ask; None where no rule speaks of that.

    The rule is the one that would have to allow the request itself: for the method that is asked
    for, at this path. It says nothing about who may: a preflight carries no credential, and gets none
    of the resource. Where a rule denies anyone, there is nothing to ask for.
    """
    methods = request.header_values("access-control-request-method")
    if len(methods) != 1 or request.path.oddities:
        return None
    cell = policy.index.find(request.host, methods[0], request.path.segments)
    if any(rule.open and not rule.requests for rule in cell.denies):
        return None
    for rule in cell.allows:
        if origin_of(request, rule.verdict.extras.cors) is not None:
            return _answer(rule)
    return None


def origin_of(request: Request | None, cors: Cors | None) -> str | None:
    """The origin of the script that asks, where it is one that the rule names; None otherwise."""
    if cors is None or request is None:
        return None
    origins = request.header_values("origin")
    return origins[0] if len(origins) == 1 and origins[0] in cors.origins else None


def _answer(rule: Rule) -> Verdict:
    return Verdict(
        Outcome.PREFLIGHT, "cors_preflight", PREFLIGHT_STATUS, rule.name, extras=rule.verdict.extras
    )
