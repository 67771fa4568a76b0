"""A bundle as a whole: built from files, read from an archive, and trusted only once it is checked."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from common.configfile import ConfigError
from common.os_errors import in_words
from edge.bundle.archive import DEFAULT_BOUNDS, Bounds, pack, unpack
from edge.bundle.errors import BundleError, Fault
from edge.bundle.keys import PublicKey, SigningKey
from edge.bundle.manifest import Manifest, check_roots, covers, read_manifest
from edge.bundle.names import MANIFEST, SIGNATURES, checked_name
from edge.bundle.signature import Signature, check_time, sign, verify


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read. What `Trust.check` has not accepted is not to be used."""

    manifest: Manifest
    files: Mapping[str, bytes] = field(repr=False)
    """Every file by name, with the manifest and the signatures."""
    digest: str
    """The SHA-256 of the archive in hexadecimal."""

    @property
    def content(self) -> Mapping[str, bytes]:
        """The files without the manifest and the signatures."""
        return {name: self.files[name] for name in self.files if name not in {MANIFEST, SIGNATURES}}

    def content_digest(self) -> str:
        """Return the SHA-256 of all that is signed: two signatures of the same files have the same."""
        digest = hashlib.sha256()
        for name in sorted(self.files.keys() - {SIGNATURES}):
            digest.update(f"{len(name.encode())} {name} {len(self.files[name])} ".encode())
            digest.update(self.files[name])
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Trust:
    """Which bundles may be used."""

    keys: Mapping[str, PublicKey]
    scope: str = ""
    """The `scope` that signatures must have, so that one key can sign for several kinds of edges."""
    signature_required: bool = True

    def check(self, bundle: Bundle, now: float | None) -> Signature | None:
        """Return the signature of a bundle that may be used; None if it has none and needs none.

        `now`: Unix seconds, or None for a bundle that was accepted before: it serves on after its `exp`.
        Raises BundleError.
        """
        if SIGNATURES not in bundle.files and not self.signature_required:
            return None
        signature = verify(bundle.files, self.keys, self.scope)
        if now is not None:
            check_time(signature, now)
        return signature


def order_of(bundle: Bundle, signature: Signature | None) -> int:
    """Return the place of a bundle among its releases: a bundle of a lower place is a downgrade.

    It is `metadata.sequence` of the manifest or, without one, the `iat` of the signature. Raises BundleError
    for a bundle with neither.
    """
    sequence = bundle.manifest.sequence
    if sequence is not None:
        return sequence
    if signature is not None and signature.issued_at is not None:
        return int(signature.issued_at)
    text = "it has no order: neither metadata.sequence in .manifest nor iat in its signature"
    raise BundleError(Fault.OLDER, text)


def read_bundle(archive: bytes, bounds: Bounds = DEFAULT_BOUNDS) -> Bundle:
    """Return the bundle in an archive. Raises BundleError."""
    files = unpack(archive, bounds)
    return Bundle(read_manifest(files), files, hashlib.sha256(archive).hexdigest())


def build_bundle(content: Mapping[str, bytes], manifest: Manifest) -> dict[str, bytes]:
    """Return the files of a bundle, unsigned. Raises BundleError for a file outside the roots."""
    check_roots(manifest.roots)
    for name in content:
        checked_name(name)
        if not any(covers(root, name) for root in manifest.roots):
            raise BundleError(Fault.UNREADABLE, f"{name!r} is below none of the roots")
    return {**content, MANIFEST: manifest.encode()}


def signed(
    files: Mapping[str, bytes], key: SigningKey, *, issued_at: int, expires_at: int | None, scope: str = ""
) -> bytes:
    """Return the archive of these files with a signature, which replaces the one that they have."""
    unsigned = {name: content for name, content in files.items() if name != SIGNATURES}
    signature = sign(unsigned, key, issued_at=issued_at, expires_at=expires_at, scope=scope)
    return pack({**unsigned, SIGNATURES: signature})


REVISION: Final = "revision"
"""The file in which `sidecars edge build` writes the revision that decisions and log entries have."""


def revision_of(content: Mapping[str, bytes]) -> str:
    """Return the revision of the files: that in the file `revision`, else 12 characters of their SHA-256."""
    stated = content.get(REVISION, b"").decode("utf-8", "replace").strip()
    if stated:
        return stated
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(f"{len(name)} {name} {len(content[name])} ".encode() + content[name])
    return digest.hexdigest()[:12]


def content_below(folder: Path, bounds: Bounds = DEFAULT_BOUNDS) -> dict[str, bytes]:
    """Return the files below `folder` by their names in a bundle; hidden ones are left out.

    Blocks on the disk. Raises ConfigError, and BundleError for more than the bounds allow.
    """
    found: dict[str, bytes] = {}
    size = 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or not path.is_file():
            continue
        try:
            found[name.as_posix()] = path.read_bytes()
        except OSError as error:
            raise ConfigError.of(path, f"cannot be read: {in_words(error)}") from None
        size += len(found[name.as_posix()])
        if len(found) > bounds.files or size > bounds.unpacked_bytes:
            text = f"{folder} holds more than {bounds.files} files or {bounds.unpacked_bytes} bytes"
            raise BundleError(Fault.TOO_LARGE, text)
    if not found:
        raise ConfigError.of(folder, "the folder holds no file")
    return found
