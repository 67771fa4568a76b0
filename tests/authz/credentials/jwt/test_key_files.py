"""A key set in a file is read as one from a URL is, at the start and at a reload."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from authz.credentials import Credentials
from authz.request.identity import Identity
from common.configfile import ConfigError
from tests.support.credentials import CredentialsHarness
from tests.support.signing import bearer, ed_token, jwk, key_set, private_key, rsa_key, token

GOOD = jwk(private_key("ES256"), "k1")

UNUSABLE: list[Any] = [
    jwk(rsa_key(1024), "weak"),
    jwk(private_key("RS256"), "enc", use="enc"),
    jwk(private_key("RS256"), "k1", alg="RSA-OAEP"),
    {"kty": "EC", "crv": "secp256k1", "kid": "coin"},
    "text",
]

SECRET = [
    pytest.param(GOOD | {"kid": "x", "d": "AQAB"}, "private key", id="private"),
    pytest.param({"kty": "oct", "kid": "x", "k": "c2VjcmV0"}, "symmetric", id="symmetric"),
]


def refused_keys(credentials: Credentials) -> list[str]:
    [issuer] = credentials.describe()["issuers"]
    result: list[str] = issuer["key_set"]["refused_keys"]
    return result


def test_opensearch_security_4618_unusable_entries_are_reported_and_cost_nothing(
    harness: CredentialsHarness,
) -> None:
    with capture_logs() as logs:
        credentials = harness.credentials({"issuers": [harness.issuer(*UNUSABLE, GOOD)]})
    assert isinstance(harness.outcome(credentials, bearer(token())), Identity)
    assert len(refused_keys(credentials)) == len(UNUSABLE)
    assert "key file entries unusable" in [log["event"] for log in logs]


def test_nor_do_they_at_a_reload(harness: CredentialsHarness) -> None:
    block = {"issuers": [harness.issuer()]}
    credentials = harness.credentials(block)
    harness.write("keys.json", key_set(*UNUSABLE, GOOD))
    credentials.prepare(harness.config(block))()
    assert isinstance(harness.outcome(credentials, bearer(token())), Identity)
    assert len(refused_keys(credentials)) == len(UNUSABLE)


@pytest.mark.parametrize(("key", "problem"), SECRET)
def test_what_signs_tokens_may_not_be_in_the_file(
    harness: CredentialsHarness, key: Any, problem: str
) -> None:
    with pytest.raises(ConfigError, match=f"key 'x': .*{problem}"):
        harness.credentials({"issuers": [harness.issuer(GOOD, key)]})


@pytest.mark.parametrize(("key", "problem"), SECRET)
def test_nor_at_a_reload_and_the_last_good_keys_serve_on(
    harness: CredentialsHarness, key: Any, problem: str
) -> None:
    block = {"issuers": [harness.issuer()]}
    credentials = harness.credentials(block)
    harness.write("keys.json", key_set(GOOD, key))
    with pytest.raises(ConfigError, match=problem):
        credentials.prepare(harness.config(block))
    assert isinstance(harness.outcome(credentials, bearer(token())), Identity)


@pytest.mark.parametrize("algorithm", ["EdDSA", "Ed25519"])
@pytest.mark.parametrize("declared", [None, "EdDSA", "Ed25519"])
def test_rfc_9864_tokens_may_say_either_name(
    harness: CredentialsHarness, algorithm: str, declared: str | None
) -> None:
    key = jwk(private_key("EdDSA"), "k1", alg=declared)
    credentials = harness.credentials({"issuers": [harness.issuer(key)]})
    text = ed_token(algorithm, private_key("EdDSA"))
    assert isinstance(harness.outcome(credentials, bearer(text)), Identity)


def test_rfc_9864_an_issuer_of_ed25519_alone_has_no_other_curve(harness: CredentialsHarness) -> None:
    block = harness.issuer(jwk(private_key("Ed448"), "k1"), algorithms=["Ed25519"])
    credentials = harness.credentials({"issuers": [block]})
    for name in ("EdDSA", "Ed25519", "Ed448"):
        text = ed_token(name, private_key("Ed448"))
        assert not isinstance(harness.outcome(credentials, bearer(text)), Identity)
