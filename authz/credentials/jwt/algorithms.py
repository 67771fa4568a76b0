"""The signature algorithms accepted, each bound to the one family of keys it may be used with.

`none` and HMAC are not in the table, so they cannot be configured, and a public key can never be taken for
a shared secret (CVE-2022-29217).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from jwt.algorithms import get_default_algorithms

Verify = Callable[[bytes, Any, bytes], bool]
"""(signing input, public key, signature) -> whether the signature is valid."""

FAMILIES: Final[Mapping[tuple[str, str], frozenset[str]]] = {
    ("RSA", ""): frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA", "Ed25519"}),
    ("OKP", "Ed448"): frozenset({"EdDSA", "Ed448"}),
}
"""(kty, crv) -> algorithms (RFC 7518 section 3.1, RFC 8037 section 3.1, RFC 9864 section 2.2)."""

EDDSA: Final = frozenset({"EdDSA", "Ed25519", "Ed448"})
"""`EdDSA`, which covers both curves, and the names that RFC 9864 binds to one curve each."""

ALGORITHMS: Final[frozenset[str]] = frozenset().union(*FAMILIES.values())

_IMPLEMENTATIONS: Final = get_default_algorithms()

VERIFY: Final[Mapping[str, Verify]] = {
    name: _IMPLEMENTATIONS["EdDSA" if name in EDDSA else name].verify for name in ALGORITHMS
}
PARSE: Final[Mapping[str, Callable[[dict[str, Any]], Any]]] = {
    "RSA": _IMPLEMENTATIONS["RS256"].from_jwk,
    "EC": _IMPLEMENTATIONS["ES256"].from_jwk,
    "OKP": _IMPLEMENTATIONS["EdDSA"].from_jwk,
}
"""kty -> function from a JWK to its public key; raises `jwt.InvalidKeyError` and others."""
