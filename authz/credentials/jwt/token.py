"""Parses and verifies JSON Web Tokens (RFC 7519, RFC 8725).

One look-up of `iss` finds the issuer, so fifty cost as much as one (istio/istio#49691). The issuer
determines the keys, algorithms and audiences. Only `alg`, `kid`, `typ` and `crit` are read from the header;
`jku`, `x5u`, `jwk` and `x5c` are never followed, because they would let a token name the key that proves it.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import orjson

from authz.credentials.jwt.algorithms import EDDSA, VERIFY
from authz.credentials.jwt.claims import SetInterner, identity_of
from authz.credentials.jwt.config import TENANT, IssuerConfig
from authz.credentials.jwt.key_set import MAX_KEY_ID_CHARACTERS, Key
from authz.credentials.jwt.refusals import RefusedError, refuse_token
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason


class KeySource(Protocol):
    """Provides the keys of an issuer."""

    def get_cached(self, key_id: str | None, algorithm: str) -> Key | None:
        """Return the key if it is loaded, else None."""

    def get(self, key_id: str | None, algorithm: str) -> Key | Refusal | Awaitable[Key | Refusal]:
        """Return the key or a refusal; an awaitable of it if the key has to be fetched."""

    def doubt(self, key: Key, key_id: str | None, algorithm: str) -> "Doubt | None":
        """Handle a token that `key` did not sign. Return None if no other key can be in use."""

    def describe(self) -> dict[str, Any]:
        """Return the state for `/config`."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A key that failed to verify a token, while a fetch may bring another key."""

    fetched: Awaitable[Key | Refusal] | None
    """The key from a fetch; None if it is too early for one."""
    once_final: Callable[[Callable[[], None]], None]
    """What `Refusal.once_final` of the refused token is set to."""


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A parsed token. Nothing in it is verified."""

    algorithm: str
    key_id: str | None
    type: str | None
    issuer: str
    claims: dict[str, Any]
    signing_input: bytes
    signature: bytes


@dataclass(slots=True, eq=False)
class Issuer:
    """A configured issuer. Compared by identity: a changed configuration is another issuer.

    `trusted` turns false when a reload replaces the issuer, which voids what it has accepted.
    """

    config: IssuerConfig
    keys: KeySource
    algorithms: frozenset[str]
    types: frozenset[str]
    audiences: frozenset[str] | None
    """The accepted audiences; None if the configuration accepts any."""
    tenant: str = ""
    """The text for `{tenantid}` in a template; empty if the issuer is not a template."""
    trusted: bool = True
    shared: SetInterner = field(default_factory=SetInterner)

    @classmethod
    def of(cls, config: IssuerConfig, keys: KeySource, tenant: str = "") -> "Issuer":
        """Return the issuer of `config`, with its sets built."""
        audiences = None if config.audiences == "any" else frozenset(config.audiences)
        types = frozenset(media_type(name) for name in config.types)
        algorithms = frozenset(config.algorithms)
        if "EdDSA" in algorithms:
            algorithms |= EDDSA
        return cls(config, keys, algorithms, types, audiences, tenant)


@dataclass(frozen=True, slots=True)
class Proven:
    """An identity, with the issuer and the key that prove it."""

    identity: Identity
    issuer: Issuer
    key: Key


@dataclass(frozen=True, slots=True)
class KeyAwaited:
    """A token whose key has to be fetched."""

    token: UnverifiedToken
    issuer: Issuer
    key: Awaitable[Key | Refusal]
    failed: RefusedError | None = None
    """How the token failed with the key that was loaded."""

    def prove(self, key: Key | Refusal, now: float) -> Proven:
        """Return the verified identity, with the key fetched. Raises RefusedError."""
        try:
            return self._prove(key, now)
        except RefusedError as error:
            raise error.of_issuer(self.issuer.config.issuer) from None

    def _prove(self, key: Key | Refusal, now: float) -> Proven:
        if self.failed is not None and (
            key is self.failed.key
            or (isinstance(key, Refusal) and key.reason is RefusalReason.KEYS_UNAVAILABLE)
        ):
            raise self.failed
        if isinstance(key, Refusal):
            raise RefusedError(key)
        return _proven(self.token, self.issuer, key, now)


class JwtVerifier:
    """Verifies tokens of the configured issuers. Has no state."""

    def __init__(self, issuers: Mapping[str, Issuer]) -> None:
        self._issuers = issuers

    def verify(self, text: str, now: float) -> Proven | KeyAwaited:
        """Return the verified identity, or the token with the key it waits for. Raises RefusedError.

        The audience is not checked here: it is checked in every request (`check_audience`).
        """
        token = read(text)
        issuer = self._issuers.get(token.issuer)
        if issuer is None:
            refuse_token(RefusalReason.ISSUER_UNKNOWN, f"no issuer {token.issuer[:100]!r} is configured")
        try:
            return _verified(token, issuer, now)
        except RefusedError as error:
            raise error.of_issuer(token.issuer) from None


def _verified(token: UnverifiedToken, issuer: Issuer, now: float) -> Proven | KeyAwaited:
    required = issuer.config.type_required
    check_header(token, issuer.algorithms, issuer.types, type_required=required)
    key = issuer.keys.get_cached(token.key_id, token.algorithm)
    if key is not None:
        try:
            check_key(token, issuer, key)
        except RefusedError as error:
            return _doubted(token, issuer, error, now)
        return Proven(identity_of(token.claims, issuer.config, issuer.shared, now), issuer, key)
    _check_worth_a_key(token, issuer, now)
    found = issuer.keys.get(token.key_id, token.algorithm)
    if isinstance(found, Refusal):
        raise RefusedError(found)
    return _proven(token, issuer, found, now) if isinstance(found, Key) else KeyAwaited(token, issuer, found)


def _doubted(token: UnverifiedToken, issuer: Issuer, failed: RefusedError, now: float) -> KeyAwaited:
    """Return the token with the key that a fetch may bring under the same id. Raises RefusedError."""
    assert failed.key is not None  # noqa: S101 - set by check_key
    try:
        _check_worth_a_key(token, issuer, now)
    except RefusedError:
        raise failed from None
    doubt = issuer.keys.doubt(failed.key, token.key_id, token.algorithm)
    if doubt is None:
        raise failed
    undecided = RefusedError(replace(failed.refusal, once_final=doubt.once_final), key=failed.key)
    if doubt.fetched is None:
        raise undecided
    return KeyAwaited(token, issuer, doubt.fetched, undecided)


def _check_worth_a_key(token: UnverifiedToken, issuer: Issuer, now: float) -> None:
    """Raise RefusedError for a token that no key makes valid: it must not cause a fetch or wait for one."""
    try:
        found = check_audience(identity_of(dict(token.claims), issuer.config, SetInterner(), now), issuer)
    except RefusedError as error:
        raise RefusedError(error.refusal, kept=False) from None
    if isinstance(found, Refusal):
        raise RefusedError(found, kept=False)


def check_audience(identity: Identity, issuer: Issuer) -> Identity | Refusal:
    """Return `identity`, or refuse another audience (RFC 7519 section 4.1.3, Kuadrant/authorino#664)."""
    if issuer.audiences is None or not issuer.audiences.isdisjoint(identity.audiences):
        return identity
    detail = f"aud {sorted(identity.audiences)!s:.200} has none of {sorted(issuer.audiences)!s:.200}"
    detail += f" (issuer {issuer.config.issuer})"
    return Refusal(RefusalReason.AUDIENCE_MISMATCH, detail, CredentialKind.JWT)


def read(text: str) -> UnverifiedToken:
    """Parse a token (JWS compact serialisation, RFC 7515 section 7.1). Raises RefusedError."""
    parts = text.split(".")
    if len(parts) != 3:
        refuse_token(RefusalReason.TOKEN_MALFORMED, f"a JWT has 3 parts between dots, not {len(parts)}")
    header = _json_object(parts[0], "header")
    claims = _json_object(parts[1], "payload")
    algorithm, key_id = header.get("alg"), header.get("kid")
    token_type, issuer = header.get("typ"), claims.get("iss")
    if "crit" in header:
        # RFC 7515 section 4.1.11: unknown extensions must be refused, and none is known here
        # (CVE-2026-32597, Authlib CVE-2025-59420).
        refuse_token(RefusalReason.TOKEN_MALFORMED, "its header has crit")
    if not isinstance(algorithm, str):
        refuse_token(RefusalReason.TOKEN_MALFORMED, "its header has no alg")
    if key_id is not None and (not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID_CHARACTERS):
        refuse_token(RefusalReason.TOKEN_MALFORMED, "its kid is not a short text")
    if token_type is not None and not isinstance(token_type, str):
        refuse_token(RefusalReason.TOKEN_MALFORMED, "its typ is not a text")
    if not isinstance(issuer, str):
        refuse_token(RefusalReason.ISSUER_UNKNOWN, "it has no iss")
    signing_input = text[: len(parts[0]) + 1 + len(parts[1])].encode("ascii")
    signature = _decoded(parts[2], "signature")
    # An empty kid counts as absent, in a token as in a key.
    return UnverifiedToken(algorithm, key_id or None, token_type, issuer, claims, signing_input, signature)


def _decoded(part: str, name: str) -> bytes:
    """Decode canonical base64url without padding (RFC 7515 section 2, RFC 4648 section 3.5)."""
    try:
        encoded = part.encode("ascii")
        content = urlsafe_b64decode(encoded + b"==="[: -len(part) % 4])
    except ValueError:
        refuse_token(RefusalReason.TOKEN_MALFORMED, f"its {name} is not base64url")
    if encoded.endswith(b"="):
        detail = f"its {name} is padded base64url, as AWS load balancers write it; RFC 7515 has no padding"
        refuse_token(RefusalReason.TOKEN_MALFORMED, detail)
    # Python skips characters outside the alphabet; encoding again shows that none was skipped.
    if urlsafe_b64encode(content).rstrip(b"=") != encoded:
        refuse_token(RefusalReason.TOKEN_MALFORMED, f"its {name} is not canonical base64url")
    return content


def _json_object(part: str, name: str) -> dict[str, Any]:
    try:
        value = orjson.loads(_decoded(part, name))
    except orjson.JSONDecodeError:
        refuse_token(RefusalReason.TOKEN_MALFORMED, f"its {name} is not JSON")
    if not isinstance(value, dict):
        refuse_token(RefusalReason.TOKEN_MALFORMED, f"its {name} is not a JSON object")
    return value


def media_type(name: str) -> str:
    """Return `name` in comparable form (RFC 7515 section 4.1.9: `application/` and case do not matter)."""
    return name.lower().removeprefix("application/")


def check_header(
    token: UnverifiedToken, algorithms: frozenset[str], types: frozenset[str], *, type_required: bool
) -> None:
    """Raise RefusedError unless the issuer is configured with this `alg` and `typ`."""
    if token.algorithm not in algorithms:
        detail = f"alg {token.algorithm[:20]!r} is not accepted from this issuer"
        refuse_token(RefusalReason.TOKEN_ALGORITHM, detail)
    if token.type is None:
        if type_required:
            refuse_token(RefusalReason.TOKEN_TYPE, "it has no typ")
    elif media_type(token.type) not in types:
        refuse_token(RefusalReason.TOKEN_TYPE, f"typ {token.type[:40]!r} is not accepted from this issuer")


def check_signature(token: UnverifiedToken, key: Key) -> None:
    """Raise RefusedError if `key` did not sign `token`, or may not sign it."""
    if token.algorithm not in key.algorithms:
        detail = f"alg {token.algorithm} does not fit the key {key.id!r}"
        raise RefusedError(Refusal(RefusalReason.TOKEN_ALGORITHM, detail, CredentialKind.JWT), key=key)
    if not VERIFY[token.algorithm](token.signing_input, key.public_key, token.signature):
        detail = f"the key {key.id!r} did not sign it"
        raise RefusedError(Refusal(RefusalReason.TOKEN_SIGNATURE, detail, CredentialKind.JWT), key=key)


def check_key(token: UnverifiedToken, issuer: Issuer, key: Key) -> None:
    """Raise RefusedError if `key` did not sign `token`, or may not sign it.

    Tenants share a key set, in which a key may belong to one of them (its member `issuer`, Entra).
    """
    check_signature(token, key)
    meant = key.jwk.get("issuer") if issuer.tenant else None
    if isinstance(meant, str) and meant.replace(TENANT, issuer.tenant) != issuer.config.issuer:
        detail = f"the key {key.id!r} is for the issuer {meant[:200]!r}"
        raise RefusedError(Refusal(RefusalReason.KEY_UNKNOWN, detail, CredentialKind.JWT), key=key)


def _proven(token: UnverifiedToken, issuer: Issuer, key: Key, now: float) -> Proven:
    check_key(token, issuer, key)
    return Proven(identity_of(token.claims, issuer.config, issuer.shared, now), issuer, key)
