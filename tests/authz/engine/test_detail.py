"""Why a request was refused, for operators: with the decision, and never with the token or to the client."""

from pathlib import Path
from typing import Any

import pytest

from authz.credentials import Credentials
from authz.engine.decide import Authorizer, Decision, decision_ids
from authz.engine.decision_record import MAX_DETAIL_CHARACTERS, NAMES, Masking, record_of
from authz.engine.respond import Responder
from authz.policy.compile.load import parse_policy
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason
from authz.request.request import BadRequestError, BadRequestReason, Request
from tests.support.callers import Says
from tests.support.checks import check_request, request
from tests.support.credentials import CredentialsHarness
from tests.support.signing import ISSUER, NOW, bearer, private_key, raw_token, token
from tests.support.signing import claims as good_claims

POLICY = """
rules:
  - name: orders
    paths: [/orders]
    headers: {x-tenant: acme}
    allow: {scopes: [orders.read, orders.list]}
  - name: reports
    paths: [/reports]
    allow:
      - {scopes: [a, b], roles: [auditor]}
      - {claims: {secret_claim: hidden}}
      - {roles: [admin], subjects: [root]}
  - name: shut
    paths: [/shut]
    deny: anyone
"""
ALICE = Identity(CredentialKind.JWT, "alice", scopes=frozenset({"orders.read", "profile"}))
TENANT = {"x-tenant": "acme"}


def decide(who: Any, path: str, headers: dict[str, str] | None = None, policy: str = POLICY) -> Decision:
    authorizer = Authorizer(parse_policy(policy), Says(who), decision_ids(lambda: 0.5))
    decision = authorizer.decide(request(path=path, headers=headers or {}), NOW)
    assert isinstance(decision, Decision)
    return decision


def test_an_allow_has_no_detail() -> None:
    who = Identity(CredentialKind.JWT, "alice", scopes=frozenset({"orders.read", "orders.list"}))
    assert decide(who, "/orders", TENANT).detail == ""


def test_unmet_conditions_are_named_without_what_was_found() -> None:
    """A header may hold a secret; the policy does not."""
    decision = decide(ALICE, "/orders", {"x-tenant": "a-secret"})
    assert decision.verdict.reason == "conditions_unmet"
    assert decision.detail == "needs: header x-tenant is 'acme'"


def test_missing_scopes_are_named_with_those_held() -> None:
    decision = decide(ALICE, "/orders", TENANT)
    assert decision.verdict.reason == "credentials_insufficient"
    assert decision.detail == ("needs: has scopes orders.read and orders.list (found: orders.read, profile)")


@pytest.mark.parametrize(
    ("holds", "detail"),
    [
        ({"scopes": frozenset("ab")}, "needs: has role auditor (found: nothing)"),
        ({"roles": frozenset({"admin"})}, "needs: subject is root"),
    ],
)
def test_the_nearest_of_several_descriptions_is_reported(holds: dict[str, Any], detail: str) -> None:
    who = Identity(CredentialKind.JWT, "x", **holds)
    policy = POLICY.replace("      - {claims: {secret_claim: hidden}}\n", "")
    assert decide(who, "/reports", policy=policy).detail == detail


def test_neither_claims_nor_subjects_are_shown() -> None:
    who = Identity(CredentialKind.JWT, "private-name", claims={"secret_claim": "private-value"})
    assert "private" not in decide(who, "/reports").detail


def test_a_deny_rule_is_its_own_reason() -> None:
    assert decide(ALICE, "/shut").detail == ""


def test_a_refused_credential_says_what_is_wrong_with_it() -> None:
    refusal = Refusal(RefusalReason.CLAIM_MISSING, "it has no email as required", CredentialKind.JWT)
    assert decide(refusal, "/orders", TENANT).detail == "it has no email as required"


async def test_so_does_a_deadline() -> None:
    refusal = Refusal(RefusalReason.DEADLINE)
    assert refusal.detail == ""

    async def never() -> None:
        raise TimeoutError

    decision = Authorizer(parse_policy(POLICY), Says(never()), decision_ids(lambda: 0.5)).decide(
        request(path="/orders", headers=TENANT), NOW
    )
    assert not isinstance(decision, Decision)
    assert (await decision).detail == "the deadline passed before the credential could be verified"


@pytest.mark.parametrize(
    ("host", "detail"),
    [
        ("a b", "host 'a b'"),
        ("a,b", "host 'a,b'"),
        ("user:hunter2@api.example.com", "host 'api.example.com' with user information"),
        ("[::1", "host '[::1'"),
        ("", "host ''"),
    ],
)
def test_a_malformed_host_is_named_without_user_information(host: str, detail: str) -> None:
    message = check_request(host=host)
    with pytest.raises(BadRequestError) as caught:
        Request(message)
    assert (caught.value.reason, caught.value.detail) == (BadRequestReason.HOST, detail)
    authorizer = Authorizer(parse_policy(POLICY), Says(None), decision_ids(lambda: 0.5))
    assert authorizer.unreadable(message, caught.value).detail == detail


class TestAccount:
    def test_it_is_recorded_unless_it_is_omitted_or_masked(self) -> None:
        refused = decide(Refusal(RefusalReason.TOKEN_EXPIRED, "it expired 5 s ago"), "/orders", TENANT)
        result = record_of(request(path="/orders"), refused, NOW)
        assert Masking().to_dict(result)["detail"] == "it expired 5 s ago"
        assert "detail" not in Masking(omit=["detail"]).to_dict(result)
        assert Masking(masked=["detail"]).to_dict(result)["detail"] == "***"
        assert "detail" in NAMES

    def test_keeps_a_bounded_part_without_control_characters(self) -> None:
        refused = decide(Refusal(RefusalReason.ISSUER_UNKNOWN, "\n\x1b[31m" + "x" * 9_000), "/orders", TENANT)
        result = record_of(request(path="/orders"), refused, NOW)
        assert len(result.detail) == MAX_DETAIL_CHARACTERS
        assert Masking().to_dict(result)["detail"].isprintable()


def test_the_client_learns_nothing_of_it() -> None:
    refused = decide(Refusal(RefusalReason.ISSUER_UNKNOWN, "no issuer 'kept-private'"), "/orders", TENANT)
    answer = Responder(parse_policy(POLICY), "0" * 24).respond(refused)
    assert b"kept-private" not in answer


class TestNoToken:
    """Whatever is wrong with a token, the detail holds no part of it that could be used."""

    @pytest.fixture
    def harness(self, tmp_path: Path) -> CredentialsHarness:
        return CredentialsHarness(tmp_path)

    @pytest.fixture
    def credentials(self, harness: CredentialsHarness) -> Credentials:
        return harness.credentials({"issuers": [harness.issuer(max_lifetime_seconds=900)], "throttle": None})

    @pytest.mark.parametrize(
        "text",
        [
            token(),
            token(exp=NOW - 100),
            token(nbf=NOW + 100),
            token(aud="another"),
            token(sub=None),
            token(sub=7),
            token(iss="https://another.example"),
            token(iss=None),
            token(kid="another"),
            token(key=private_key("ES256", 1)),
            token("RS256"),
            token(header={"typ": "logout+jwt"}),
            token(header={"crit": ["x"], "x": 1}),
            token(exp=NOW + 9_000),
            token() + "=",
            token() + ".x",
            token()[:-4],
            "x" * 9_000,
            raw_token({"alg": "none"}, good_claims(), b""),
            raw_token(b"[]", good_claims()),
        ],
        ids=range(20),
    )
    def test_is_reported(self, harness: CredentialsHarness, credentials: Credentials, text: str) -> None:
        found = harness.outcome(credentials, bearer(text))
        if isinstance(found, Identity):
            assert found.issuer == ISSUER
            return
        assert isinstance(found, Refusal)
        assert found.detail
        for part in text.split("."):
            for start in range(0, max(1, len(part) - 12), 12):
                assert part[start : start + 12] not in found.detail or not part
