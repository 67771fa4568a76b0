"""The worked examples of RFC 7515 (appendix A), RFC 7520 (sections 3, 4 and 6) and RFC 8037 (appendix A)."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from authz.credentials.jwt.algorithms import VERIFY
from authz.credentials.jwt.key_set import KeySetError, parse_key_set
from authz.credentials.jwt.token import _decoded
from authz.request.identity import Identity, RefusalReason
from tests.authz.credentials.jwt.rfc_vectors import (
    A1_KEY,
    A1_TOKEN,
    A2_KEY,
    A2_SIGNATURE,
    A2_TOKEN,
    A3_KEY,
    A3_TOKEN,
    A4_KEY,
    A4_TOKEN,
    A5_TOKEN,
    BILBO_EC,
    BILBO_RSA,
    EXPIRES,
    FRODO,
    HOBBITON,
    JOE,
    RFC7520_3_2_PRIVATE,
    RFC7520_3_4_PRIVATE,
    RFC7520_4_6,
    RFC7520_4_7,
    RFC7520_4_8,
    RFC7520_4_8_ES512,
    RFC7520_4_8_RS256,
    RFC7520_6_ENCRYPTED,
    RFC7520_6_KEY,
    RFC7520_6_SIGNED,
    RFC7520_ES512,
    RFC7520_HS256,
    RFC7520_OCT,
    RFC7520_PS384,
    RFC7520_RS256,
    RFC7520_SYMMETRIC_HEADER,
    RFC8037_KEY,
    RFC8037_TOKEN,
)
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.signing import bearer, encoded

SIGNED = [
    pytest.param("RS256", A2_TOKEN, A2_KEY, id="RFC 7515 A.2"),
    pytest.param("ES256", A3_TOKEN, A3_KEY, id="RFC 7515 A.3"),
    pytest.param("ES512", A4_TOKEN, A4_KEY, id="RFC 7515 A.4"),
    pytest.param("RS256", RFC7520_RS256, BILBO_RSA, id="RFC 7520 4.1"),
    pytest.param("PS384", RFC7520_PS384, BILBO_RSA, id="RFC 7520 4.2"),
    pytest.param("ES512", RFC7520_ES512, BILBO_EC, id="RFC 7520 4.3"),
    pytest.param(
        "RS256", f"eyJhbGciOiJSUzI1NiJ9.{FRODO}.{RFC7520_4_8_RS256}", BILBO_RSA, id="RFC 7520 4.8, first"
    ),
    pytest.param("ES512", f".{FRODO}.{RFC7520_4_8_ES512}", BILBO_EC, id="RFC 7520 4.8, second"),
    pytest.param("PS256", RFC7520_6_SIGNED, RFC7520_6_KEY, id="RFC 7520 6"),
    pytest.param("EdDSA", RFC8037_TOKEN, RFC8037_KEY, id="RFC 8037 A.4"),
]


def joe(harness: CredentialsHarness, *keys: Mapping[str, Any]) -> Any:
    """The issuer of the examples, who says nothing of subject and audience."""
    algorithms = ["RS256", "ES256", "ES512", "EdDSA", "PS384"]
    issuer = harness.issuer(*keys, issuer="joe", audiences="any", algorithms=algorithms, subject_claim="iss")
    return harness.credentials({"issuers": [issuer]})


@pytest.mark.parametrize(("algorithm", "text", "key"), SIGNED)
def test_the_signature_of_the_example_holds(algorithm: str, text: str, key: Mapping[str, Any]) -> None:
    found = parse_key_set(json.dumps({"keys": [key]}).encode()).find(key.get("kid"), algorithm)
    assert found is not None
    assert VERIFY[algorithm](*signed(text, found.public_key))


@pytest.mark.parametrize(("algorithm", "text", "key"), SIGNED)
@pytest.mark.parametrize("at", [0, 20])
def test_a_changed_signature_does_not(algorithm: str, text: str, key: Mapping[str, Any], at: int) -> None:
    found = parse_key_set(json.dumps({"keys": [key]}).encode()).find(key.get("kid"), algorithm)
    assert found is not None
    content, public_key, signature = signed(text, found.public_key)
    changed = signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]
    assert not VERIFY[algorithm](content, public_key, changed)
    assert not VERIFY[algorithm](content + b"x", public_key, signature)


@pytest.mark.parametrize(("text", "key"), [(A2_TOKEN, A2_KEY), (A3_TOKEN, A3_KEY)])
def test_rfc_7515_the_whole_way_to_an_identity(
    harness: CredentialsHarness, text: str, key: Mapping[str, Any]
) -> None:
    credentials = joe(harness, key)
    harness.clock.wall_seconds = EXPIRES - 1
    found = harness.outcome(credentials, bearer(text))
    assert isinstance(found, Identity)
    assert (found.subject, found.claims["http://example.com/is_root"]) == ("joe", True)
    harness.clock.wall_seconds = EXPIRES + 30
    assert reason_of(harness.outcome(credentials, bearer(text))) == RefusalReason.TOKEN_EXPIRED


@pytest.mark.parametrize(("text", "other"), [(A2_TOKEN, A3_KEY), (A3_TOKEN, A2_KEY)])
def test_the_key_of_another_example_does_not_verify_it(
    harness: CredentialsHarness, text: str, other: Mapping[str, Any]
) -> None:
    harness.clock.wall_seconds = EXPIRES - 1
    assert reason_of(harness.outcome(joe(harness, other), bearer(text))) == RefusalReason.KEY_UNKNOWN


@pytest.mark.parametrize("text", [A1_TOKEN, A5_TOKEN])
def test_rfc_7515_a1_and_a5_symmetric_and_unsigned_tokens_are_refused(
    harness: CredentialsHarness, text: str
) -> None:
    harness.clock.wall_seconds = EXPIRES - 1
    assert reason_of(harness.outcome(joe(harness, A2_KEY), bearer(text))) == RefusalReason.TOKEN_ALGORITHM


@pytest.mark.parametrize("key", [A1_KEY, RFC7520_OCT])
def test_a_symmetric_key_is_not_a_key_here(key: Mapping[str, Any]) -> None:
    with pytest.raises(KeySetError, match="symmetric"):
        parse_key_set(json.dumps({"keys": [key]}).encode())


@pytest.mark.parametrize(
    "text", [RFC7520_RS256, RFC7520_PS384, RFC7520_ES512, RFC7520_HS256, RFC8037_TOKEN, A4_TOKEN]
)
def test_a_signed_text_that_is_not_a_jwt_is_refused(harness: CredentialsHarness, text: str) -> None:
    found = harness.outcome(joe(harness, A2_KEY), bearer(text))
    assert reason_of(found) == RefusalReason.TOKEN_MALFORMED


def test_rfc_7515_a6_and_a7_the_json_serialisation_is_refused(harness: CredentialsHarness) -> None:
    """Only the compact one (RFC 7519 section 1) is a JWT."""
    flattened = json.dumps({"payload": JOE, "protected": "eyJhbGciOiJSUzI1NiJ9", "signature": A2_SIGNATURE})
    for text in (flattened, encoded(flattened.encode())):
        found = harness.outcome(joe(harness, A2_KEY), bearer(text))
        assert reason_of(found) == RefusalReason.TOKEN_MALFORMED


def test_rfc_7515_appendix_e_an_unknown_extension_is_refused(harness: CredentialsHarness) -> None:
    header = {"alg": "none", "crit": ["http://example.com/UNDEFINED"], "http://example.com/UNDEFINED": True}
    text = f"{encoded(header)}.RkFJTA."
    assert reason_of(harness.outcome(joe(harness, A2_KEY), bearer(text))) == RefusalReason.TOKEN_MALFORMED


@pytest.mark.parametrize(
    ("key", "private"), [(BILBO_EC, RFC7520_3_2_PRIVATE), (BILBO_RSA, RFC7520_3_4_PRIVATE)]
)
def test_rfc_7520_3_2_and_3_4_a_private_key_is_not_a_key_here(key: Mapping[str, Any], private: str) -> None:
    with pytest.raises(KeySetError, match="private"):
        parse_key_set(json.dumps({"keys": [{**key, "d": private}]}).encode())


def test_rfc_7520_4_4_no_issuer_can_be_given_a_symmetric_algorithm(harness: CredentialsHarness) -> None:
    with pytest.raises(ValueError, match="HS256"):
        harness.config({"issuers": [harness.issuer(algorithms=["HS256"])]})


def detached(text: str) -> str:
    """`text` without its content (RFC 7515 appendix F)."""
    header, _, signature = text.split(".")
    return f"{header}..{signature}"


@pytest.mark.parametrize("text", [RFC7520_HS256, RFC7520_RS256, A2_TOKEN])
def test_rfc_7520_4_5_detached_content_is_refused(harness: CredentialsHarness, text: str) -> None:
    """A2_TOKEN is accepted with its content: what is missing here is found nowhere else in the request."""
    harness.clock.wall_seconds = EXPIRES - 1
    found = harness.outcome(joe(harness, A2_KEY), bearer(detached(text)))
    assert reason_of(found) == RefusalReason.TOKEN_MALFORMED


def flattened(text: str) -> dict[str, Any]:
    """`text` as section 4.6 would write it (RFC 7515 section 7.2.2)."""
    header, payload, signature = text.split(".")
    return {"payload": payload, "protected": header, "header": {"x": "y"}, "signature": signature}


def unprotected(text: str) -> dict[str, Any]:
    """Return `text` as in section 4.7: its header is not signed."""
    _, payload, signature = text.split(".")
    return {"payload": payload, "header": {"alg": "RS256"}, "signature": signature}


def general(*texts: str) -> dict[str, Any]:
    """Texts of one content as section 4.8 would write them (RFC 7515 section 7.2.1)."""
    signatures = [{"protected": text.split(".")[0], "signature": text.split(".")[2]} for text in texts]
    return {"payload": texts[0].split(".")[1], "signatures": signatures}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            {"protected": RFC7520_SYMMETRIC_HEADER, "signature": RFC7520_HS256.rpartition(".")[2]}, id="4.5"
        ),
        pytest.param(RFC7520_4_6, id="4.6 flattened"),
        pytest.param(general(RFC7520_HS256), id="4.6 general"),
        pytest.param(RFC7520_4_7, id="4.7 flattened"),
        pytest.param(RFC7520_4_8, id="4.8"),
        pytest.param(flattened(A2_TOKEN), id="4.6, a good token"),
        pytest.param(unprotected(A2_TOKEN), id="4.7, a good token"),
        pytest.param(general(A2_TOKEN), id="4.8, a good token alone"),
        pytest.param(general(A5_TOKEN, A2_TOKEN), id="4.8, a good token behind one without signature"),
        pytest.param(general(A3_TOKEN, A2_TOKEN), id="4.8, a good token behind one of another key"),
    ],
)
def test_rfc_7520_4_5_to_4_8_the_json_serialisation_is_refused(
    harness: CredentialsHarness, content: Mapping[str, Any]
) -> None:
    """A JWT is compact (RFC 7519 section 1): what stands around a good signature proves nothing."""
    harness.clock.wall_seconds = EXPIRES - 1
    credentials = joe(harness, A2_KEY)
    assert isinstance(harness.outcome(credentials, bearer(A2_TOKEN)), Identity)
    spaced, tight = json.dumps(content), json.dumps(content, separators=(",", ":"))
    for text in (spaced, tight, encoded(tight.encode()), f"{encoded(tight.encode())}.."):
        assert reason_of(harness.outcome(credentials, bearer(text))) == RefusalReason.TOKEN_MALFORMED


def test_rfc_7520_4_7_a_token_without_a_protected_header_is_refused(harness: CredentialsHarness) -> None:
    """The signature of section 4.8's second signer covers an empty header, which names no algorithm."""
    for text in (f".{FRODO}.{RFC7520_4_8_ES512}", f".{A2_TOKEN.partition('.')[2]}"):
        found = harness.outcome(joe(harness, A2_KEY, BILBO_EC), bearer(text))
        assert reason_of(found) == RefusalReason.TOKEN_MALFORMED


def hobbiton(harness: CredentialsHarness) -> Any:
    """The issuer of section 6, who says nothing of subject and audience."""
    issuer = harness.issuer(
        RFC7520_6_KEY, issuer=HOBBITON, audiences="any", algorithms=["PS256"], subject_claim="iss"
    )
    harness.clock.wall_seconds = EXPIRES - 1
    return harness.credentials({"issuers": [issuer]})


def test_rfc_7520_6_the_signed_token_is_an_identity(harness: CredentialsHarness) -> None:
    """It has no kid, and its key has one."""
    credentials = hobbiton(harness)
    found = harness.outcome(credentials, bearer(RFC7520_6_SIGNED))
    assert isinstance(found, Identity)
    assert (found.subject, found.claims["http://example.com/is_root"]) == (HOBBITON, True)
    header, payload, signature = RFC7520_6_SIGNED.split(".")
    changed = f"{header}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    assert reason_of(harness.outcome(credentials, bearer(changed))) == RefusalReason.TOKEN_SIGNATURE
    harness.clock.wall_seconds = EXPIRES + 30
    assert reason_of(harness.outcome(credentials, bearer(RFC7520_6_SIGNED))) == RefusalReason.TOKEN_EXPIRED


def test_rfc_7520_6_what_is_encrypted_is_refused(harness: CredentialsHarness) -> None:
    """Anyone with the public key can make such a token, and no key here can decrypt it."""
    found = harness.outcome(hobbiton(harness), bearer(RFC7520_6_ENCRYPTED))
    assert reason_of(found) == RefusalReason.TOKEN_MALFORMED


def signed(text: str, public_key: Any) -> tuple[bytes, Any, bytes]:
    """What a verification takes."""
    content, _, signature = text.rpartition(".")
    return content.encode(), public_key, _decoded(signature, "signature")
