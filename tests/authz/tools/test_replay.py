from typing import Any

import orjson
import pytest
from hypothesis import given, settings

from authz.engine.decide import Decision
from authz.engine.respond import metadata
from authz.policy.compile.compile import Policy
from authz.policy.compile.load import parse_policy
from authz.request.identity import Authentication, CredentialKind, Identity
from authz.request.request import Request
from authz.tools.replay import Report, Skipped, replay
from tests.support.log_records import NOW, OLD, record
from tests.support.policies import decided, outcomes, policies, requests


def replayed(new: str, *records: dict[str, Any], old: str | None = None, **known: Identity) -> Report:
    lines = [orjson.dumps(one) for one in records]
    return replay(lines, parse_policy(new), parse_policy(old) if old else None, known)


def counts(report: Report) -> tuple[int, int, int]:
    return report.same, report.different, report.unknown


def test_what_is_answered_the_same_is_the_same() -> None:
    assert counts(replayed(OLD, record(path="/public", authz_rule="public"))) == (1, 0, 0)


def test_what_would_be_refused_now_is_different() -> None:
    new = OLD + "  - {name: shut, paths: [/orders], deny: {subjects: [alice]}}\n"
    report = replayed(new, record(), record(authz_subject="bob"), old=OLD)
    assert counts(report) == (1, 1, 0)
    (group,) = report.groups.values()
    assert (group.was, group.was_rule, group.would_be, group.would_be_rule) == (
        "allow",
        "orders",
        "deny",
        "shut",
    )
    assert group.examples == ["GET api.example.com /orders alice"]


def test_what_would_be_allowed_now_is_different() -> None:
    denied = record(path="/new", authz_outcome="deny", authz_reason="no_rule", authz_rule=None)
    assert counts(replayed("rules: [{name: new, paths: [/new], allow: anyone}]", denied)) == (0, 1, 0)


def test_scopes_are_not_recorded() -> None:
    report = replayed(OLD, record())
    assert counts(report) == (0, 0, 1)
    assert report.missing == {"scopes of the caller": 1}


def test_the_old_policy_shows_what_its_conditions_found() -> None:
    assert counts(replayed(OLD, record(), old=OLD)) == (1, 0, 0)
    refused = record(authz_outcome="deny", authz_reason="credentials_insufficient")
    assert counts(replayed(OLD, refused, old=OLD)) == (1, 0, 0)


def test_the_decision_of_another_policy_decides_nothing() -> None:
    report = replayed(OLD, record(authz_policy_revision="another"), old=OLD)
    assert counts(report) == (0, 0, 1)
    assert report.other_revisions == {"another": 1}


def test_known_callers_decide_what_their_records_cannot() -> None:
    alice = Identity(CredentialKind.JWT, "alice", scopes=frozenset({"orders.read"}))
    assert counts(replayed(OLD, record(), alice=alice)) == (1, 0, 0)


def test_a_redacted_parameter_is_unknown_and_the_others_are_not() -> None:
    logged = record(path="/public", query="token=[redacted]&debug=1", redacted=["query.token"])
    for name, expected in (("token", (0, 0, 1)), ("debug", (0, 1, 0))):
        new = f"rules: [{{name: a, allow: anyone, query: {{{name}: {{present: false}}}}}}]"
        assert counts(replayed(new, logged)) == expected


def test_a_header_is_known_where_it_was_logged() -> None:
    new = "rules: [{name: a, allow: anyone, headers: {x-tenant: acme}}]"
    assert counts(replayed(new, record())) == (0, 0, 1)
    assert counts(replayed(new, record(request_headers={"x-tenant": "acme"}))) == (1, 0, 0)
    assert counts(replayed(new, record(request_headers={"x-tenant": "other"}))) == (0, 1, 0)
    assert counts(replayed(new, record(request_headers={"x-tenant": "[redacted]"}))) == (0, 0, 1)


def test_bodies_are_unknown() -> None:
    report = replayed("rules: [{name: a, allow: anyone, body: {kind: x}}]", record())
    assert counts(report) == (0, 0, 1)


def test_an_expression_about_claims_is_unknown_each_time() -> None:
    rules = ", ".join(f"{{name: {one}, allow: anyone, when: claims.{one} == 1}}" for one in "ab")
    new = f"rules: [{rules}]"
    assert counts(replayed(new, record(), record())) == (0, 0, 2)


def test_the_caller_is_unknown_where_no_credential_was_verified() -> None:
    public = record(path="/public", authz_rule="public", authz_subject=None, authz_credential=None)
    report = replayed("rules: [{name: public, allow: authenticated}]", public)
    assert counts(report) == (0, 0, 1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", Skipped.NOT_JSON),
        (b"[1]", Skipped.NOT_JSON),
        (orjson.dumps({"type": "tcp"}), Skipped.NOT_HTTP),
        (orjson.dumps(record(authz_outcome=None)), Skipped.NO_DECISION),
        (orjson.dumps(record(authz_outcome="error")), Skipped.ERROR),
        (orjson.dumps(record(method=None)), Skipped.INCOMPLETE),
        (orjson.dumps(record(truncated=True)), Skipped.INCOMPLETE),
        (orjson.dumps(record(path="/a;token=[redacted]")), Skipped.INCOMPLETE),
        (orjson.dumps(record(time="yesterday")), Skipped.INCOMPLETE),
    ],
)
def test_what_cannot_be_compared_is_counted_with_its_reason(line: bytes, reason: Skipped) -> None:
    report = replay([line, b"\n"], parse_policy(OLD))
    assert counts(report) == (0, 0, 0)
    assert report.skipped == {reason: 1}


def test_the_original_path_counts_where_envoy_rewrote_it() -> None:
    """The ext_authz filter asks before the route rewrites."""
    rewritten = record(path="/v2/x", original_path="/public", authz_rule="public")
    assert counts(replayed(OLD, rewritten)) == (1, 0, 0)


def test_a_refused_credential_may_be_what_a_denial_waits_for_that_depends_on_more() -> None:
    """The header was not logged; if the denial covers it, no request without a credential passes."""
    denial = "{name: d, deny: authenticated, headers: {x-tenant: {not_one_of: [acme]}}}"
    new = f"rules: [{denial}, {{name: a, allow: anyone}}]"
    refused = record(authz_outcome="deny", authz_reason="token_malformed", authz_subject=None)
    assert counts(replayed(new, refused)) == (0, 0, 1)


def line_of(asked: Request, decision: Decision) -> bytes:
    """The record that the access log has of a decision."""
    entry = {f"authz_{name}": value for name, value in metadata(decision).items()}
    entry |= {"time": NOW, "type": "http", "method": asked.method, "authority": asked.host}
    entry |= {"path": asked.raw_path, "query": asked.query or None}
    entry["client_ip"] = asked.source_address or None
    return orjson.dumps({name: value for name, value in entry.items() if value is not None})


@settings(max_examples=300, deadline=None)
@given(policies(), policies(), requests, outcomes)
def test_a_replay_never_claims_what_is_not_so(
    old: Policy, new: Policy, asked: Request, outcome: Authentication
) -> None:
    """Compared with the decision for the whole request. "Undecidable" is always a valid result."""
    before, after = decided(old, asked, outcome), decided(new, asked, outcome)
    report = replay([line_of(asked, before)], new, old)
    if before.verdict.outcome.value in {"allow", "deny"}:
        truly_same = before.verdict.outcome is after.verdict.outcome
        assert not (report.same and not truly_same), (before.verdict, after.verdict)
        assert not (report.different and truly_same), (before.verdict, after.verdict)
        assert sum(counts(report)) == 1
