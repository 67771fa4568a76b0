"""`.signatures.json`: one JWT that lists the digest of every file of the bundle, as OPA documents it.

The claims `iat` and `exp` say from when until when a bundle may be accepted. OPA signs them (with a claims
file) and does not check them; here they are checked.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Final

from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError

from edge.bundle.digest import ALGORITHM, file_digest
from edge.bundle.errors import BundleError, Fault
from edge.bundle.keys import PublicKey, SigningKey
from edge.bundle.names import SIGNATURES, checked_name

LEEWAY_SECONDS: Final = 60.0
"""How far the clocks of signer and sidecar may differ."""

_JWS: Final = PyJWS()


@dataclass(frozen=True, slots=True)
class Signature:
    """What a valid signature says about the bundle."""

    key_id: str
    algorithm: str
    issued_at: float | None
    """Unix seconds of the claim `iat`."""
    expires_at: float | None
    """Unix seconds of the claim `exp`; None: never."""
    scope: str = ""


def sign(
    files: Mapping[str, bytes],
    key: SigningKey,
    *,
    issued_at: int,
    expires_at: int | None = None,
    scope: str = "",
) -> bytes:
    """Return the `.signatures.json` of `files`. Raises BundleError for a data file that cannot be read."""
    listed = [
        {"algorithm": ALGORITHM, "hash": file_digest(name, files[name]), "name": name}
        for name in sorted(files)
        if name != SIGNATURES
    ]
    claims: dict[str, Any] = {"files": listed, "iat": issued_at, "keyid": key.id}
    claims |= {"exp": expires_at} if expires_at is not None else {}
    claims |= {"scope": scope} if scope else {}
    payload = json.dumps(claims, sort_keys=True, separators=(",", ":")).encode()
    token = _JWS.encode(payload, key.key, key.algorithm, {"kid": key.id})
    return json.dumps({"signatures": [token]}, indent=2).encode() + b"\n"


def verify(files: Mapping[str, bytes], keys: Mapping[str, PublicKey], scope: str = "") -> Signature:
    """Return the signature among `files` once it and every digest in it are verified, except its times.

    Raises BundleError: also for a file that the signature does not list, and one that it lists in vain.
    """
    token = _token(files.get(SIGNATURES))
    key_id, key = _key(token, keys)
    try:
        verified = _JWS.decode_complete(token, key.key, algorithms=sorted(key.algorithms))
    except (PyJWTError, ValueError, TypeError):
        raise _bad(f"the signature is not one of the key {key_id!r}") from None
    claims = json.loads(verified["payload"])  # an object, since the key was found
    if claims.get("scope", "") != scope:
        raise _bad(f"the scope is {str(claims.get('scope', ''))[:100]!r}, not {scope!r}")
    _check_files(files, claims.get("files"))
    return Signature(
        key_id,
        str(verified["header"]["alg"]),
        time_in(claims, "iat"),
        time_in(claims, "exp"),
        scope,
    )


def claims_of(files: Mapping[str, bytes]) -> dict[str, Any] | None:
    """Return what the signature claims apart from the files, for people: nothing is verified.

    None without a signature. Raises BundleError for one that cannot be read.
    """
    if SIGNATURES not in files:
        return None
    header, claims = _unverified(_token(files[SIGNATURES]))
    shown = {name: value for name, value in claims.items() if name != "files"}
    return {"alg": header.get("alg"), "kid": header.get("kid")} | shown


def check_time(signature: Signature, now: float, what: str = "the signature") -> None:
    """Raise BundleError if the signature has expired or is from the future. `now`: Unix seconds."""
    if signature.expires_at is not None and now >= signature.expires_at + LEEWAY_SECONDS:
        ago = now - signature.expires_at
        raise BundleError(Fault.EXPIRED, f"{what} expired {ago:.0f} s ago")
    if signature.issued_at is not None and now < signature.issued_at - LEEWAY_SECONDS:
        ahead = signature.issued_at - now
        raise BundleError(Fault.EXPIRED, f"{what} is from {ahead:.0f} s in the future")


def _token(document: bytes | None) -> str:
    if document is None:
        raise BundleError(Fault.UNSIGNED, f"it has no {SIGNATURES}")
    try:
        content = json.loads(document)
    except (ValueError, RecursionError):
        raise _bad(f"{SIGNATURES} is not JSON") from None
    tokens = content.get("signatures") if isinstance(content, dict) else None
    if not isinstance(tokens, list) or len(tokens) != 1 or not isinstance(tokens[0], str):
        raise _bad(f"{SIGNATURES} does not hold exactly one signature")
    return tokens[0]


def _unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the claims of a token. Raises BundleError."""
    try:
        read = _JWS.decode_complete(token, options={"verify_signature": False})
        header, claims = read["header"], json.loads(read["payload"])
    except (PyJWTError, ValueError, TypeError, RecursionError):
        raise _bad(f"the text in {SIGNATURES} is not a JWT") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise _bad(f"the text in {SIGNATURES} is not a JWT")
    return header, claims


def _key(token: str, keys: Mapping[str, PublicKey]) -> tuple[str, PublicKey]:
    """Return the key that the token names in its header or, as OPA once did, in its claim `keyid`.

    A token without either is one of the only key, if there is only one.
    """
    header, claims = _unverified(token)
    named = header.get("kid") or claims.get("keyid")
    if not named and len(keys) == 1:
        named = next(iter(keys))
    if not isinstance(named, str) or named not in keys:
        raise _bad(f"the key {str(named)[:100]!r} is not one of the verification keys")
    return named, keys[named]


def _check_files(files: Mapping[str, bytes], listed: Any) -> None:
    """Raise BundleError unless the signature lists exactly these files with these digests."""
    digests: dict[str, str] = {}
    for one in listed if isinstance(listed, list) else ():
        if not isinstance(one, dict) or not all(isinstance(one.get(key), str) for key in ("name", "hash")):
            raise _bad("the signature lists a file without a name or a hash")
        if one.get("algorithm") != ALGORITHM:
            raise _bad(f"the signature lists a hash that is not {ALGORITHM}")
        digests[checked_name(one["name"])] = one["hash"].lower()
    for name, content in files.items():
        if name == SIGNATURES:
            continue
        if name not in digests:
            raise _bad(f"{name!r} is not in the signature")
        if not compare_digest(file_digest(name, content).encode(), digests.pop(name).encode()):
            raise _bad(f"{name!r} is not the file that was signed")
    if digests:
        raise _bad(f"{min(digests)!r} is in the signature, and missing in the bundle")


def time_in(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519 section 2), None without one. Raises BundleError for anything else."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise _bad(f"the claim {name} is not a time")
    return float(value)


def _bad(message: str) -> BundleError:
    return BundleError(Fault.BAD_SIGNATURE, message)
