"""A rule that allows anyone can pass the identity of a valid credential to the upstream."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from authz.policy.compile.load import parse_policy
from authz.request.identity import ANONYMOUS, Authentication, CredentialKind, Identity, Refusal, RefusalReason
from common.configfile import ConfigError
from protos.authz_pb2 import CheckResponse
from tests.support.answers import Answers, pairs
from tests.support.asking import ask
from tests.support.callers import ALICE

OPTIONAL = "rules: [{name: open, allow: anyone, identify: optional}]"
REFUSED = Refusal(RefusalReason.TOKEN_EXPIRED, kind=CredentialKind.JWT)
AWAY = Refusal(RefusalReason.KEYS_UNAVAILABLE, kind=CredentialKind.JWT)


def answer(who: Authentication, policy: str = OPTIONAL, **asked: Any) -> CheckResponse:
    return Answers(policy, who)(**asked)


def test_the_caller_of_a_good_credential_is_sent_upstream() -> None:
    response = answer(ALICE)
    assert pairs(response.ok_response.headers)["x-auth-subject"] == "alice"
    result = MessageToDict(response.dynamic_metadata)
    assert (result["rule"], result["subject"], result["credential"]) == ("open", "alice", "jwt")


@pytest.mark.parametrize("who", [None, REFUSED, AWAY])
def test_without_a_good_credential_the_allowed_caller_is_anonymous(who: Authentication) -> None:
    response = answer(who)
    assert response.HasField("ok_response")
    assert not response.ok_response.headers
    assert "x-auth-subject" in response.ok_response.headers_to_remove
    result = MessageToDict(response.dynamic_metadata)
    assert (result["outcome"], result.get("credential")) == ("allow", "jwt" if who else None)
    assert "subject" not in result


@pytest.mark.parametrize("said", ["", ", identify: never"])
def test_without_it_no_server_is_asked(said: str) -> None:
    answers = Answers(f"rules: [{{name: open, allow: anyone{said}}}]", ALICE)
    assert not answers().ok_response.headers
    assert answers.says.times == 0


def test_a_deny_rule_about_callers_still_counts() -> None:
    policy = OPTIONAL.replace("]", ", {name: shut, deny: {subjects: [alice]}}]")
    assert answer(ALICE, policy).dynamic_metadata["rule"] == "shut"
    assert answer(REFUSED, policy).HasField("ok_response")
    # Without identify a bad credential is refused where a deny rule asks who it is.
    strict = policy.replace(", identify: optional", "")
    assert answer(REFUSED, strict).denied_response.status.code == 401


WITH_CERTIFICATES = """
credentials:
  mtls: {principals: ["spiffe://prod/*"], forwarded: {trusted_networks: [10.0.0.0/8]}}
rules:
  - {name: open, allow: anyone, identify: optional}
  - {name: shut, paths: [/shut], deny: {subjects: ["spiffe://prod/mallory"]}}
"""


@pytest.mark.parametrize(
    "asked",
    [
        {"principal": "spiffe://prod/mallory"},
        {"source": "10.1.2.3", "headers": {"x-forwarded-client-cert": "URI=spiffe://prod/mallory"}},
    ],
)
def test_a_bad_token_does_not_hide_a_certificate_from_a_deny_rule(asked: dict[str, Any]) -> None:
    for who in (REFUSED, AWAY):
        assert not answer(who, WITH_CERTIFICATES, path="/shut", **asked).HasField("ok_response")
        assert answer(who, WITH_CERTIFICATES, path="/open", **asked).HasField("ok_response")
        assert answer(who, WITH_CERTIFICATES, path="/shut").HasField("ok_response")


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_rules_for_anyone_one_is_enough(order: int) -> None:
    rules = ["{name: wide, allow: anyone}", "{name: near, paths: [/a], allow: anyone, identify: optional}"]
    policy = f"rules: [{', '.join(rules[::order])}]"
    assert pairs(answer(ALICE, policy, path="/a").ok_response.headers)["x-auth-subject"] == "alice"
    assert not answer(ALICE, policy, path="/b").ok_response.headers


def test_where_it_does_not_depend_on_the_request_it_identifies_no_one() -> None:
    policy = """
rules:
  - {name: office, allow: anyone, identify: optional, client: 10.0.0.0/8}
  - {name: all, allow: authenticated}
"""
    assert answer(REFUSED, policy, source="10.1.2.3").HasField("ok_response")
    assert answer(REFUSED, policy, source="192.0.2.1").denied_response.status.code == 401


def test_a_shadow_rule_identifies_no_one() -> None:
    policy = """
rules:
  - {name: open, allow: anyone}
  - {name: trial, allow: anyone, identify: optional, mode: shadow}
"""
    assert ask(policy, ALICE).identity is ANONYMOUS


@pytest.mark.parametrize("rule", ["allow: authenticated", "deny: anyone", "allow: {roles: [a]}"])
def test_it_belongs_to_rules_for_anyone(rule: str) -> None:
    with pytest.raises(ConfigError, match=r"belongs to allow: anyone|nothing upstream"):
        parse_policy(f"rules: [{{name: r, {rule}, identify: optional}}]")


def test_from_defaults_it_counts_for_rules_for_anyone_only() -> None:
    policy = """
defaults: {site: {identify: optional}}
rules:
  - {name: open, inherit: site, paths: [/open], allow: anyone}
  - {name: known, inherit: site, paths: [/known], allow: authenticated}
"""
    assert pairs(answer(ALICE, policy, path="/open").ok_response.headers)["x-auth-subject"] == "alice"
    assert answer(REFUSED, policy, path="/known").denied_response.status.code == 401


TOLD = "identity_headers: {x-user: subject}\n"


@pytest.mark.parametrize(
    ("before", "rule", "warned"),
    [
        (TOLD, "allow: anyone", "sends no identity"),
        ("", "allow: anyone, identity_headers: {x-user: subject}", "leaves identity_headers empty"),
        ("", "allow: anyone, query_set: {u: '{subject}'}", "leaves query_set empty"),
        ("", "allow: anyone, query_set: {u: edge}", ""),
        ("", "allow: anyone", ""),
        (TOLD, "allow: authenticated", ""),
        (TOLD, "allow: anyone, identify: optional", ""),
        (TOLD, "allow: anyone, identify: never", ""),
    ],
)
def test_a_rule_that_sends_no_identity_upstream_is_warned_of(before: str, rule: str, warned: str) -> None:
    policy = parse_policy(f"{before}rules: [{{name: r, paths: [/a], {rule}}}]")
    messages = [problem.message for problem in policy.warnings]
    assert [message.startswith(warned) for message in messages] == ([True] if warned else [])


def test_a_subject_stays_who_it_is() -> None:
    who = Identity(CredentialKind.SESSION, "carol", claims={"tenant": "acme"})
    policy = OPTIONAL.replace("optional}", "optional, identity_headers: {x-tenant: '{claims.tenant}'}}")
    assert pairs(answer(who, policy).ok_response.headers) == {"x-auth-subject": "carol", "x-tenant": "acme"}
