"""JSON Web Key Sets (RFC 7517): which of their keys may verify a token, and with what."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from authz.credentials.algorithms import FAMILIES, PARSE

MAX_KEYS: Final = 100
"""Identity providers publish 1 to 10. Each is parsed on the loop (30 us for RSA)."""

MAX_KEY_ID_CHARACTERS: Final = 256
"""A key id is a dictionary key and nothing else; those seen in the field are under 100 characters."""

MIN_RSA_BITS: Final = 2048
"""RFC 7518 section 3.3."""

MAX_RSA_BITS: Final = 8192
"""Verification costs the square of the size: a 16,384-bit key would be 2 ms a token."""


MAX_RETIRED: Final = 100
"""Ids of keys that were in the set before, the latest of them: a token of one was good once."""


class KeySetError(ValueError):
    """A document that is no key set, or holds no usable key."""


@dataclass(slots=True, eq=False)
class Key:
    """A public key. `trusted` turns false when its set no longer holds it: what it proved is then void."""

    id: str | None
    algorithms: frozenset[str]
    public_key: Any
    jwk: Mapping[str, Any] = field(repr=False)
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class RefusedKey:
    """A key of the document that is not used, and why."""

    id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of one document."""

    keys: tuple[Key, ...]
    by_id: Mapping[str, Key]
    refused: tuple[RefusedKey, ...] = ()
    retired: tuple[str, ...] = ()
    """Ids of keys that earlier documents held, and this one does not."""

    def find(self, key_id: str | None, algorithm: str) -> Key | None:
        """The key for a token; None where there is none, or where more than one would fit.

        Without a key id on one of the two sides, the algorithm has to single the key out.
        """
        if key_id is not None:
            key = self.by_id.get(key_id)
            if key is not None:
                return key
        candidates = self.keys if key_id is None else (key for key in self.keys if key.id is None)
        fitting = [key for key in candidates if algorithm in key.algorithms]
        return fitting[0] if len(fitting) == 1 else None

    def withdraw(self, successor: "KeySet | None") -> None:
        """Ends the trust in every key that `successor` does not hold."""
        kept = {id(key) for key in successor.keys} if successor is not None else set()
        for key in self.keys:
            if id(key) not in kept:
                key.trusted = False


def parse_key_set(document: bytes, previous: KeySet | None = None) -> KeySet:
    """The keys in `document`; a key that `previous` holds unchanged stays the same object.

    A key that cannot be used is left out and listed in `refused` (RFC 7517 section 5). Raises
    KeySetError when the document is no key set or has no usable key at all.
    """
    try:
        content = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise KeySetError(f"not JSON: {error}") from error
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise KeySetError('not a key set: no list "keys"')
    if len(entries) > MAX_KEYS:
        raise KeySetError(f"{len(entries)} keys; at most {MAX_KEYS} are read")
    known = {} if previous is None else {_fingerprint(key.jwk): key for key in previous.keys}
    keys: list[Key] = []
    refused: list[RefusedKey] = []
    twice = _repeated(entry.get("kid") for entry in entries if isinstance(entry, dict))
    for entry in entries:
        usable = _usable(entry, twice, known)
        (keys if isinstance(usable, Key) else refused).append(usable)  # type: ignore[arg-type]
    if not keys:
        reasons = "; ".join(sorted({key.reason for key in refused})) or "it is empty"
        raise KeySetError(f"no usable key: {reasons}")
    by_id = {key.id: key for key in keys if key.id is not None}
    return KeySet(tuple(keys), by_id, tuple(refused), _retired(previous, by_id))


def _retired(previous: KeySet | None, by_id: Mapping[str, Key]) -> tuple[str, ...]:
    if previous is None:
        return ()
    gone = [key_id for key_id in (*previous.retired, *previous.by_id) if key_id not in by_id]
    return tuple(gone[-MAX_RETIRED:])


def _repeated(ids: Iterable[Any]) -> frozenset[str]:
    return frozenset(kid for kid, times in Counter(i for i in ids if isinstance(i, str)).items() if times > 1)


def _fingerprint(jwk: Mapping[str, Any]) -> bytes:
    return orjson.dumps(jwk, option=orjson.OPT_SORT_KEYS)


def _usable(entry: Any, twice: frozenset[str], known: Mapping[bytes, Key]) -> Key | RefusedKey:
    if not isinstance(entry, dict):
        return RefusedKey(None, "a key is no JSON object")
    kid = entry.get("kid")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KEY_ID_CHARACTERS):
        return RefusedKey(None, f"its kid is no text of at most {MAX_KEY_ID_CHARACTERS} characters")
    reason = _fault(entry, twice)
    if reason:
        return RefusedKey(kid, reason)
    key = known.get(_fingerprint(entry))
    if key is not None:
        return key
    return _parsed(entry, kid)


def _fault(entry: Mapping[str, Any], twice: frozenset[str]) -> str:
    if entry.get("kid") in twice:
        return "two keys have its kid"
    if any(not isinstance(entry.get(name, ""), str) for name in ("kty", "crv", "alg", "use")):
        return "its kty, crv, alg or use is no text"
    if entry.get("kty") == "oct":
        return "a symmetric key (kty oct) has no place in a key set for verification"
    if entry.get("kty") not in PARSE:
        return f"its kty {entry.get('kty')!r} is not one of {', '.join(sorted(PARSE))}"
    if "d" in entry:
        return "it is a private key: whoever reads the set can sign"
    if entry.get("use", "sig") != "sig":
        return f"it is for use {entry['use']!r}, not for signatures"
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return "its key_ops do not include verify"
    return ""


def _parsed(entry: dict[str, Any], kid: str | None) -> Key | RefusedKey:
    family = (entry["kty"], entry.get("crv", "") if entry["kty"] != "RSA" else "")
    algorithms = FAMILIES.get(family)
    if algorithms is None:
        return RefusedKey(kid, f"its crv {entry.get('crv')!r} is not supported")
    declared = entry.get("alg")
    if declared is not None:
        # The key, not the token, says what it is used with (RFC 8725 section 3.1, CVE-2026-48523).
        if declared not in algorithms:
            return RefusedKey(kid, f"its alg {declared!r} does not fit its kty")
        algorithms = frozenset({declared})
    try:
        public_key = PARSE[entry["kty"]](entry)
    except Exception as error:  # PyJWT and cryptography raise a wide range for bad numbers
        return RefusedKey(kid, f"it cannot be read: {type(error).__name__}: {error}")
    if entry["kty"] == "RSA" and not MIN_RSA_BITS <= public_key.key_size <= MAX_RSA_BITS:
        return RefusedKey(
            kid, f"RSA of {public_key.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are used"
        )
    return Key(kid, algorithms, public_key, entry)
