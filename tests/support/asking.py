"""Evaluates requests with a policy, for tests of the policy language."""

from typing import Any

from authz.engine.decide import Authorizer, Decision, decision_ids
from authz.policy.compile.load import parse_policy
from authz.request.identity import Authentication, CredentialKind, Identity
from authz.request.request import Request
from tests.support.callers import ALICE, Says
from tests.support.checks import Headers, check_request

NOON = 1_767_612_600.0
"""2026-01-05 11:30 UTC, a Monday."""


def caller(**claims: Any) -> Identity:
    """Return the identity of Alice with these claims."""
    return Identity(CredentialKind.JWT, "alice", ALICE.issuer, ALICE.scopes, ALICE.roles, claims=claims)


def ask(
    policy: str,
    who: Authentication = None,
    method: str = "GET",
    path: str = "/",
    headers: Headers = (),
    *,
    source: str = "192.0.2.1",
    trusted_hops: int = 0,
    now: float = NOON,
    body: bytes | None = None,
    partial: str = "false",
) -> Decision:
    """Return the decision. `body` is as Envoy sends it, with its header about the body."""
    if body is not None:
        headers = [*dict(headers).items(), ("x-envoy-auth-partial-body", partial)]
    message = check_request(method, path, headers=headers, source=source)
    message.attributes.request.http.raw_body = body or b""
    authorizer = Authorizer(parse_policy(policy), Says(who), decision_ids(lambda: 0.5))
    decision = authorizer.decide(Request(message, trusted_hops), now)
    assert isinstance(decision, Decision)
    return decision


def allowed(condition: str, who: Authentication = None, **asked: Any) -> bool:
    """Return whether a rule that allows anyone with this condition allows."""
    return ask(f"rules: [{{name: r, allow: anyone, {condition}}}]", who, **asked).verdict.status == 200


def denied(condition: str, who: Authentication = None, **asked: Any) -> bool:
    """Return whether a rule that denies anyone with this condition denies."""
    policy = f"rules: [{{name: open, allow: anyone}}, {{name: r, deny: anyone, {condition}}}]"
    return ask(policy, who, **asked).verdict.rule == "r"
