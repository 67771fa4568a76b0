"""RSA moduli that anyone can factor."""

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import pytest

from authz.credentials.jwt.key_set import parse_key_set
from authz.credentials.jwt.weak_rsa import weakness
from authz.request.identity import Identity
from common.configfile import ConfigError
from tests.support.credentials import CredentialsHarness
from tests.support.signing import bearer, encoded, jwk, key_set, private_key, rsa_key, token

PRIMES = [number for number in range(2, 702) if all(number % divisor for divisor in range(2, number))]


def is_prime(number: int) -> bool:
    return all(number % prime for prime in PRIMES) and all(
        pow(base, number - 1, number) == 1 for base in PRIMES[:12]
    )


def roca_prime(bits: int, seed: int) -> int:
    """A prime as RSALib made them: k * M + (65537^a mod M)."""
    modulus = prod(PRIMES[:126])
    rest = pow(65537, seed, modulus)
    factor = (3 << (bits - 2)) // modulus + seed
    while not is_prime(factor * modulus + rest):
        factor += 1
    return factor * modulus + rest


def next_prime(number: int) -> int:
    number |= 1
    while not is_prime(number):
        number += 2
    return number


# Functions, so that the collection of the tests searches no primes.
@cache
def roca() -> int:
    return roca_prime(1024, 11) * roca_prime(1024, 1234)


@cache
def close() -> int:
    return next_prime(3 << 1022) * next_prime((3 << 1022) + (1 << 512))


def sound(bits: int = 2048) -> int:
    return rsa_key(bits).public_key().public_numbers().n


def rsa_jwk(modulus: int, kid: str = "weak") -> dict[str, Any]:
    number = modulus.to_bytes((modulus.bit_length() + 7) // 8)
    return {"kty": "RSA", "kid": kid, "n": encoded(number), "e": "AQAB"}


WEAK = [
    pytest.param(roca, "CVE-2017-15361", id="ROCA"),
    pytest.param(close, "CVE-2022-26320", id="close factors"),
    pytest.param(lambda: 3 * sound(), "small factor", id="a factor of 3"),
    pytest.param(lambda: 2 * sound(), "small factor", id="even"),
]


@pytest.mark.parametrize(("modulus", "problem"), WEAK)
def test_wycheproof_a_modulus_that_anyone_can_factor_is_named(
    modulus: Callable[[], int], problem: str
) -> None:
    assert problem in weakness(modulus())


@pytest.mark.parametrize("bits", [2048, 3072])
def test_a_sound_modulus_has_no_weakness(bits: int) -> None:
    assert weakness(sound(bits)) == ""


@pytest.mark.parametrize(("modulus", "problem"), WEAK)
def test_in_a_key_set_the_key_is_left_out(modulus: Callable[[], int], problem: str) -> None:
    keys = parse_key_set(key_set(rsa_jwk(modulus()), jwk(private_key("ES256"), "good")))
    assert set(keys.by_id) == {"good"}
    [refused] = keys.refused
    # The cryptographic library knows an even modulus by itself.
    assert problem in refused.reason or "cannot be read" in refused.reason


def test_a_file_with_nothing_else_is_refused_at_load(harness: CredentialsHarness) -> None:
    with pytest.raises(ConfigError, match="CVE-2017-15361"):
        harness.credentials({"issuers": [harness.issuer(rsa_jwk(roca()))]})


def test_a_sound_key_still_proves_its_tokens(harness: CredentialsHarness) -> None:
    credentials = harness.credentials({"issuers": [harness.issuer(jwk(private_key("RS256"), "k1"))]})
    assert isinstance(harness.outcome(credentials, bearer(token("RS256"))), Identity)
