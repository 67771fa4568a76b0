"""Verifies API keys, `ID.SECRET`, against the hash of the secret."""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from typing import Final

from pydantic import Field

from authz.credentials.api_key.config import ApiKeyConfig, ApiKeysConfig
from authz.credentials.core.verifier import ThrottleCheck, Verified, no_throttle
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason
from common.configfile import Block, ConfigError, read, validate
from common.lru_cache import LruCache

SECRET_BYTES: Final = 32
"""256 random bits: their SHA-256 cannot be reversed by guessing, so no slow hash is needed."""

MAX_KNOWN: Final = 10_000
"""The most verified keys cached, about 0.2 KB each."""

_SHAPE: Final = re.compile(r"([A-Za-z0-9_-]{1,64})\.([A-Za-z0-9_-]{16,256})")

_UNKNOWN: Final = Refusal(RefusalReason.API_KEY_UNKNOWN, "no such key", CredentialKind.API_KEY)
_EXPIRED: Final = Refusal(RefusalReason.API_KEY_EXPIRED, "the key has expired", CredentialKind.API_KEY)
_NO_HASH: Final = bytes(32)


class ApiKeyFile(Block):
    """A file of API keys."""

    keys: tuple[ApiKeyConfig, ...] = Field(min_length=1)


class ApiKeys:
    """The keys in service."""

    def __init__(self, keys: Iterable[ApiKeyConfig]) -> None:
        self._known: LruCache[bytes, Identity] = LruCache(MAX_KNOWN)
        self._keys = {key.id: (bytes.fromhex(key.sha256), _identity(key)) for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def cached(self, credential: str, now: float) -> Verified | None:
        """Return the identity of a key verified before, which also passes from a throttled address."""
        identity = self._known.get(hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest())
        if identity is not None and identity.expires_at is not None and now >= identity.expires_at:
            return _EXPIRED
        return identity

    def unverified_subject(self, credential: str) -> str:
        """Return the id of the key, as a subject."""
        return f"key {credential.partition('.')[0]}"

    def verify(self, credential: str, now: float, _throttle_check: ThrottleCheck = no_throttle) -> Verified:
        """Return the identity of `credential`, or why it is refused."""
        shape = _SHAPE.fullmatch(credential)
        if shape is None:
            return _UNKNOWN
        expected, identity = self._keys.get(shape[1], (_NO_HASH, None))
        presented = hashlib.sha256(shape[2].encode("ascii")).digest()
        if not hmac.compare_digest(presented, expected) or identity is None:
            return _UNKNOWN
        if identity.expires_at is not None and now >= identity.expires_at:
            return _EXPIRED
        self._known.put(hashlib.sha256(credential.encode("ascii")).digest(), identity)
        return identity


def new_api_key(key_id: str, random_bytes: Callable[[int], bytes]) -> tuple[str, str]:
    """Return a new key `ID.SECRET` to hand out, and the `sha256` for the configuration."""
    secret = urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=")
    return f"{key_id}.{secret.decode('ascii')}", hashlib.sha256(secret).hexdigest()


def load(config: ApiKeysConfig) -> ApiKeys:
    """Return the keys of the policy file and of the key file together. Raises ConfigError."""
    if config.file is None:
        return ApiKeys(config.keys)
    document = read(config.file)
    added = validate(document, ApiKeyFile).keys
    known = {key.id for key in config.keys}
    problems = []
    for index, key in enumerate(added):
        if key.id in known:
            problems.append(document.problem(("keys", index, "id"), f"duplicate API key {key.id!r}"))
        known.add(key.id)
    if problems:
        raise ConfigError(problems)
    return ApiKeys((*config.keys, *added))


def _identity(key: ApiKeyConfig) -> Identity:
    return Identity(
        kind=CredentialKind.API_KEY,
        subject=key.subject,
        scopes=frozenset(key.scopes),
        roles=frozenset(key.roles),
        claims={"key_id": key.id},
        expires_at=key.expires.timestamp() if key.expires is not None else None,
    )
