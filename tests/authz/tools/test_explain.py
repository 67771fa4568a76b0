"""The explanation takes its own way to the answer, so it has to come to the same as `decide`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.engine.decide import BAD_REQUEST
from authz.policy.compile.compile import Policy
from authz.policy.compile.load import parse_policy
from authz.request.identity import Authentication, CredentialKind, Identity, Refusal, RefusalReason
from authz.request.request import BadRequestReason, Request
from authz.tools.explain import Answer, Considered, Explanation, explain, explain_unreadable
from tests.support.callers import ALICE
from tests.support.checks import request
from tests.support.policies import NOW, decided, outcomes, policies, requests


@settings(max_examples=400, deadline=None)
@given(policies(), requests, outcomes, st.sampled_from([NOW, NOW + 86_400 * 3]))
def test_the_explanation_comes_to_the_decision(
    policy: Policy, asked: Request, outcome: Authentication, now: float
) -> None:
    decision = decided(policy, asked, outcome, now)
    explained = explain(policy, asked, outcome, now)
    verdict, shadow = decision.verdict, decision.shadow
    assert explained.answer == Answer(verdict.outcome, verdict.reason, verdict.status, verdict.rule)
    assert (explained.shadow and (explained.shadow.outcome, explained.shadow.rule)) == (
        shadow and (shadow.outcome, shadow.rule)
    )


@settings(max_examples=100, deadline=None)
@given(policies(), requests, outcomes)
def test_the_rule_that_decided_is_one_that_applied(
    policy: Policy, asked: Request, outcome: Authentication
) -> None:
    explained = explain(policy, asked, outcome, NOW)
    if explained.answer.reason in {"allowed", "denied_by_rule"}:
        assert considered(explained, explained.answer.rule).applies is True


def considered(explanation: Explanation, name: str) -> Considered:
    return next(one for one in explanation.considered if one.rule.name == name)


POLICY = """
conditions:
  office: {client: [10.0.0.0/8]}
rules:
  - {name: users, hosts: [api.example.com], methods: [GET], paths: ["/users/{id}"], allow: {scopes: [read]}}
  - {name: tenants, paths: ["/users/{id}"], if: office, allow: [{roles: [admin]}, {subjects: [alice]}]}
  - {name: orders, paths: [/orders], when: "claims.level > 3", allow: authenticated}
"""


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (request(path="/users/1", host="other.example"), "host other.example is not api.example.com"),
        (request(method="POST", path="/users/1"), "method POST is not GET"),
        (request(path="/user/1"), "path /user/1 is not /users/{id}"),
    ],
)
def test_it_names_which_of_host_method_and_path_differs_from_the_rule(asked: Request, why: str) -> None:
    found = considered(explain(parse_policy(POLICY), asked, ALICE, NOW), "users")
    assert (found.covered, found.why_not) == (False, why)


def test_it_shows_the_expected_and_the_actual_value() -> None:
    caller = Identity(CredentialKind.JWT, "bob", scopes=frozenset({"orders.read"}))
    found = considered(explain(parse_policy(POLICY), request(path="/users/1"), caller, NOW), "users")
    assert found.applies is False
    assert [(one.text, one.held, one.found) for one in found.callers[0]][1:] == [
        ("has scopes read", False, "orders.read")
    ]


def test_a_named_condition_keeps_its_name() -> None:
    found = considered(explain(parse_policy(POLICY), request(path="/users/1"), ALICE, NOW), "tenants")
    assert [(one.name, one.held) for one in found.requests] == [("office", False)]


def test_every_description_of_callers_is_explained() -> None:
    asked = request(path="/users/1", source="10.0.0.1")
    found = considered(explain(parse_policy(POLICY), asked, ALICE, NOW), "tenants")
    assert [all(one.held for one in conditions) for conditions in found.callers] == [False, True]
    assert found.applies is True


def test_an_expression_that_fails_says_why() -> None:
    found = considered(explain(parse_policy(POLICY), request(path="/orders"), ALICE, NOW), "orders")
    assert found.demands[0].held is None
    assert "level" in found.demands[0].found


def test_callers_are_not_examined_where_they_do_not_matter() -> None:
    policy = parse_policy("rules: [{name: open, allow: anyone}, {name: other, allow: {scopes: [x]}}]")
    explained = explain(policy, request(), Refusal(RefusalReason.TOKEN_EXPIRED), NOW)
    assert explained.answer.rule == "open"
    assert considered(explained, "other").applies is None


def test_a_request_that_cannot_be_judged_is_explained_too() -> None:
    reason = BadRequestReason.HOST
    explained = explain_unreadable(reason)
    verdict = BAD_REQUEST[reason]
    assert explained.answer == Answer(verdict.outcome, verdict.reason, verdict.status)
