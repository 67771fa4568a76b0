"""A candidate counts what it would change, and is never wrong about it."""

import pytest
from hypothesis import given

from authz.engine.candidate import Candidate, CandidateCounts
from authz.engine.decide import INTERNAL_ERROR, Authorizer
from authz.policy.compile.compile import Policy
from authz.policy.compile.load import parse_policy
from authz.policy.rule import Outcome
from authz.request.identity import Authentication, CredentialKind, Identity, Refusal, RefusalReason
from authz.request.request import Request
from tests.support.callers import Says
from tests.support.checks import request
from tests.support.policies import NOW, decided, outcomes, policies, requests

CALLER = Identity(CredentialKind.JWT, "ann", scopes=frozenset({"read"}))
REFUSED = Refusal(RefusalReason.TOKEN_EXPIRED)
NEEDS_READ = "rules: [{name: old, paths: [/], allow: {scopes: [read]}}]"
NEEDS_WRITE = "rules: [{name: new, paths: [/], allow: {scopes: [write]}}]"
ANYONE = "rules: [{name: all, paths: [/], allow: anyone}]"


def judged(serving: str, candidate: str, caller: Authentication) -> CandidateCounts:
    counts = CandidateCounts()
    decision = Authorizer(parse_policy(serving), Says(caller), lambda: "id").decide(request(), NOW)
    Candidate(parse_policy(candidate), counts).judge(request(), decision, NOW)  # type: ignore[arg-type]
    return counts


@given(policies(), policies(), requests, outcomes)
def test_what_it_counts_is_what_it_would_decide(
    serving: Policy, candidate: Policy, asked: Request, caller: Authentication
) -> None:
    counts = CandidateCounts()
    decision = decided(serving, asked, caller)
    Candidate(candidate, counts).judge(asked, decision, NOW)
    would_be = decided(candidate, asked, caller)
    if not counts.unknown:
        differs = would_be.verdict.outcome is not decision.verdict.outcome
        assert counts.totals() == {"same": not differs, "changed": differs, "unknown": 0}


@pytest.mark.parametrize(
    ("serving", "candidate", "caller", "expected"),
    [
        (NEEDS_READ, NEEDS_READ, CALLER, "same"),
        (NEEDS_READ, NEEDS_WRITE, CALLER, "changed"),
        (NEEDS_READ, ANYONE, None, "changed"),
        (NEEDS_READ, NEEDS_WRITE, None, "same"),
        (NEEDS_READ, NEEDS_WRITE, REFUSED, "same"),
        (NEEDS_READ, ANYONE, REFUSED, "changed"),
        (ANYONE, NEEDS_READ, CALLER, "unknown"),
        (ANYONE, "rules: [{name: none, paths: [/], deny: anyone}]", CALLER, "changed"),
    ],
)
def test_the_caller_is_the_one_that_was_found(
    serving: str, candidate: str, caller: Authentication, expected: str
) -> None:
    counts = judged(serving, candidate, caller)
    assert counts.totals() == {"same": 0, "changed": 0, "unknown": 0, expected: 1}


def test_differences_are_counted_by_the_rule_that_decides_then() -> None:
    _, differences = judged(NEEDS_READ, ANYONE, None).collect()
    assert [(sample.labels, sample.value) for sample in differences.samples] == [
        ({"rule": "all", "was": "deny", "outcome": "allow"}, 1)
    ]
    _, differences = judged(NEEDS_READ, NEEDS_WRITE, CALLER).collect()
    assert [sample.labels["rule"] for sample in differences.samples] == ["new"]


def test_an_error_says_nothing_about_a_policy() -> None:
    counts = CandidateCounts()
    error = Authorizer(parse_policy(ANYONE), Says(None), lambda: "id").decided(INTERNAL_ERROR)
    Candidate(parse_policy(ANYONE), counts).judge(request(), error, NOW)
    assert counts.unknown == 1


def test_the_number_of_series_is_bounded() -> None:
    counts = CandidateCounts()
    for number in range(1_100):
        counts.differ(f"rule-{number}", Outcome.ALLOW, Outcome.DENY)
    _, differences = counts.collect()
    assert len(differences.samples) == 1_001
    assert counts.changed == 1_100
