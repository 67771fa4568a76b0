"""Detects RSA keys whose private key can be computed from the public one, and says which sizes are used."""

from math import gcd, isqrt, prod
from typing import Final

MIN_RSA_BITS: Final = 2048
"""The smallest RSA key (RFC 7518 section 3.3)."""

MAX_RSA_BITS: Final = 8192
"""The largest RSA key. Verification time grows with the square of the size: 2 ms for 16,384 bits."""

_PRIMES: Final = tuple(
    number for number in range(3, 168) if all(number % divisor for divisor in range(2, number))
)
"""Primes whose residues identify a modulus of Infineon's RSALib, of any size."""

_RESIDUES: Final = tuple(
    (prime, frozenset(pow(65537, exponent, prime) for exponent in range(prime - 1))) for prime in _PRIMES
)
"""Each prime, with the residues of a modulus whose two factors are powers of 65537 modulo that prime."""

_SMALL_FACTORS: Final = 2 * prod(_PRIMES)

FERMAT_STEPS: Final = 20
"""The number of square roots tried, 4 us each for 2048 bits. A few suffice for keys of CVE-2022-26320."""


def weakness(modulus: int) -> str:
    """Return why the modulus is easy to factor, in words for the operator; empty if no reason is known.

    One sound modulus in 2^27 has the fingerprint of ROCA (CVE-2017-15361) by chance.
    """
    if gcd(modulus, _SMALL_FACTORS) != 1:
        return "its modulus has a small factor"
    if all(modulus % prime in residues for prime, residues in _RESIDUES):
        return "its modulus has the fingerprint of ROCA (CVE-2017-15361): anyone can compute the private key"
    if _has_close_factors(modulus):
        return "the factors of its modulus are close (CVE-2022-26320): anyone can compute the private key"
    return ""


def _has_close_factors(modulus: int) -> bool:
    """Return whether Fermat's method finds the factors: p * q = a^2 - b^2, with `a` near the square root."""
    root = isqrt(modulus - 1) + 1
    for candidate in range(root, root + FERMAT_STEPS):
        square = candidate * candidate - modulus
        if isqrt(square) ** 2 == square:
            return True
    return False
