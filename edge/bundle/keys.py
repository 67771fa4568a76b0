"""The keys that sign and verify bundles: PEM files of RSA, EC, Ed25519 and Ed448.

OPA also signs with HMAC. That is refused: each sidecar would hold the secret that signs for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from authz.credentials.jwt.algorithms import FAMILIES
from authz.credentials.jwt.weak_rsa import MAX_RSA_BITS, MIN_RSA_BITS, weakness
from common.configfile import ConfigError
from common.os_errors import in_words

_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}

_USUAL: Final = {"RSA": "RS256", "P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
"""The algorithm that signs unless another one is asked for; EdDSA for the others."""

MAX_KEY_BYTES: Final = 64 * 1024
"""The largest PEM file: a private RSA key of 8,192 bits has 6.5 KB."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies bundles."""

    key: Any = field(repr=False)
    algorithms: frozenset[str]
    """The algorithms that this kind of key is used with: the key determines them, never the signature."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs bundles."""

    id: str
    """What the signature calls the key: its `kid`."""
    key: Any = field(repr=False)
    algorithm: str

    @property
    def public(self) -> PublicKey:
        """The key that verifies what this one signed, with this algorithm."""
        return PublicKey(self.key.public_key(), frozenset({self.algorithm}))


def public_keys(files: Mapping[str, Path]) -> dict[str, PublicKey]:
    """Return the keys in PEM files, each a public key or a certificate, by their ids.

    Blocks on the disk. Raises ConfigError.
    """
    return {key_id: _public_key(file) for key_id, file in files.items()}


def _public_key(file: Path) -> PublicKey:
    content = _read(file)
    try:
        is_certificate = b"-----BEGIN CERTIFICATE-----" in content
        key = (
            load_pem_x509_certificate(content).public_key()
            if is_certificate
            else load_pem_public_key(content)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = b"PRIVATE KEY-----" in content
        why = "it is a private key, which belongs to the signer alone" if private else "it is not PEM"
        raise ConfigError.of(file, f"holds no public key: {why}") from None
    return PublicKey(key, FAMILIES[_family(file, key)])


def signing_key(file: Path, key_id: str, algorithm: str | None = None) -> SigningKey:
    """Return the private key in a PEM file. `algorithm`: RS256, ES256 or EdDSA, by its kind, unless given.

    Blocks on the disk. Raises ConfigError.
    """
    try:
        key = load_pem_private_key(_read(file), password=None)
    except TypeError:
        raise ConfigError.of(file, "the private key is encrypted; decrypt it first") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError.of(file, "holds no private key in PEM form") from None
    family = _family(file, key.public_key())
    chosen = algorithm or _USUAL.get(family[1] or "RSA", "EdDSA")
    if chosen not in FAMILIES[family]:
        fitting = ", ".join(sorted(FAMILIES[family]))
        raise ConfigError.of(file, f"the key does not fit {chosen}; it fits {fitting}")
    return SigningKey(key_id, key, chosen)


def _family(file: Path, key: object) -> tuple[str, str]:
    """Return kty and crv of a public key. Raises ConfigError for one that is too weak or of another kind."""
    if isinstance(key, rsa.RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            text = f"an RSA key of {key.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are used"
            raise ConfigError.of(file, text)
        if reason := weakness(key.public_numbers().n):
            raise ConfigError.of(file, f"the RSA key is weak: {reason}")
        return "RSA", ""
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return "EC", _CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "OKP", "Ed25519"
    if isinstance(key, ed448.Ed448PublicKey):
        return "OKP", "Ed448"
    raise ConfigError.of(file, "the key is none of RSA, P-256, P-384, P-521, Ed25519 and Ed448")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError.of(file, f"cannot be read: {in_words(error)}") from None
    if len(content) > MAX_KEY_BYTES:
        raise ConfigError.of(file, f"holds no key: it is larger than {MAX_KEY_BYTES} bytes")
    return content
