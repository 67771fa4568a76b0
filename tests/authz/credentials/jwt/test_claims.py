"""Required and forbidden claims, and how long a token may live."""

from typing import Any

import pytest

from authz.request.identity import Identity, Refusal, RefusalReason
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.signing import ISSUER, NOW, bearer, token


def outcome(harness: CredentialsHarness, changes: dict[str, Any], **claims: Any) -> Any:
    return harness.outcome(
        harness.credentials({"issuers": [harness.issuer(**changes)]}), bearer(token(**claims))
    )


class TestRequired:
    @pytest.mark.parametrize(
        ("required", "claims"),
        [
            ("email", {"email": "a@example.com"}),
            ({"claim": "email_verified", "values": [True]}, {"email_verified": True}),
            ({"claim": "tenant", "values": ["red", "blue"]}, {"tenant": "blue"}),
            ({"claim": "groups", "values": ["staff"]}, {"groups": ["users", "staff"]}),
            ({"claim": ["realm", "name"], "values": ["x"]}, {"realm": {"name": "x"}}),
            ({"claim": "level", "values": [3]}, {"level": 3}),
        ],
    )
    def test_a_token_that_has_the_claim_is_accepted(
        self, harness: CredentialsHarness, required: Any, claims: dict[str, Any]
    ) -> None:
        assert isinstance(outcome(harness, {"required_claims": [required]}, **claims), Identity)

    @pytest.mark.parametrize(
        ("required", "claims"),
        [
            ("email", {}),
            ({"claim": "email_verified", "values": [True]}, {"email_verified": False}),
            ({"claim": "email_verified", "values": [True]}, {"email_verified": 1}),
            ({"claim": "email_verified", "values": [True]}, {"email_verified": "true"}),
            ({"claim": "level", "values": [1]}, {"level": True}),
            ({"claim": "tenant", "values": ["red"]}, {"tenant": "redder"}),
            ({"claim": "groups", "values": ["staff"]}, {"groups": []}),
            ({"claim": ["realm", "name"], "values": ["x"]}, {"realm": "x"}),
        ],
    )
    def test_a_token_that_lacks_it_is_refused(
        self, harness: CredentialsHarness, required: Any, claims: dict[str, Any]
    ) -> None:
        found = outcome(harness, {"required_claims": [required]}, **claims)
        assert reason_of(found) == RefusalReason.CLAIM_MISSING


class TestForbidden:
    @pytest.mark.parametrize(
        ("forbidden", "claims"),
        [
            ("cnf", {"cnf": {"jkt": "x"}}),
            ({"claim": "amr", "values": ["pwd"]}, {"amr": ["otp", "pwd"]}),
            ({"claim": ["act", "sub"], "values": ["robot"]}, {"act": {"sub": "robot"}}),
        ],
    )
    def test_a_token_that_has_the_claim_is_refused(
        self, harness: CredentialsHarness, forbidden: Any, claims: dict[str, Any]
    ) -> None:
        found = outcome(harness, {"forbidden_claims": [forbidden]}, **claims)
        assert reason_of(found) == RefusalReason.CLAIM_FORBIDDEN

    @pytest.mark.parametrize("claims", [{}, {"amr": ["otp"]}, {"amr": "otp"}])
    def test_a_token_without_it_is_accepted(
        self, harness: CredentialsHarness, claims: dict[str, Any]
    ) -> None:
        forbidden = ["cnf", {"claim": "amr", "values": ["pwd"]}]
        assert isinstance(outcome(harness, {"forbidden_claims": forbidden}, **claims), Identity)


class TestLifetime:
    def test_a_token_of_the_longest_lifetime_is_accepted(self, harness: CredentialsHarness) -> None:
        changes = {"max_lifetime_seconds": 660}
        assert isinstance(outcome(harness, changes, iat=NOW - 60, exp=NOW + 600), Identity)

    def test_a_longer_one_is_refused(self, harness: CredentialsHarness) -> None:
        changes = {"max_lifetime_seconds": 659}
        found = outcome(harness, changes, iat=NOW - 60, exp=NOW + 600)
        assert reason_of(found) == RefusalReason.TOKEN_LIFETIME

    def test_without_iat_it_is_measured_from_now(self, harness: CredentialsHarness) -> None:
        changes = {"max_lifetime_seconds": 599}
        found = outcome(harness, changes, iat=None, exp=NOW + 600)
        assert reason_of(found) == RefusalReason.TOKEN_LIFETIME

    def test_without_a_setting_there_is_no_limit(self, harness: CredentialsHarness) -> None:
        assert isinstance(outcome(harness, {"max_lifetime_seconds": None}, iat=NOW, exp=NOW + 1e9), Identity)


@pytest.mark.parametrize("changes", [{"required_claims": [{"claim": []}]}, {"forbidden_claims": [""]}])
def test_a_claim_without_a_name_is_an_error(harness: CredentialsHarness, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="claim"):
        harness.config({"issuers": [harness.issuer(**changes)]})


def test_scopes_are_separated_by_single_spaces_alone(harness: CredentialsHarness) -> None:
    """RFC 6749 section 3.3: another kind of space is not a separator, and must not split a scope."""
    found = outcome(harness, {}, scope="orders:read\u2003admin  profile")
    assert isinstance(found, Identity)
    assert found.scopes == {"orders:read\u2003admin", "profile"}


def test_keys_that_would_be_too_old_before_they_are_fetched_again_are_an_error(
    harness: CredentialsHarness,
) -> None:
    jwks = {"url": "https://idp.example.com/keys", "refresh_seconds": 300, "max_stale_seconds": 60}
    with pytest.raises(ValueError, match="max_stale_seconds must not be less than refresh_seconds"):
        harness.config({"issuers": [harness.issuer(jwks=jwks)]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audiences": ["any"]}, "to accept all write audiences: any"),
        ({"jwks": {"file": "keys.json", "refresh_seconds": 60}}, "refresh_seconds does nothing with a file"),
        ({"jwks": {"file": "keys.json", "allow_http": True}}, "allow_http does nothing with a file"),
    ],
)
def test_what_would_not_do_what_it_says_is_an_error(
    harness: CredentialsHarness, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        harness.config({"issuers": [harness.issuer(**changes)]})


def test_so_are_places_for_tokens_without_an_issuer(harness: CredentialsHarness) -> None:
    with pytest.raises(ValueError, match="tokens does nothing without issuers"):
        harness.config({"tokens": {"max_bytes": 4096}})


class TestSubject:
    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (7, "a number"),
            (7.5, "a number"),
            (True, "true or false"),
            (["a"], "a list"),
            ({"a": 1}, "an object"),
        ],
    )
    def test_one_that_is_not_text_has_its_own_reason(
        self, harness: CredentialsHarness, value: Any, kind: str
    ) -> None:
        """RFC 7519 section 4.1.2: providers that number their users write it as a number."""
        found = outcome(harness, {}, sub=value)
        assert reason_of(found) == RefusalReason.SUBJECT_MALFORMED
        assert isinstance(found, Refusal)
        assert found.detail == f"its sub is {kind}, and a subject is text (issuer {ISSUER})"

    @pytest.mark.parametrize(
        ("claims", "subject"),
        [
            ({"email": "a@example.com"}, "a@example.com"),
            ({"email": ""}, "alice"),
            ({}, "alice"),
            ({"email": "a@example.com", "sub": None}, "a@example.com"),
        ],
    )
    def test_the_first_claim_of_a_list_that_says_something_counts(
        self, harness: CredentialsHarness, claims: dict[str, Any], subject: str
    ) -> None:
        found = outcome(harness, {"subject_claim": ["email", "sub"]}, **claims)
        assert isinstance(found, Identity)
        assert found.subject == subject

    def test_another_credential_does_not_hide_a_bad_one(self, harness: CredentialsHarness) -> None:
        found = outcome(harness, {"subject_claim": ["email", "sub"]}, email=7)
        assert reason_of(found) == RefusalReason.SUBJECT_MALFORMED

    def test_without_any_of_them_all_are_named(self, harness: CredentialsHarness) -> None:
        found = outcome(harness, {"subject_claim": ["email", "sub"]}, sub=None)
        assert isinstance(found, Refusal)
        assert (found.reason, found.detail) == (
            RefusalReason.CLAIM_MISSING,
            f"it has no email and no sub (issuer {ISSUER})",
        )


@pytest.mark.parametrize(
    ("value", "roles"),
    [
        ({"admin": {"2": "shop.example"}, "viewer": {"2": "shop.example"}}, {"admin", "viewer"}),
        ({"admin": False, "root": None, "owner": {}, "viewer": True}, {"viewer"}),
        ({}, set()),
        ("admin", {"admin"}),
        (7, set()),
    ],
)
def test_zitadel_roles_may_be_the_keys_of_an_object(
    harness: CredentialsHarness, value: Any, roles: set[str]
) -> None:
    claim = "urn:zitadel:iam:org:project:roles"
    found = outcome(harness, {"roles_claim": claim}, **{claim: value})
    assert isinstance(found, Identity)
    assert found.roles == roles
