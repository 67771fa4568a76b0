"""The release file: JSON with the release, readable by people, and a signature like that of a bundle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from edge.bundle.digest import file_digest
from edge.bundle.errors import BundleError, Fault
from edge.bundle.keys import PublicKey, SigningKey
from edge.bundle.names import SIGNATURES
from edge.bundle.signature import check_time, claims_of, sign, time_in, verify
from edge.release.model import Release

MAX_BYTES: Final = 256 * 1024
"""The largest release file."""

_SIGNED_NAME: Final = "release/data.json"
"""The name of the release in its signature. Its digest is that of its values, as of any `data.json`."""


@dataclass(frozen=True, slots=True)
class SignedRelease:
    """A release, and what its signature says."""

    release: Release
    digest: str
    """The SHA-256 of the release without the signature."""
    issued_at: float | None
    """Unix seconds."""
    expires_at: float | None
    """Unix seconds; None: never."""


def sign_release(
    release: Release, key: SigningKey, *, issued_at: int, expires_at: int | None = None
) -> bytes:
    """Return the release file. Times are Unix seconds."""
    content = release.model_dump(mode="json")
    signature = sign(_files(content), key, issued_at=issued_at, expires_at=expires_at)
    return json.dumps({"release": content, **json.loads(signature)}, indent=2).encode() + b"\n"


def verify_release(document: bytes, keys: Mapping[str, PublicKey], now: float | None) -> Release:
    """Return the release in a file that one of the keys has signed; see `verify_signed`."""
    return verify_signed(document, keys, now).release


def verify_signed(document: bytes, keys: Mapping[str, PublicKey], now: float | None) -> SignedRelease:
    """Return the release in a file that one of the keys has signed, with its times. Raises BundleError.

    `now`: Unix seconds, or None for a file that was accepted before: it may have expired.
    """
    content = _content(document)
    files = _files(content["release"])
    signature = verify({**files, SIGNATURES: _signatures(content)}, keys)
    if now is not None:
        check_time(signature, now, "the signature of the release file")
    digest = file_digest(_SIGNED_NAME, files[_SIGNED_NAME])
    return SignedRelease(_release(content), digest, signature.issued_at, signature.expires_at)


def read_release(document: bytes) -> Release:
    """Return the release in a file whose signature is not checked. Raises BundleError."""
    return _release(_content(document))


def stated_end(document: bytes) -> float | None:
    """Return when a file says that it expires, in Unix seconds, for people: nothing is verified.

    None: never. Raises BundleError.
    """
    return time_in(claims_of({SIGNATURES: _signatures(_content(document))}) or {}, "exp")


def _signatures(content: Mapping[str, Any]) -> bytes:
    return json.dumps({"signatures": content.get("signatures")}).encode()


def _content(document: bytes) -> dict[str, Any]:
    if len(document) > MAX_BYTES:
        raise BundleError(Fault.TOO_LARGE, f"the release file has more than {MAX_BYTES} bytes")
    try:
        content = json.loads(document)
    except (ValueError, RecursionError):
        raise BundleError(Fault.UNREADABLE, "the release file is not JSON") from None
    if not isinstance(content, dict) or "release" not in content:
        raise BundleError(Fault.UNREADABLE, "the release file is not a JSON object with a release")
    return content


def _release(content: Mapping[str, Any]) -> Release:
    try:
        return Release.model_validate(content["release"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, ("release", *first["loc"])))
        raise BundleError(Fault.UNREADABLE, f"the release file: {place}: {first['msg']}") from None


def _files(release: Any) -> dict[str, bytes]:
    return {_SIGNED_NAME: json.dumps(release).encode()}
