"""CORS: which cross-origin requests scripts may send (Fetch standard, CORS protocol)."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from authz.policy.compile.compile import Policy
from authz.policy.rule import Cors, Outcome, Rule, Verdict
from authz.request.request import Request

PREFLIGHT_STATUS: Final = 204


class Script(NamedTuple):
    """A requesting script whose origin a rule names."""

    origin: str
    cors: Cors


def preflight(policy: Policy, request: Request) -> Verdict | None:
    """Return the verdict on a preflight request; None if no rule at this path names the origin.

    The rule is one that could allow the request itself, for the requested method at this path. Conditions on
    the caller are not tested, because a preflight carries no credential and returns nothing of the resource.
    A preflight succeeds even if another rule will deny the request, so that the script can read the reason
    (emissary-ingress/emissary#3051).
    """
    methods = request.header_values("access-control-request-method")
    if len(methods) != 1:
        return None
    oddities = request.path.oddities
    for rule in _naming(request, _rules(policy, request, methods[0])):
        if not oddities & ~rule.accepts:
            return _answer(rule)
    return None


def script_of(policy: Policy, request: Request) -> Script | None:
    """Return the requesting script, if a rule that could allow the request names its origin; otherwise None.

    The script may read the response whether or not that rule decides (envoyproxy/envoy#23473).
    """
    if not policy.cors:
        return None
    origins = request.header_values("origin")
    if len(origins) != 1:
        return None
    for rule in _naming(request, _rules(policy, request, request.method)):
        cors = rule.verdict.mutations.cors
        if cors is not None:
            return Script(origins[0], cors)
    return None


def origin_of(request: Request | None, cors: Cors | None) -> str | None:
    """Return the origin of the request if `cors` names it; otherwise None."""
    if cors is None or request is None:
        return None
    origins = request.header_values("origin")
    return origins[0] if len(origins) == 1 and origins[0] in cors.origins else None


def _rules(policy: Policy, request: Request, method: str) -> Iterable[Rule]:
    return policy.index.find(request.host, method, request.path.segments).allows


def _naming(request: Request, rules: Iterable[Rule]) -> Iterator[Rule]:
    return (rule for rule in rules if origin_of(request, rule.verdict.mutations.cors) is not None)


def _answer(rule: Rule) -> Verdict:
    return Verdict(
        Outcome.PREFLIGHT, "cors_preflight", PREFLIGHT_STATUS, rule.name, mutations=rule.verdict.mutations
    )
