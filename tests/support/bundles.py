"""Keys and bundles for tests."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from edge.bundle.archive import pack
from edge.bundle.bundle import build_bundle, signed
from edge.bundle.keys import PublicKey, SigningKey, public_keys, signing_key
from edge.bundle.manifest import Manifest
from tests.support.signing import private_key

NOW = 1_800_000_000
POLICY = b"rules:\n- {name: all, paths: [/], allow: anyone}\n"
LIMITS = b"domain: edge\ndescriptors: []\n"
CONTENT = {"limits/edge.yaml": LIMITS, "policy/edge.yaml": POLICY}


def write_keys(folder: Path, algorithm: str = "EdDSA", number: int = 0) -> tuple[Path, Path]:
    """Write a pair of keys below `folder`; return the files of the private and the public one."""
    key = private_key(algorithm, number)
    private, public = folder / f"{algorithm}{number}.key", folder / f"{algorithm}{number}.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


class Signer:
    """Makes bundles that are signed by a key of its own, written below `folder`."""

    def __init__(
        self, folder: Path, algorithm: str = "EdDSA", key_id: str = "release", number: int = 0
    ) -> None:
        self.private, self.public = write_keys(folder, algorithm, number)
        self.key: SigningKey = signing_key(self.private, key_id)
        self.keys: dict[str, PublicKey] = public_keys({key_id: self.public})

    def archive(
        self,
        content: Mapping[str, bytes] = CONTENT,
        revision: str = "r1",
        sequence: int | None = 1,
        **options: Any,
    ) -> bytes:
        """Return a signed bundle; `options` are those of `signed`."""
        times = {"issued_at": NOW, "expires_at": None} | options
        return signed(unsigned(content, revision, sequence), self.key, **times)


def unsigned(
    content: Mapping[str, bytes] = CONTENT, revision: str = "r1", sequence: int | None = 1
) -> dict[str, bytes]:
    """Return the files of a bundle without a signature."""
    metadata = {} if sequence is None else {"sequence": sequence}
    return build_bundle(content, Manifest(revision, ("",), metadata))


@cache
def unsigned_archive() -> bytes:
    """Return a bundle without a signature."""
    return pack(unsigned())
