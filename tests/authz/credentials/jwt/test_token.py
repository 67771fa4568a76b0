"""JSON Web Tokens, from the header to the identity."""

from base64 import b64encode
from typing import Any

import pytest

from authz.credentials import Credentials
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason
from tests.support.credentials import CredentialsHarness
from tests.support.signing import (
    ALGORITHMS,
    ISSUER,
    NOW,
    bearer,
    claims,
    encoded,
    jwk,
    private_key,
    raw_token,
    rsa_key,
    token,
)


@pytest.fixture
def credentials(harness: CredentialsHarness) -> Credentials:
    keys = (jwk(private_key("ES256")), jwk(private_key("RS256"), "r1"))
    return harness.credentials({"issuers": [harness.issuer(*keys)]})


def reason(harness: CredentialsHarness, credentials: Credentials, text: str) -> RefusalReason:
    outcome = harness.outcome(credentials, bearer(text))
    assert isinstance(outcome, Refusal), outcome
    return outcome.reason


def identity(harness: CredentialsHarness, credentials: Credentials, text: str) -> Identity:
    outcome = harness.outcome(credentials, bearer(text))
    assert isinstance(outcome, Identity), outcome
    return outcome


class TestGoodTokens:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_every_algorithm_verifies(self, harness: CredentialsHarness, algorithm: str) -> None:
        issuer = harness.issuer(jwk(private_key(algorithm)), algorithms=[algorithm])
        credentials = harness.credentials({"issuers": [issuer]})
        assert identity(harness, credentials, token(algorithm)).subject == "alice"

    def test_ed448_verifies_as_eddsa(self, harness: CredentialsHarness) -> None:
        key = private_key("Ed448")
        credentials = harness.credentials({"issuers": [harness.issuer(jwk(key))]})
        assert identity(harness, credentials, token("EdDSA", key=key)).subject == "alice"

    def test_the_identity_has_the_claims_of_the_token(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        found = identity(harness, credentials, token(roles=["admin"]))
        assert found == Identity(
            kind=CredentialKind.JWT,
            subject="alice",
            issuer=ISSUER,
            scopes=frozenset({"read", "write"}),
            roles=frozenset({"admin"}),
            audiences=frozenset({"edge"}),
            claims=claims(roles=["admin"]),
            expires_at=NOW + 600,
        )

    @pytest.mark.parametrize(
        "changes", [{"scope": None, "scp": ["read"]}, {"scope": ["read"]}, {"scope": "read"}]
    )
    def test_scopes_come_as_text_or_list(
        self, harness: CredentialsHarness, credentials: Credentials, changes: dict[str, Any]
    ) -> None:
        assert identity(harness, credentials, token(**changes)).scopes == {"read"}

    def test_roles_are_found_by_their_path(self, harness: CredentialsHarness) -> None:
        issuer = harness.issuer(roles_claim=["realm_access", "roles"])
        credentials = harness.credentials({"issuers": [issuer]})
        found = identity(harness, credentials, token(realm_access={"roles": ["admin", 7]}))
        assert found.roles == {"admin"}

    def test_the_right_issuer_of_fifty_is_found(self, harness: CredentialsHarness) -> None:
        """istio/istio#49691: every issuer has its own keys; none is tried that the token does not name."""
        blocks = [harness.issuer(issuer=f"https://{number}.example.com") for number in range(49)]
        own = private_key("ES384")
        blocks.append(harness.issuer(jwk(own), file="own.json", algorithms=["ES384"]))
        credentials = harness.credentials({"issuers": blocks})
        assert identity(harness, credentials, token("ES384")).issuer == ISSUER

    def test_one_issuer_cannot_speak_for_another(self, harness: CredentialsHarness) -> None:
        mallory = private_key("ES384")
        other = harness.issuer(
            jwk(mallory), file="mallory.json", issuer="https://mallory.example", algorithms=["ES384"]
        )
        credentials = harness.credentials({"issuers": [harness.issuer(algorithms=["ES384", "ES256"]), other]})
        assert reason(harness, credentials, token("ES384", key=mallory)) == RefusalReason.TOKEN_ALGORITHM


class TestSignature:
    def test_another_key_is_refused(self, harness: CredentialsHarness, credentials: Credentials) -> None:
        forged = token("RS256", key=rsa_key(2048, 7), kid="r1")
        assert reason(harness, credentials, forged) == RefusalReason.TOKEN_SIGNATURE

    def test_changed_claims_are_refused(self, harness: CredentialsHarness, credentials: Credentials) -> None:
        header, _, signature = token().split(".")
        changed = f"{header}.{encoded(claims(sub='root'))}.{signature}"
        assert reason(harness, credentials, changed) == RefusalReason.TOKEN_SIGNATURE

    @pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
    def test_alg_none_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials, algorithm: str
    ) -> None:
        """RFC 8725 section 3.2."""
        header = {"alg": algorithm, "typ": "JWT", "kid": "k1"}
        unsigned = raw_token(header, claims(), b"")
        assert reason(harness, credentials, unsigned) == RefusalReason.TOKEN_ALGORITHM

    def test_cve_2022_29217_a_public_key_is_not_a_shared_secret(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        """The attack: HS256, keyed with the text of the public key."""
        import hashlib
        import hmac

        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        pem = private_key("RS256").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        signing_input = f"{encoded({'alg': 'HS256', 'kid': 'r1'})}.{encoded(claims())}"
        signature = hmac.new(pem, signing_input.encode(), hashlib.sha256).digest()
        forged = f"{signing_input}.{encoded(signature)}"
        assert reason(harness, credentials, forged) == RefusalReason.TOKEN_ALGORITHM

    def test_cve_2026_48523_the_key_says_what_it_is_used_with(self, harness: CredentialsHarness) -> None:
        """RS256 is allowed, the token says RS256, but its key is for PS256 only."""
        issuer = harness.issuer(jwk(private_key("RS256"), alg="PS256"), algorithms=["RS256"])
        credentials = harness.credentials({"issuers": [issuer]})
        assert reason(harness, credentials, token("RS256")) == RefusalReason.TOKEN_ALGORITHM

    def test_an_algorithm_of_another_family_than_the_key_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        assert reason(harness, credentials, token("RS256", kid="k1")) == RefusalReason.TOKEN_ALGORITHM

    def test_an_algorithm_that_is_not_configured_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        assert reason(harness, credentials, token("PS256", kid="r1")) == RefusalReason.TOKEN_ALGORITHM

    @pytest.mark.parametrize("length", [0, 1, 63, 65, 4096])
    def test_an_ecdsa_signature_of_wrong_length_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials, length: int
    ) -> None:
        forged = raw_token({"alg": "ES256", "kid": "k1"}, claims(), b"\0" * length)
        assert reason(harness, credentials, forged) == RefusalReason.TOKEN_SIGNATURE

    def test_an_ecdsa_signature_of_zeros_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        """CVE-2022-21449, psychic signatures."""
        forged = raw_token({"alg": "ES256", "kid": "k1"}, claims(), b"\0" * 64)
        assert reason(harness, credentials, forged) == RefusalReason.TOKEN_SIGNATURE


class TestHeader:
    @pytest.mark.parametrize("crit", [["x"], [], ["b64"], "x", None])
    def test_cve_2026_32597_and_cve_2025_59420_crit_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials, crit: Any
    ) -> None:
        """PyJWT and Authlib; RFC 7515 section 4.1.11."""
        header = {"alg": "ES256", "kid": "k1", "crit": crit, "x": 1, "b64": False}
        text = raw_token(header, claims())
        assert reason(harness, credentials, text) == RefusalReason.TOKEN_MALFORMED

    def test_a_long_chain_of_certificates_does_no_harm(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        """Ignored, and no reason to take its token for a bad one; the token as a whole has a bound."""
        chain = [b64encode(b"x" * 1200).decode()] * 3
        assert isinstance(harness.outcome(credentials, bearer(token(header={"x5c": chain}))), Identity)

    @pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c"])
    def test_a_token_cannot_name_its_own_key(
        self, harness: CredentialsHarness, credentials: Credentials, name: str
    ) -> None:
        own = private_key("ES384")
        content: Any = {"jwk": jwk(own), "x5c": ["MIIB"]}.get(name, "https://mallory.example/keys")
        forged = token("ES384", key=own, kid="mallory", header={name: content})
        assert reason(harness, credentials, forged) == RefusalReason.TOKEN_ALGORITHM
        issuer = harness.issuer(algorithms=["ES384", "ES256"], file="other.json")
        harness.registry = type(harness.registry)()
        assert (
            reason(harness, harness.credentials({"issuers": [issuer]}), forged) == RefusalReason.KEY_UNKNOWN
        )

    @pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", "application/JWT"])
    def test_types_of_access_tokens_are_accepted(
        self, harness: CredentialsHarness, credentials: Credentials, typ: str
    ) -> None:
        """RFC 9068 section 4, RFC 7515 section 4.1.9."""
        assert identity(harness, credentials, token(header={"typ": typ})).subject == "alice"

    @pytest.mark.parametrize("typ", ["logout+jwt", "dpop+jwt", "secevent+jwt", "JWE"])
    def test_other_types_of_token_are_refused(
        self, harness: CredentialsHarness, credentials: Credentials, typ: str
    ) -> None:
        """RFC 8725 section 3.11: a logout token of the same issuer is not an access token."""
        assert reason(harness, credentials, token(header={"typ": typ})) == RefusalReason.TOKEN_TYPE

    def test_a_type_can_be_required(self, harness: CredentialsHarness) -> None:
        issuer = harness.issuer(types=["at+jwt"], type_required=True)
        credentials = harness.credentials({"issuers": [issuer]})
        assert reason(harness, credentials, token(header={"typ": None})) == RefusalReason.TOKEN_TYPE

    def test_an_unknown_kid_is_refused(self, harness: CredentialsHarness, credentials: Credentials) -> None:
        assert reason(harness, credentials, token(kid="other")) == RefusalReason.KEY_UNKNOWN

    @pytest.mark.parametrize("kid", ["../../dev/null", "' OR 1=1 --", "x" * 256])
    def test_a_kid_is_a_dictionary_key_and_nothing_else(
        self, harness: CredentialsHarness, credentials: Credentials, kid: str
    ) -> None:
        assert reason(harness, credentials, token(kid=kid)) == RefusalReason.KEY_UNKNOWN

    def test_a_long_kid_is_refused_unread(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        assert reason(harness, credentials, token(kid="x" * 257)) == RefusalReason.TOKEN_MALFORMED

    def test_without_kid_the_algorithm_singles_out_the_key(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        assert identity(harness, credentials, token(kid=None)).subject == "alice"

    def test_without_kid_two_fitting_keys_are_one_too_many(self, harness: CredentialsHarness) -> None:
        keys = (jwk(rsa_key(2048), "a"), jwk(rsa_key(2048, 7), "b"))
        credentials = harness.credentials({"issuers": [harness.issuer(*keys)]})
        assert reason(harness, credentials, token("RS256", kid=None)) == RefusalReason.KEY_UNKNOWN

    def test_a_key_without_kid_serves_any_kid(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer(jwk(private_key("ES256"), None))]})
        assert identity(harness, credentials, token(kid="whatever")).subject == "alice"


class TestClaims:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"iss": "https://other.example"}, RefusalReason.ISSUER_UNKNOWN),
            ({"iss": ISSUER + "/"}, RefusalReason.ISSUER_UNKNOWN),
            ({"iss": None}, RefusalReason.ISSUER_UNKNOWN),
            ({"aud": "another"}, RefusalReason.AUDIENCE_MISMATCH),
            ({"aud": None}, RefusalReason.AUDIENCE_MISMATCH),
            ({"aud": ["another", "EDGE"]}, RefusalReason.AUDIENCE_MISMATCH),
            ({"exp": None}, RefusalReason.CLAIM_MISSING),
            ({"exp": NOW - 30}, RefusalReason.TOKEN_EXPIRED),
            ({"nbf": NOW + 31}, RefusalReason.TOKEN_NOT_YET_VALID),
            ({"iat": NOW + 31}, RefusalReason.TOKEN_NOT_YET_VALID),
            ({"sub": None}, RefusalReason.CLAIM_MISSING),
            ({"sub": ""}, RefusalReason.CLAIM_MISSING),
        ],
    )
    def test_a_claim_that_does_not_hold_is_refused(
        self,
        harness: CredentialsHarness,
        credentials: Credentials,
        changes: dict[str, Any],
        expected: RefusalReason,
    ) -> None:
        assert reason(harness, credentials, token(**changes)) == expected

    @pytest.mark.parametrize(
        "changes", [{"exp": NOW - 29}, {"nbf": NOW + 30}, {"iat": NOW + 30}, {"aud": ["another", "edge"]}]
    )
    def test_a_claim_that_just_holds_is_accepted(
        self, harness: CredentialsHarness, credentials: Credentials, changes: dict[str, Any]
    ) -> None:
        assert identity(harness, credentials, token(**changes)).subject == "alice"

    def test_istio_60259_the_leeway_can_be_set(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer(leeway_seconds=0)]})
        assert reason(harness, credentials, token(exp=NOW)) == RefusalReason.TOKEN_EXPIRED

    @pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
    @pytest.mark.parametrize("value", [True, str(NOW + 60), [NOW], {}])
    def test_a_time_that_is_not_a_number_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials, name: str, value: Any
    ) -> None:
        """RFC 7519 section 2, NumericDate."""
        text = token_with_any_claims({name: value})
        assert reason(harness, credentials, text) == RefusalReason.TOKEN_MALFORMED

    @pytest.mark.parametrize("number", ["1e999", "NaN", "Infinity"])
    def test_a_time_that_is_not_a_finite_number_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials, number: str
    ) -> None:
        payload = f'{{"iss":"{ISSUER}","aud":"edge","sub":"alice","exp":{number}}}'.encode()
        assert reason(harness, credentials, signed(payload)) == RefusalReason.TOKEN_MALFORMED

    def test_authorino_664_an_audience_has_to_be_configured(self, harness: CredentialsHarness) -> None:
        block = harness.issuer()
        del block["audiences"]
        with pytest.raises(ValueError, match="audiences"):
            harness.config({"issuers": [block]})

    def test_any_audience_must_be_written_out(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer(audiences="any")]})
        assert identity(harness, credentials, token(aud=None)).audiences == frozenset()


class TestMalformed:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            ".",
            "..",
            "a.b",
            "a.b.c",
            "a.b.c.d",
            "a.b.c.d.e",
            "Bearer",
            " " + "x" * 10,
            encoded(b"not json") + ".e30.AA",
            encoded([1]) + ".e30.AA",
            "e30.e30.AA",
            raw_token({"alg": 1}, claims()),
            raw_token({"alg": "ES256"}, "text"),
            raw_token({"alg": "ES256", "kid": 7}, claims()),
            raw_token({"alg": "ES256", "typ": 7}, claims()),
            raw_token({"alg": "ES256"}, b"\xff\xfe"),
            raw_token({"alg": "ES256"}, b"[" * 2000),
            raw_token(b'{"alg":"ES256"', claims()),
        ],
    )
    def test_what_is_not_a_token_is_refused(
        self, harness: CredentialsHarness, credentials: Credentials, text: str
    ) -> None:
        assert reason(harness, credentials, text) == RefusalReason.TOKEN_MALFORMED

    def test_a_token_over_the_cap_is_not_parsed(self, harness: CredentialsHarness) -> None:
        credentials = harness.credentials({"issuers": [harness.issuer()], "tokens": {"max_bytes": 256}})
        outcome = harness.outcome(credentials, bearer(token()))
        assert isinstance(outcome, Refusal)
        assert outcome.reason == RefusalReason.TOKEN_TOO_LONG
        assert outcome.detail == "longer than tokens.max_bytes, which is 256"

    @pytest.mark.parametrize("insert", ["=", " ", "\t", "+", "/", "é", "\n", "%41"])
    def test_base64url_has_one_form_only(
        self, harness: CredentialsHarness, credentials: Credentials, insert: str
    ) -> None:
        """RFC 7515 section 2; Python's own decoder skips what is not in the alphabet."""
        text = token()
        if insert not in {" ", "\t"}:  # these are not part of the header
            assert reason(harness, credentials, text + insert) == RefusalReason.TOKEN_MALFORMED
        assert reason(harness, credentials, text[:5] + insert + text[5:]) == RefusalReason.TOKEN_MALFORMED

    @pytest.mark.parametrize("part", [0, 1, 2])
    def test_padding_as_aws_load_balancers_write_it_is_named(
        self, harness: CredentialsHarness, credentials: Credentials, part: int
    ) -> None:
        parts = token().split(".")
        parts[part] += "=" * (-len(parts[part]) % 4) or "=="
        outcome = harness.outcome(credentials, bearer(".".join(parts)))
        assert isinstance(outcome, Refusal)
        assert outcome.detail.startswith(
            f"its {('header', 'payload', 'signature')[part]} is padded base64url"
        )

    def test_unused_bits_of_a_signature_must_be_zero(
        self, harness: CredentialsHarness, credentials: Credentials
    ) -> None:
        """RFC 4648 section 3.5: a token has one spelling, so that a hash of it is its name."""
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        text = token()
        twin = text[:-1] + alphabet[alphabet.index(text[-1]) + 1]
        assert reason(harness, credentials, twin) == RefusalReason.TOKEN_MALFORMED


def signed(payload: bytes) -> str:
    """`payload` under a good signature."""
    from jwt import PyJWS

    return PyJWS().encode(payload, private_key("ES256"), "ES256", headers={"kid": "k1"})


def token_with_any_claims(changes: dict[str, Any]) -> str:
    import json

    return signed(json.dumps(claims() | changes).encode())
