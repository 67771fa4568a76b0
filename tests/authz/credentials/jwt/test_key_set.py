"""Which keys of a JWKS document are used."""

import json
from typing import Any

import pytest

from authz.credentials.jwt.key_set import MAX_KEYS, KeySetError, parse_key_set
from tests.support.signing import jwk, key_set, private_key, rsa_key

GOOD = jwk(private_key("ES256"), "good")


def refused(*keys: Any) -> dict[str | None, str]:
    """What is refused of a document that has a good key as well."""
    parsed = parse_key_set(json.dumps({"keys": [GOOD, *keys]}).encode())
    assert set(parsed.by_id) == {"good"}
    return {key.id: key.reason for key in parsed.refused}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "x"}, "symmetric"),
        (jwk(private_key("RS256"), "x", use="enc"), "not for signatures"),
        (jwk(private_key("RS256"), "x", key_ops=["sign"]), "key_ops"),
        (jwk(private_key("RS256"), "x", key_ops="verify"), "key_ops"),
        (jwk(rsa_key(1024), "x"), "1024 bits"),
        (jwk(private_key("RS256"), "x", alg="ES256"), "does not fit"),
        (jwk(private_key("RS256"), "x", alg="HS256"), "does not fit"),
        (jwk(private_key("RS256"), "x", alg=["RS256"]), "not a text"),
        (jwk(private_key("ES256"), "x", alg="ES384"), "does not fit"),
        (jwk(private_key("RS256"), "x", d="AQAB"), "private key"),
        (jwk(private_key("ES256"), "x", crv="P-384"), "its x and y make no key of P-384"),
        (jwk(private_key("ES256"), "x", crv="secp256k1"), "not supported"),
        (jwk(private_key("ES256"), "x", crv=7), "not a text"),
        (jwk(private_key("ES256"), "x", y="AAAA"), "its x and y make no key of P-256"),
        (jwk(private_key("ES256"), "x", x="A" * 43, y="A" * 43), "its x and y make no key of P-256"),
        ({"kty": "EC", "crv": "P-256", "kid": "x"}, "it lacks x"),
        ({"kty": "RSA", "n": 7, "e": 3, "kid": "x"}, "its n is not a text"),
        ({"kty": "RSA", "n": "AQAB", "kid": "x"}, "it lacks e"),
        (jwk(private_key("RS256"), "x", e="AQ"), "its n and e make no key of RSA"),
        (jwk(private_key("EdDSA"), "x", x="AAAA"), "its x makes no key of Ed25519"),
        (jwk(private_key("ES256"), "x", crv=None), "it lacks crv; supported: P-256, P-384, P-521"),
        ({"kty": "XYZ", "kid": "x"}, "kty"),
        ({"kty": ["RSA"], "kid": "x"}, "not a text"),
        ({"kty": None, "kid": "x"}, "kty"),
        (jwk(private_key("RS256"), "x", p="AQAB"), "private key"),
        ({"kty": "RSA", "kid": "x", "x5c": ["MIIB"]}, "only x5c"),
        ({"kid": "x", "x5c": ["MIIB"]}, "only x5c"),
        (jwk(private_key("RS256"), "x", e="AQAB=="), "its e is padded base64url"),
        (jwk(private_key("ES256"), "x", y="+/+/"), "its y is not base64url"),
        (jwk(private_key("EdDSA"), "x", alg="Ed448"), "does not fit"),
        ({"kid": "x"}, "kty"),
    ],
)
def test_a_key_that_cannot_be_used_is_left_out(key: Any, reason: str) -> None:
    """RFC 7517 section 5: the others still serve."""
    assert reason in refused(key)["x"]


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "K" * 9_000, "kid": "x"},
        *(jwk(private_key("ES256"), "x", **{name: "K" * 9_000}) for name in ("crv", "alg", "use")),
    ],
)
def test_the_reason_is_short_whatever_the_publisher_writes(key: Any) -> None:
    assert len(refused(key)["x"]) < 200


@pytest.mark.parametrize(
    "key", [None, 7, "text", [], {"kty": "EC", "kid": 7}, {"kty": "EC", "kid": "x" * 257}]
)
def test_what_is_not_a_key_is_left_out(key: Any) -> None:
    assert None in refused(key)


def test_two_keys_of_one_kid_and_alg_are_both_left_out() -> None:
    """RFC 7517 section 4.5: which one a token means could not be known."""
    same = [jwk(rsa_key(2048, number), "x", alg=alg) for number, alg in ((5, "RS256"), (6, None))]
    assert refused(*same) == {"x": "two keys have its kid and an alg in common"}


class TestAsPublished:
    """Key sets as identity providers write them."""

    def test_keycloak_15114_keys_of_one_kid_are_told_apart_by_their_alg(self) -> None:
        rsa, ec = jwk(private_key("RS256"), "x"), jwk(private_key("ES384"), "x")
        keys = parse_key_set(key_set(rsa, ec))
        assert keys.refused == ()
        for algorithm, crv in (("RS256", None), ("PS512", None), ("ES384", "P-384")):
            found = keys.find("x", algorithm)
            assert found is not None
            assert found.jwk.get("crv") == crv

    def test_one_alg_each_tells_two_rsa_keys_of_one_kid_apart(self) -> None:
        keys = parse_key_set(
            key_set(jwk(rsa_key(2048, 5), "x", alg="RS256"), jwk(rsa_key(2048, 6), "x", alg="PS256"))
        )
        first, second = keys.find("x", "RS256"), keys.find("x", "PS256")
        assert first is not None
        assert second is not None
        assert first.jwk["n"] != second.jwk["n"]

    @pytest.mark.parametrize(
        "unusable",
        [
            jwk(private_key("RS256"), "good", use="enc"),
            jwk(private_key("RS256"), "good", alg="RSA-OAEP"),
            jwk(rsa_key(1024), "good"),
            {"kty": "oct", "k": "c2VjcmV0", "kid": "good"},
            {"kty": "XYZ", "kid": "good"},
        ],
        ids=["for encryption", "RSA-OAEP", "too short", "symmetric", "of an unknown kty"],
    )
    def test_opensearch_security_4618_an_unusable_key_takes_no_kid_away(self, unusable: Any) -> None:
        assert "good" in refused(unusable)

    def test_identical_entries_are_one(self) -> None:
        later = GOOD | {"x5t": "another", "nbf": 1}
        keys = parse_key_set(key_set(GOOD, GOOD, later))
        assert [key.id for key in keys.keys] == ["good"]
        assert keys.refused == ()

    def test_identical_entries_without_kid_are_one(self) -> None:
        entry = jwk(private_key("ES256"), None)
        assert parse_key_set(key_set(entry, entry)).find(None, "ES256") is not None

    @pytest.mark.parametrize(
        "other", [{"alg": "RS256"}, {"alg": "RS512"}, {"issuer": "https://b.example"}], ids=str
    )
    def test_one_public_key_may_appear_twice(self, other: Any) -> None:
        """With its `alg` and without, or for two issuers: whichever is meant, it is the same key."""
        for kid in ("x", None):
            entry = jwk(private_key("RS256"), kid)
            keys = parse_key_set(key_set(entry, entry | other))
            assert keys.refused == ()
            for algorithm in ("RS256", "PS256"):
                assert keys.find(kid, algorithm) is keys.keys[0]

    @pytest.mark.parametrize(
        "members",
        [
            {"d": None},
            {"d": ""},
            {"use": ""},
            {"use": None},
            {"key_ops": []},
            {"key_ops": None},
            {"alg": None},
            {"alg": ""},
            {"x5c": [], "x5t": ""},
        ],
        ids=str,
    )
    def test_null_empty_text_and_empty_list_mean_absent(self, members: dict[str, Any]) -> None:
        assert parse_key_set(key_set(GOOD | members)).refused == ()

    @pytest.mark.parametrize("kid", [None, ""])
    def test_an_empty_kid_counts_as_none(self, kid: Any) -> None:
        keys = parse_key_set(key_set(GOOD | {"kid": kid}))
        assert keys.by_id == {}
        assert keys.find(None, "ES256") is keys.keys[0]

    @pytest.mark.parametrize(("kind", "name"), [("EdDSA", "Ed25519"), ("Ed448", "Ed448")])
    @pytest.mark.parametrize("declared", [None, "EdDSA", "same"])
    def test_rfc_9864_the_name_of_the_curve_is_the_algorithm(
        self, kind: str, name: str, declared: str | None
    ) -> None:
        alg = name if declared == "same" else declared
        keys = parse_key_set(key_set(jwk(private_key(kind), "x", alg=alg)))
        assert keys.by_id["x"].algorithms == {"EdDSA", name}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "it is empty, not JSON$"),
        (b"\n<html>", r"it is HTML or XML, not JSON \(line 2, column 1\)"),
        (b'\xef\xbb\xbf{"keys": []}', "byte order mark, not JSON"),
        (b"[]", "not a key set"),
        (b"{}", "not a key set"),
        (b"-----BEGIN PUBLIC KEY-----\nMFkw", "PEM"),
        (b'{"1f88": "-----BEGIN CERTIFICATE-----\\nMIID"}', "PEM"),
        (b'{"issuer": "https://idp", "jwks_uri": "https://idp/keys"}', "discovery: URL"),
        (b'{"keys": {}}', "not a key set"),
        (b'{"keys": []}', "it is empty"),
        (key_set({"kty": "oct", "k": "AA"}), "symmetric"),
        (key_set(*[{}] * (MAX_KEYS + 1)), "at most"),
    ],
)
def test_a_document_without_a_usable_key_is_an_error(document: bytes, message: str) -> None:
    with pytest.raises(KeySetError, match=message):
        parse_key_set(document)


def test_the_alg_of_a_key_narrows_what_it_is_used_with() -> None:
    keys = parse_key_set(key_set(jwk(private_key("RS256"), "a", alg="PS384"), jwk(private_key("RS256"), "b")))
    assert keys.by_id["a"].algorithms == {"PS384"}
    assert keys.by_id["b"].algorithms == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


def test_a_key_that_is_still_there_stays_the_same_object() -> None:
    before = parse_key_set(key_set(GOOD, jwk(private_key("RS256"), "old")))
    after = parse_key_set(key_set(jwk(private_key("ES384"), "new"), GOOD), before)
    before.withdraw(after)
    assert after.by_id["good"] is before.by_id["good"]
    assert after.by_id["good"].trusted
    assert not before.by_id["old"].trusted


def test_a_key_that_changed_under_its_kid_is_another_key() -> None:
    before = parse_key_set(key_set(GOOD))
    after = parse_key_set(key_set(jwk(private_key("RS256"), "good")), before)
    before.withdraw(after)
    assert not before.by_id["good"].trusted
    assert after.by_id["good"].trusted
