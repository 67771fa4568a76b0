"""The release file: JSON with the release, readable by people, and a signature like that of a bundle."""

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from edge.bundle.errors import BundleError, Fault
from edge.bundle.keys import PublicKey, SigningKey
from edge.bundle.names import SIGNATURES
from edge.bundle.signature import check_time, sign, verify
from edge.release.model import Release

MAX_BYTES: Final = 256 * 1024
"""The largest release file."""

_SIGNED_NAME: Final = "release/data.json"
"""The name of the release in its signature. Its digest is that of its values, as of any `data.json`."""


def sign_release(
    release: Release, key: SigningKey, *, issued_at: int, expires_at: int | None = None
) -> bytes:
    """Return the release file. Times are Unix seconds."""
    content = release.model_dump(mode="json")
    signature = sign(_files(content), key, issued_at=issued_at, expires_at=expires_at)
    return json.dumps({"release": content, **json.loads(signature)}, indent=2).encode() + b"\n"


def verify_release(document: bytes, keys: Mapping[str, PublicKey], now: float | None) -> Release:
    """Return the release in a file that one of the keys has signed. Raises BundleError.

    `now`: Unix seconds, or None for a file that was accepted before.
    """
    content = _content(document)
    signatures = json.dumps({"signatures": content.get("signatures")}).encode()
    signature = verify({**_files(content.get("release")), SIGNATURES: signatures}, keys)
    if now is not None:
        check_time(signature, now)
    return _release(content)


def read_release(document: bytes) -> Release:
    """Return the release in a file whose signature is not checked. Raises BundleError."""
    return _release(_content(document))


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
