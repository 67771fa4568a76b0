"""What a client sends is read once for a request, and not once for each rule that asks for it."""

import sys
from types import FrameType
from typing import Any

import pytest

from authz.engine.decide import Authorizer, decision_ids
from authz.policy.compile.load import parse_policy
from authz.request.request import Request
from tests.support.callers import Says
from tests.support.checks import check_request

FORM = {"content-type": "application/x-www-form-urlencoded", "x-envoy-auth-partial-body": "false"}
JSON = {**FORM, "content-type": "application/json"}
MANY = range(900)
NAMES = "&".join(f"p{number}[a][b][c]=v" for number in MANY)


def calls_of(rule: str, number: int, asked: dict[str, Any]) -> int:
    """The calls of functions that a decision takes with so many rules, none of which denies."""
    rules = "".join(f"  - {{name: r{one}, deny: anyone, {rule}}}\n" for one in range(number))
    allow = '{name: open, paths: ["/**"], allow: anyone, accept_in_path: [encoded_slash, parameters]}'
    policy = parse_policy(f"rules:\n  - {allow}\n{rules}")
    authorizer = Authorizer(policy, Says(None), decision_ids(lambda: 0.5))
    message = check_request("POST", asked.get("path", "/x"), headers=[*asked.get("headers", {}).items()])
    message.attributes.request.http.raw_body = asked.get("body", b"")
    calls = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        decision = authorizer.decide(Request(message), 0.0)
    finally:
        sys.setprofile(None)
    assert decision.verdict.rule == "open"  # type: ignore[union-attr]  # nothing is waited for
    return calls


@pytest.mark.parametrize(
    ("rule", "asked"),
    [
        ("query: {role: admin}", {"path": f"/x?{NAMES}"}),
        ("when: \"'role' in query && 'admin' in query.role\"", {"path": f"/x?{NAMES}"}),
        ("body: {role: admin}", {"headers": FORM, "body": NAMES.encode()}),
        ("when: has(body.role)", {"headers": FORM, "body": NAMES.encode()}),
        (
            "when: has(body.role) && body.role == 'admin'",
            {"headers": FORM, "body": "&".join(["role=user"] * 60 + [NAMES]).encode()},
        ),
        (
            "when: has(body.role)",
            {
                "headers": JSON,
                "body": ("{" + ",".join(f'"k{number}":1' for number in MANY) + "}").encode(),
            },
        ),
        ("when: path == '/admin'", {"path": "/x" + "%2fa;b" * 30}),
    ],
)
def test_twenty_rules_cost_little_more_than_one(rule: str, asked: dict[str, Any]) -> None:
    one = calls_of(rule, 1, asked)
    assert one > 100, "what the client sends is a lot"
    assert calls_of(rule, 20, asked) < 10 * one


def test_a_header_of_many_parts_is_unknown() -> None:
    message = check_request(headers={"x-role": "," * 50_000})
    for rule in ("headers: {x-role: admin}", "when: \"'admin' in headers['x-role']\""):
        policy = parse_policy(f"rules: [{{name: o, allow: anyone}}, {{name: d, deny: anyone, {rule}}}]")
        decision = Authorizer(policy, Says(None), decision_ids(lambda: 0.5)).decide(Request(message), 0.0)
        assert decision.verdict.rule == "d"  # type: ignore[union-attr]  # nothing is waited for
