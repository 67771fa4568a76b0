"""CORS: what scripts of other origins may ask (the Fetch standard, CORS protocol)."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from authz.policy.compile.compile import Policy
from authz.policy.rule import Cors, Outcome, Rule, Verdict
from authz.request.request import Request

PREFLIGHT_STATUS = 204


class Script(NamedTuple):
    """A script that asks, from an origin that a rule names."""

    origin: str
    cors: Cors


def preflight(policy: Policy, request: Request) -> Verdict | None:
    """The answer to a browser that asks whether it may ask; None where no rule speaks of that.

    The rule is the one that would have to allow the request itself: for the method that is asked
    for, at this path. It says nothing about who may: a preflight carries no credential, and gets none
    of the resource. A request that another rule will deny is asked for as well, so that the script can
    read why (emissary-ingress/emissary#3051).
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
    """The script that asks, where a rule that could allow the request names its origin.

    Whatever the answer is then, the script may read it (envoyproxy/envoy#23473): the rule need not be
    the one that decides.
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
    """The origin of the script that asks, where it is one that the rule names; None otherwise."""
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
