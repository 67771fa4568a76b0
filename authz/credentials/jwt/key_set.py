"""Parses JSON Web Key Sets (RFC 7517): which keys may verify a token, and with which algorithms."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from authz.credentials.core.types import looks_like
from authz.credentials.jwt.algorithms import EDDSA, FAMILIES, PARSE
from authz.credentials.jwt.weak_rsa import MAX_RSA_BITS, MIN_RSA_BITS, weakness

MAX_KEYS: Final = 100
"""The most keys read. Identity providers publish 1 to 10; parsing one on the loop takes 30 us (RSA)."""

MAX_KEY_ID_CHARACTERS: Final = 256
"""The longest key id. Those in use have fewer than 100 characters."""

MAX_RETIRED: Final = 100
"""The most ids kept of keys that earlier sets held, latest first: their tokens were valid once."""

MAX_PREAMBLE_BYTES: Final = 1024
"""The part of a document that is searched for PEM."""

_SECRET: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})
"""Members of private and symmetric keys (RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1)."""

_NUMBERS: Final[Mapping[str, tuple[str, ...]]] = {"RSA": ("n", "e"), "EC": ("x", "y"), "OKP": ("x",)}
"""The members of the public key, by kty."""

_MATERIAL: Final = ("kty", "crv", "n", "e", "x", "y")
"""The members in which two public keys differ."""

_MEANT: Final = (*_MATERIAL, "kid", "alg", "issuer")
"""The members in which two entries differ; certificates and dates of one key may change."""

_CURVES: Final = {kty: {crv for of, crv in FAMILIES if of == kty} for kty in ("EC", "OKP")}

_BASE64URL: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


class KeySetError(ValueError):
    """The document is not a key set, or has no usable key."""


@dataclass(slots=True, eq=False)
class Key:
    """A public key. `trusted` turns false when its set no longer holds it, which voids what it proved."""

    id: str | None
    algorithms: frozenset[str]
    public_key: Any
    jwk: Mapping[str, Any] = field(repr=False)
    material: bytes = field(repr=False)
    """Equal for all entries of one public key, even if other members differ."""
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class RefusedKey:
    """An entry of the document that is not used, and why."""

    id: str | None
    reason: str
    secret: bool = False
    """Whether the entry reveals a key that signs tokens."""

    def __str__(self) -> str:
        return f"{self.id or 'without kid'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of one document."""

    keys: tuple[Key, ...]
    by_id: Mapping[str, Key]
    """The first key of each kid."""
    by_use: Mapping[tuple[str, str], Key] = field(default_factory=dict)
    """Keys by kid and algorithm: keys with one kid may differ in their algorithm (keycloak#15114)."""
    refused: tuple[RefusedKey, ...] = ()
    retired: tuple[str, ...] = ()
    """Ids of keys that earlier documents held and this one lacks."""

    def find(self, key_id: str | None, algorithm: str) -> Key | None:
        """Return the key for a token; None if no key fits, or more than one.

        If the token or the key has no key id, the algorithm must determine the key.
        """
        if key_id is not None:
            key = self.by_use.get((key_id, algorithm)) or self.by_id.get(key_id)
            if key is not None:
                return key
        candidates = self.keys if key_id is None else (key for key in self.keys if key.id is None)
        fitting = [key for key in candidates if algorithm in key.algorithms]
        return fitting[0] if len({key.material for key in fitting}) == 1 else None

    def withdraw(self, successor: "KeySet | None") -> None:
        """End the trust in every key that `successor` does not hold."""
        kept = {id(key) for key in successor.keys} if successor is not None else set()
        for key in self.keys:
            if id(key) not in kept:
                key.trusted = False


def parse_key_set(document: bytes, previous: KeySet | None = None) -> KeySet:
    """Return the keys in `document`; a key that `previous` holds unchanged stays the same object.

    Unusable keys are listed in `refused` (RFC 7517 section 5). Raises KeySetError if the document is not a
    key set or has no usable key.
    """
    entries = _entries(document)
    known = {} if previous is None else {_fingerprint(key.jwk, _MEANT): key for key in previous.keys}
    usable: dict[bytes, Key] = {}
    refused: list[RefusedKey] = []
    for entry in entries:
        found = _read(entry, known)
        if isinstance(found, RefusedKey):
            refused.append(found)
        else:
            usable.setdefault(_fingerprint(found.jwk, _MEANT), found)
    keys, ambiguous = _distinguished(usable.values())
    refused += ambiguous
    if not keys:
        reasons = "; ".join(sorted({key.reason for key in refused})) or "it is empty"
        raise KeySetError(f"no usable key: {reasons}")
    by_id: dict[str, Key] = {}
    by_use: dict[tuple[str, str], Key] = {}
    for key in keys:
        if key.id is not None:
            by_id.setdefault(key.id, key)
            for algorithm in key.algorithms:
                by_use.setdefault((key.id, algorithm), key)
    return KeySet(tuple(keys), by_id, by_use, tuple(refused), _retired(previous, by_id))


def _entries(document: bytes) -> list[Any]:
    """Return the list `keys` of the document. Raises KeySetError."""
    if b"-----BEGIN " in document[:MAX_PREAMBLE_BYTES]:
        # AWS load balancers publish PEM keys by kid, and Google publishes certificates by kid.
        raise KeySetError("it is PEM, not a JSON Web Key Set; publishers of both have two URLs")
    try:
        content = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        place = f" (line {error.lineno}, column {error.colno})" if document.strip() else ""
        raise KeySetError(f"it is {looks_like(document)}, not JSON{place}") from None
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        if isinstance(content, dict) and "jwks_uri" in content:
            raise KeySetError("it is an OpenID configuration: write jwks: {discovery: URL}")
        raise KeySetError('not a key set: no list "keys"')
    if len(entries) > MAX_KEYS:
        raise KeySetError(f"{len(entries)} keys; at most {MAX_KEYS} are read")
    return entries


def _distinguished(usable: Iterable[Key]) -> tuple[list[Key], list[RefusedKey]]:
    """Return the keys with a unique kid and algorithm, and refusals of those that share both.

    RFC 7517 section 4.5. One public key may be listed several times, with its `alg` and without.
    """
    keys = list(usable)
    sharing: dict[tuple[str | None, str], set[bytes]] = {}
    for key in keys:
        for algorithm in key.algorithms:
            sharing.setdefault((key.id, algorithm), set()).add(key.material)
    alone, ambiguous = [], []
    for key in keys:
        if key.id is not None and any(len(sharing[key.id, name]) > 1 for name in key.algorithms):
            ambiguous.append(RefusedKey(key.id, "two keys have its kid and an alg in common"))
        else:
            alone.append(key)
    return alone, ambiguous


def _retired(previous: KeySet | None, by_id: Mapping[str, Key]) -> tuple[str, ...]:
    if previous is None:
        return ()
    gone = [key_id for key_id in (*previous.retired, *previous.by_id) if key_id not in by_id]
    return tuple(gone[-MAX_RETIRED:])


def _fingerprint(jwk: Mapping[str, Any], members: Iterable[str]) -> bytes:
    return orjson.dumps({name: jwk[name] for name in members if name in jwk}, option=orjson.OPT_SORT_KEYS)


def _read(entry: Any, known: Mapping[bytes, Key]) -> Key | RefusedKey:
    """Return the key of an entry: the object in `known` if that is the same key."""
    if not isinstance(entry, dict):
        return RefusedKey(None, "a key is not a JSON object")
    # Some publishers write every possible member; one without a value counts as absent.
    jwk = {name: value for name, value in entry.items() if value not in (None, "", [])}
    kid = jwk.get("kid")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KEY_ID_CHARACTERS):
        return RefusedKey(None, f"its kid is not a text of at most {MAX_KEY_ID_CHARACTERS} characters")
    if jwk.get("kty") == "oct":
        reason = "a symmetric key (kty oct) has no place in a key set for verification"
        return RefusedKey(kid, reason, secret=True)
    if not _SECRET.isdisjoint(jwk):
        return RefusedKey(kid, "it is a private key: everyone who reads the set can sign", secret=True)
    reason = _fault(jwk)
    if reason:
        return RefusedKey(kid, reason)
    return known.get(_fingerprint(jwk, _MEANT)) or _parsed(jwk, kid)


def _fault(jwk: Mapping[str, Any]) -> str:
    """Return why the entry is not a key for signatures; empty if it may be one."""
    if any(not isinstance(jwk.get(name, ""), str) for name in ("kty", "crv", "alg", "use")):
        return "its kty, crv, alg or use is not a text"
    kty = jwk.get("kty", "")
    if "x5c" in jwk and "n" not in jwk and "x" not in jwk:
        return (
            "it has only x5c, a certificate; the members of the key itself are missing (RFC 7518 section 6)"
        )
    if kty not in PARSE:
        return f"its kty {kty!r:.40} is not one of {', '.join(sorted(PARSE))}"
    if jwk.get("use", "sig") != "sig":
        return f"it is for use {jwk['use']!r:.40}, not for signatures"
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return "its key_ops do not include verify"
    for name in _NUMBERS[kty]:
        number = jwk.get(name)
        if not isinstance(number, str):
            lacks = f"it lacks {name} (RFC 7518 section 6)"
            return lacks if number is None else f"its {name} is not a text"
        if not _BASE64URL.issuperset(number):
            what = "padded base64url (=)" if number.endswith("=") else "not base64url"
            return f"its {name} is {what}: RFC 7518 has A-Z a-z 0-9 - _ and no padding"
    return ""


def _parsed(jwk: dict[str, Any], kid: str | None) -> Key | RefusedKey:
    family = (jwk["kty"], jwk.get("crv", "") if jwk["kty"] != "RSA" else "")
    algorithms = FAMILIES.get(family)
    if algorithms is None:
        crv = jwk.get("crv")
        reason = "it lacks crv" if crv is None else f"its crv {crv!r:.40} is not supported"
        return RefusedKey(kid, f"{reason}; supported: {', '.join(sorted(_CURVES[jwk['kty']]))}")
    declared = jwk.get("alg")
    if declared is not None:
        # The key, not the token, determines the algorithm (RFC 8725 section 3.1, CVE-2026-48523).
        if declared not in algorithms:
            return RefusedKey(kid, f"its alg {declared!r:.40} does not fit its kty")
        # On one curve, the names of EdDSA mean the same (RFC 9864).
        algorithms = algorithms & EDDSA if declared in EDDSA else frozenset({declared})
    try:
        public_key = PARSE[jwk["kty"]](jwk)
    except Exception:  # PyJWT and cryptography raise a wide range for bad numbers
        numbers = _NUMBERS[jwk["kty"]]
        made = f"{' and '.join(numbers)} {'make' if len(numbers) > 1 else 'makes'}"
        return RefusedKey(kid, f"its {made} no key of {family[1] or 'RSA'}")
    if jwk["kty"] == "RSA":
        reason = _rsa_fault(public_key)
        if reason:
            return RefusedKey(kid, reason)
    return Key(kid, algorithms, public_key, jwk, _fingerprint(jwk, _MATERIAL))


def _rsa_fault(public_key: Any) -> str:
    if not MIN_RSA_BITS <= public_key.key_size <= MAX_RSA_BITS:
        return f"RSA of {public_key.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are used"
    return weakness(public_key.public_numbers().n)
