"""The worked examples of RFC 7515 (appendix A), RFC 7520 (section 4) and RFC 8037 (appendix A)."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from authz.credentials.algorithms import VERIFY
from authz.credentials.jwt import _decoded
from authz.credentials.keys import KeySetError, parse_key_set
from authz.identity import Identity, RefusalReason
from tests.authz.credentials.conftest import World, reason_of
from tests.authz.credentials.signing import bearer, encoded

EXPIRES = 1300819380
"""The exp of every JWT in RFC 7515."""

JOE = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"

A1_TOKEN = f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{JOE}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
A1_KEY = {
    "kty": "oct",
    "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
}

A2_SIGNATURE = (
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdb"
    "F9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383"
    "LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWy"
    "wlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)
A2_TOKEN = f"eyJhbGciOiJSUzI1NiJ9.{JOE}.{A2_SIGNATURE}"
A2_KEY = {
    "kty": "RSA",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-"
    "yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS"
    "-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2et"
    "hFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    "e": "AQAB",
}

A3_TOKEN = (
    f"eyJhbGciOiJFUzI1NiJ9.{JOE}."
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)
A3_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}

A4_TOKEN = (
    "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA."
    "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgo"
    "XD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"
)
A4_KEY = {
    "kty": "EC",
    "crv": "P-521",
    "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
    "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
}

A5_TOKEN = f"eyJhbGciOiJub25lIn0.{JOE}."

FRODO = (
    "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9h"
    "ZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3"
    "ZXB0IG9mZiB0by4"
)
BILBO = "bilbo.baggins@hobbiton.example"
BILBO_RSA = {
    "kty": "RSA",
    "kid": BILBO,
    "use": "sig",
    "n": "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJM"
    "RBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNL"
    "YD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7ji"
    "g3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw",
    "e": "AQAB",
}
BILBO_EC = {
    "kty": "EC",
    "kid": BILBO,
    "use": "sig",
    "crv": "P-521",
    "x": "AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt",
    "y": "AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1",
}
RFC7520_RS256 = (
    f"eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.{FRODO}."
    "MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB"
    "-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxn"
    "t8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcI"
    "e8u9ipH84ogoree7vjbU5y18kDquDg"
)
RFC7520_PS384 = (
    f"eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.{FRODO}."
    "cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6"
    "_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3"
    "lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6G"
    "YmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw"
)
RFC7520_ES512 = (
    f"eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.{FRODO}."
    "AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3mtPBu_u_sDDy"
    "YjnAMDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2"
)
RFC7520_HS256 = (
    "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9."
    f"{FRODO}.s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0"
)
RFC7520_OCT = {
    "kty": "oct",
    "kid": "018c0ae5-4d9b-471b-bfd6-eef314bc7037",
    "use": "sig",
    "alg": "HS256",
    "k": "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg",
}
RFC8037_TOKEN = (
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
)
RFC8037_KEY = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}

SIGNED = [
    pytest.param("RS256", A2_TOKEN, A2_KEY, id="RFC 7515 A.2"),
    pytest.param("ES256", A3_TOKEN, A3_KEY, id="RFC 7515 A.3"),
    pytest.param("ES512", A4_TOKEN, A4_KEY, id="RFC 7515 A.4"),
    pytest.param("RS256", RFC7520_RS256, BILBO_RSA, id="RFC 7520 4.1"),
    pytest.param("PS384", RFC7520_PS384, BILBO_RSA, id="RFC 7520 4.2"),
    pytest.param("ES512", RFC7520_ES512, BILBO_EC, id="RFC 7520 4.3"),
    pytest.param("EdDSA", RFC8037_TOKEN, RFC8037_KEY, id="RFC 8037 A.4"),
]


def joe(world: World, *keys: Mapping[str, Any]) -> Any:
    """The issuer of the examples, who says nothing of subject and audience."""
    algorithms = ["RS256", "ES256", "ES512", "EdDSA", "PS384"]
    issuer = world.issuer(*keys, issuer="joe", audiences="any", algorithms=algorithms, subject_claim="iss")
    return world.credentials({"issuers": [issuer]})


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
def test_rfc_7515_the_whole_way_to_an_identity(world: World, text: str, key: Mapping[str, Any]) -> None:
    credentials = joe(world, key)
    world.clock.wall_seconds = EXPIRES - 1
    found = world.outcome(credentials, bearer(text))
    assert isinstance(found, Identity)
    assert (found.subject, found.claims["http://example.com/is_root"]) == ("joe", True)
    world.clock.wall_seconds = EXPIRES + 30
    assert reason_of(world.outcome(credentials, bearer(text))) == RefusalReason.TOKEN_EXPIRED


@pytest.mark.parametrize(("text", "other"), [(A2_TOKEN, A3_KEY), (A3_TOKEN, A2_KEY)])
def test_the_key_of_another_example_does_not_verify_it(
    world: World, text: str, other: Mapping[str, Any]
) -> None:
    world.clock.wall_seconds = EXPIRES - 1
    assert reason_of(world.outcome(joe(world, other), bearer(text))) == RefusalReason.KEY_UNKNOWN


@pytest.mark.parametrize("text", [A1_TOKEN, A5_TOKEN])
def test_rfc_7515_a1_and_a5_symmetric_and_unsigned_tokens_are_refused(world: World, text: str) -> None:
    world.clock.wall_seconds = EXPIRES - 1
    assert reason_of(world.outcome(joe(world, A2_KEY), bearer(text))) == RefusalReason.TOKEN_ALGORITHM


@pytest.mark.parametrize("key", [A1_KEY, RFC7520_OCT])
def test_a_symmetric_key_is_no_key_here(key: Mapping[str, Any]) -> None:
    with pytest.raises(KeySetError, match="symmetric"):
        parse_key_set(json.dumps({"keys": [key]}).encode())


@pytest.mark.parametrize("text", [RFC7520_RS256, RFC7520_HS256, RFC8037_TOKEN, A4_TOKEN])
def test_a_signed_text_that_is_no_jwt_is_refused(world: World, text: str) -> None:
    found = world.outcome(joe(world, A2_KEY), bearer(text))
    assert reason_of(found) == RefusalReason.TOKEN_MALFORMED


def test_rfc_7515_a6_and_a7_the_json_serialisation_is_refused(world: World) -> None:
    """Only the compact one (RFC 7519 section 1) is a JWT."""
    flattened = json.dumps({"payload": JOE, "protected": "eyJhbGciOiJSUzI1NiJ9", "signature": A2_SIGNATURE})
    for text in (flattened, encoded(flattened.encode())):
        found = world.outcome(joe(world, A2_KEY), bearer(text))
        assert reason_of(found) == RefusalReason.TOKEN_MALFORMED


def test_rfc_7515_appendix_e_an_extension_nobody_understands_is_refused(world: World) -> None:
    header = {"alg": "none", "crit": ["http://example.com/UNDEFINED"], "http://example.com/UNDEFINED": True}
    text = f"{encoded(header)}.RkFJTA."
    assert reason_of(world.outcome(joe(world, A2_KEY), bearer(text))) == RefusalReason.TOKEN_MALFORMED


def test_rfc_7520_4_5_detached_content_is_refused(world: World) -> None:
    header, _, signature = RFC7520_RS256.split(".")
    found = world.outcome(joe(world, A2_KEY), bearer(f"{header}..{signature}"))
    assert reason_of(found) == RefusalReason.TOKEN_MALFORMED


def signed(text: str, public_key: Any) -> tuple[bytes, Any, bytes]:
    """What a verification takes."""
    content, _, signature = text.rpartition(".")
    return content.encode(), public_key, _decoded(signature, "signature")
