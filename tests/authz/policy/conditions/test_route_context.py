"""The configuration of the route can be a condition (envoyproxy/envoy#23615)."""

from collections.abc import Mapping

import orjson
import pytest

from authz.engine.decide import Authorizer, Decision, decision_ids
from authz.policy.compile.load import parse_policy
from authz.request.request import Request
from authz.tools.examples import RequestExample
from authz.tools.explain import explain
from authz.tools.replay import replay
from tests.support.callers import Says
from tests.support.log_records import record

POLICY = """
rules:
  - {name: open, allow: anyone}
  - {name: inner, deny: anyone, context_extensions: {audience: {one_of: [internal, ops]}}}
"""


def rule(policy: str, context: Mapping[str, str]) -> str:
    message = RequestExample(context_extensions=dict(context)).message()
    authorizer = Authorizer(parse_policy(policy), Says(None), decision_ids(lambda: 0.5))
    decision = authorizer.decide(Request(message), 0.0)
    assert isinstance(decision, Decision)
    return decision.verdict.rule


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({"audience": "internal"}, "inner"),
        ({"audience": "ops"}, "inner"),
        ({"audience": "Internal"}, "open"),
        ({"other": "internal"}, "open"),
        ({}, "open"),
    ],
)
def test_it_is_compared_as_it_is(context: Mapping[str, str], expected: str) -> None:
    assert rule(POLICY, context) == expected


def test_an_allow_rule_needs_it() -> None:
    policy = "rules: [{name: r, allow: anyone, context_extensions: {audience: {present: true}}}]"
    decision = parse_policy(policy).rules[0]
    assert [condition.text for condition in decision.requests] == ["context audience is present"]
    assert rule(policy, {"audience": "x"}) == "r"


def test_no_header_passes_for_it() -> None:
    message = RequestExample(headers={"audience": "internal", "x-audience": "internal"}).message()
    assert not parse_policy(POLICY).rules[1].covers(Request(message), 0.0)


@pytest.mark.parametrize(
    ("effect", "context", "allowed"),
    [
        ("allow", {"audience": "ops"}, True),
        ("allow", {"audience": "public"}, False),
        ("allow", {}, False),
        ("deny", {"audience": "ops"}, False),
        ("deny", {"audience": "public"}, True),
        ("deny", {}, False),
    ],
)
def test_an_expression_sees_it(effect: str, context: Mapping[str, str], allowed: bool) -> None:
    policy = f"""
rules:
  - {{name: open, allow: anyone, paths: [{"/" if effect == "deny" else "/else"}]}}
  - {{name: r, paths: [/], {effect}: anyone, when: context_extensions.audience == 'ops'}}
"""
    message = RequestExample(path="/", context_extensions=dict(context)).message()
    authorizer = Authorizer(parse_policy(policy), Says(None), decision_ids(lambda: 0.5))
    decision = authorizer.decide(Request(message), 0.0)
    assert isinstance(decision, Decision)
    assert (decision.verdict.status == 200) is allowed


def test_a_replay_of_an_expression_about_it_is_undecidable() -> None:
    policy = "rules: [{name: open, allow: anyone, when: context_extensions.audience == 'ops'}]"
    report = replay([orjson.dumps(record(authz_rule="open"))], parse_policy(policy))
    assert (report.unknown, report.missing["context"]) == (1, 1)


def test_an_explanation_holds_what_was_found() -> None:
    request = Request(RequestExample(context_extensions={"audience": "ops"}).message())
    considered = explain(parse_policy(POLICY), request, None, 0.0).considered[1]
    assert [(one.held, one.found) for one in considered.requests] == [(True, "ops")]


def test_a_replay_knows_that_no_record_has_it() -> None:
    report = replay([orjson.dumps(record(authz_rule="open"))], parse_policy(POLICY))
    assert (report.unknown, report.missing["context audience"]) == (1, 1)
