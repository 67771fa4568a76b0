"""The work of `sidecars bundle`: reads, makes and describes the files."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import typer

from common.configfile import ConfigError
from common.os_errors import in_words
from edge.bundle.archive import DEFAULT_BOUNDS, pack
from edge.bundle.bundle import (
    Bundle,
    Trust,
    build_bundle,
    content_below,
    order_of,
    read_bundle,
    revision_of,
    signed,
)
from edge.bundle.errors import BundleError
from edge.bundle.keys import SigningKey, public_keys, signing_key
from edge.bundle.manifest import SEQUENCE, Manifest
from edge.bundle.signature import claims_of
from sidecars.cli.exit import WRONG

DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Signing:
    """How a bundle is signed, as the command line says it."""

    file: Path
    key_id: str
    algorithm: str | None
    valid_days: float | None
    scope: str

    def apply(self, files: Mapping[str, bytes]) -> tuple[bytes, str]:
        """Return the signed archive of `files`, and a summary of the signature. Raises ConfigError."""
        key: SigningKey = signing_key(self.file, self.key_id, self.algorithm)
        now = int(time.time())
        expires = None if self.valid_days is None else now + int(self.valid_days * DAY_SECONDS)
        archive = signed(files, key, issued_at=now, expires_at=expires, scope=self.scope)
        return archive, f"signed by {key.id} ({key.algorithm}), {validity(expires)}"


def build_archive(
    folder: Path,
    revision: str | None,
    sequence: int | None,
    roots: Sequence[str] | None,
    signing: Signing | None,
) -> tuple[bytes, str]:
    """Return the bundle of `folder`, and a summary of it. Exits where a file cannot be packed."""
    try:
        content = content_below(folder)
        own = tuple(roots or sorted({name.partition("/")[0] for name in content}))
        order = int(time.time()) if sequence is None else sequence
        manifest = Manifest(revision or revision_of(content), own, {SEQUENCE: order})
        files = build_bundle(content, manifest)
        archive, how = (pack(files), "unsigned") if signing is None else signing.apply(files)
        read_bundle(archive)  # what is written can be read
    except BundleError as error:
        _refuse(folder, error)
    return archive, f"revision {manifest.revision}, sequence {order}, {len(content)} files, {how}"


def sign_archive(file: Path, signing: Signing) -> tuple[bytes, str]:
    """Return the bundle in `file` with a signature, and a summary. Exits for one that cannot be read."""
    bundle = read_file(file)
    try:
        archive, how = signing.apply(bundle.files)
    except BundleError as error:
        _refuse(file, error)
    return archive, f"revision {bundle.manifest.revision}, {how}"


def verify_archive(file: Path, keys: Sequence[str], scope: str, *, ignore_expiry: bool) -> str:
    """Return a summary of a bundle that may be used. Exits for another one."""
    bundle = read_file(file)
    trust = Trust(public_keys(dict(map(named_file, keys))), scope)
    try:
        signature = trust.check(bundle, None if ignore_expiry else time.time())
        order = order_of(bundle, signature)
    except BundleError as error:
        _refuse(file, error)
    assert signature is not None  # noqa: S101  # it is required
    return (
        f"ok: revision {bundle.manifest.revision}, sequence {order}, {len(bundle.content)} files, signed by "
        f"{signature.key_id} ({signature.algorithm}), {validity(signature.expires_at)}"
    )


def inspect_archive(file: Path, *, as_json: bool) -> str:
    """Return the parts of a bundle as text or JSON. Exits for one that cannot be read."""
    bundle = read_file(file)
    try:
        claims = claims_of(bundle.files)
    except BundleError as error:
        _refuse(file, error)
    data: dict[str, Any] = {
        "revision": bundle.manifest.revision,
        "roots": bundle.manifest.roots,
        "metadata": bundle.manifest.metadata,
        "digest": bundle.digest,
        "signature": claims,
        "files": {name: len(content) for name, content in sorted(bundle.content.items())},
    }
    if as_json:
        return json.dumps(data, indent=2)  # unlike orjson, of any number that a forged signature can claim
    lines = [f"revision   {bundle.manifest.revision}", f"digest     sha256:{bundle.digest}"]
    lines += [f"root       {root or '(everything)'}" for root in bundle.manifest.roots]
    lines += [f"metadata   {key}: {value}" for key, value in sorted(bundle.manifest.metadata.items())]
    lines += ["signature  none"] if claims is None else [f"signature  {k}: {v}" for k, v in claims.items()]
    return "\n".join([*lines, *(f"file       {name} ({size} bytes)" for name, size in data["files"].items())])


def read_file(file: Path) -> Bundle:
    """Return the bundle in a file. Raises ConfigError, and exits for one that cannot be read."""
    try:
        with file.open("rb") as opened:
            return read_bundle(opened.read(DEFAULT_BOUNDS.packed_bytes + 1))
    except OSError as error:
        raise ConfigError.of(file, f"cannot be read: {in_words(error)}") from None
    except BundleError as error:
        _refuse(file, error)


def _refuse(file: Path, error: BundleError) -> NoReturn:
    typer.echo(f"{file}: {error} ({error.fault})", err=True)
    raise typer.Exit(WRONG)


def named_file(text: str, option: str = "--key") -> tuple[str, Path]:
    """Return the id and the file in `ID=FILE`, the value of an option. Raises BadParameter."""
    key_id, separator, file = text.partition("=")
    if not (key_id and separator and file):
        raise typer.BadParameter(f"{text!r}: expected ID=FILE, as in release=release.pem", param_hint=option)
    return key_id, Path(file)


def validity(expires_at: float | None) -> str:
    """Return the end of a signature, in Unix seconds, in words."""
    if expires_at is None:
        return "without expiry"
    return f"until {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(expires_at))}"
