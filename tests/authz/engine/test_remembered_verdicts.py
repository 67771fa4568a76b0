"""Verdicts that are remembered for a caller, and ids of decisions."""

from weakref import ref

import pytest

from authz.engine.decide import Authorizer, Decision, decision_ids
from authz.policy.compile.load import parse_policy
from authz.request.identity import CredentialKind, Identity
from tests.support.callers import ALICE, Says
from tests.support.checks import request


def test_ids_count_on_from_a_random_beginning() -> None:
    new_id = decision_ids(lambda: 0.5)
    ids = [new_id() for _ in range(0x2001)]
    assert ids == [f"800000000000{number:012x}" for number in range(0x2001)]


CACHED = """
rules:
  - {name: deny, paths: [/a], deny: {roles: [blocked]}}
  - {name: scope, paths: [/a], allow: {scopes: [read]}}
  - {name: day, paths: [/b], allow: authenticated, when: "subject == 'alice' && 'monday' in headers['x-day']"}
"""


def test_a_verdict_is_remembered_for_its_caller_alone() -> None:
    """Each caller gets the same verdict each time, and callers differ."""
    who = Says(None)
    deciding = Authorizer(parse_policy(CACHED), who, decision_ids(lambda: 0.5))
    callers = [
        Identity(CredentialKind.JWT, "a", scopes=frozenset({"read"})),
        Identity(CredentialKind.JWT, "a", scopes=frozenset({"write"})),
        Identity(CredentialKind.JWT, "a", scopes=frozenset({"read"}), roles=frozenset({"blocked"})),
    ]
    for _ in range(2):
        rules = []
        for caller in callers:
            who.outcome = caller
            decision = deciding.decide(request("GET", "/a"), 0.0)
            assert isinstance(decision, Decision)
            rules.append((decision.verdict.rule, decision.verdict.status))
        assert rules == [("scope", 200), ("scope", 403), ("deny", 403)]


def test_a_verdict_that_depends_on_the_request_is_not_remembered() -> None:
    deciding = Authorizer(parse_policy(CACHED), Says(ALICE), decision_ids(lambda: 0.5))
    statuses = []
    for day in ("monday", "tuesday", "monday"):
        decision = deciding.decide(request("GET", "/b", headers={"x-day": day}), 0.0)
        assert isinstance(decision, Decision)
        statuses.append(decision.verdict.status)
    assert statuses == [200, 403, 200]


def test_the_verdicts_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.engine.decide.MAX_JUDGED", 2)
    who = Says(None)
    deciding = Authorizer(parse_policy(CACHED), who, decision_ids(lambda: 0.5))
    for number in range(10):
        who.outcome = Identity(CredentialKind.JWT, str(number), scopes=frozenset({"read"}))
        decision = deciding.decide(request("GET", "/a"), 0.0)
        assert isinstance(decision, Decision)
        assert decision.verdict.status == 200
    assert len(list(deciding.parts())) == 2


def status_of(deciding: Authorizer, who: Says, *scopes: str) -> tuple[int, ref[Identity]]:
    """The answer to a caller that is known only for the time of its check."""
    caller = Identity(CredentialKind.JWT, "a", scopes=frozenset(scopes))
    who.outcome = caller
    decision = deciding.decide(request("GET", "/a"), 0.0)
    assert isinstance(decision, Decision)
    who.outcome = None
    return decision.verdict.status, ref(caller)


def test_a_remembered_verdict_keeps_no_caller_alive() -> None:
    """The claims of a token may have kilobytes: `cache.max_bytes` must bound them."""
    who = Says(None)
    deciding = Authorizer(parse_policy(CACHED), who, decision_ids(lambda: 0.5))
    status, caller = status_of(deciding, who, "read")
    assert (status, caller()) == (200, None)
    assert len(list(deciding.parts())) == 1


def test_a_verdict_is_not_that_of_an_earlier_caller_with_the_same_address() -> None:
    who = Says(None)
    deciding = Authorizer(parse_policy(CACHED), who, decision_ids(lambda: 0.5))
    found = [status_of(deciding, who, scope)[0] for scope in ("read", "write") * 50]
    assert found == [200, 403] * 50
