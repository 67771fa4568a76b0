"""Decisions and their records."""

from authz.engine.decide import Decision
from authz.engine.decision_record import DecisionRecord, record_of
from authz.policy.rule import Outcome, Verdict
from authz.request.identity import Identity
from tests.support.callers import ALICE
from tests.support.checks import request

ALLOWED = Verdict(Outcome.ALLOW, "allowed", 200, "users")


DENIED = Verdict(Outcome.DENY, "denied_by_rule", 403, "shut")


NOW = 1_770_000_000.0


def decision(number: int = 0, verdict: Verdict = ALLOWED, identity: Identity = ALICE) -> Decision:
    return Decision(verdict, f"{number:024x}", "revision", identity, "jwt")


def entry(
    number: int = 0, verdict: Verdict = ALLOWED, path: str = "/users/1", request_id: str = ""
) -> DecisionRecord:
    headers = {"x-request-id": request_id} if request_id else {}
    return record_of(request(path=path, headers=headers), decision(number, verdict), NOW)
