"""How values of descriptors are shown in metadata, metrics, logs and admin pages: secrets as a hash."""

import hmac
import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from common.redaction.names import DEFAULT_HEADERS, DEFAULT_QUERY_PARAMETERS, ends_as_secret, folded
from protos.lenient import original
from ratelimit.cache import GenerationalCache

HASH_DIGITS: Final = 16
"""Hexadecimal digits that are shown, 64 bits: of a million values no two are likely to have the same."""

KEYS_REMEMBERED: Final = 1_000

_DEFAULTS: Final = frozenset(map(folded, DEFAULT_HEADERS | DEFAULT_QUERY_PARAMETERS))
_LAST_WORDS: Final = frozenset(map(folded, (*DEFAULT_HEADERS, "session", "session_id", "jwt")))
"""Names that are secret with other words before them, too: `request_authorization`, `app_session`. Not `code`
and `state`, since `status_code` and `us_state` are common."""
_WORDS: Final = re.compile(r"[\W_]+")


class SecretValues:
    """Tells by the key of a descriptor whether its value is a secret, and shows a secret as its hash.

    Secret are the values of keys that are named like headers and parameters that let a caller in, or end as
    such names do (`common.redaction`), and those of `keys`, except `allow`. Equal values have equal hashes.
    Without `hmac_key` a hash is SHA-256, so a value that can be guessed can be found; with it, HMAC-SHA-256.
    """

    def __init__(self, keys: Iterable[str] = (), allow: Iterable[str] = (), hmac_key: bytes = b"") -> None:
        self._keys = frozenset(map(folded, keys))
        self._allowed = frozenset(map(folded, allow)) - self._keys
        self._hmac_key = hmac_key
        self._known: GenerationalCache[str, int] = GenerationalCache(KEYS_REMEMBERED)
        self._plain: set[str] = set()
        """Some of the keys whose values are not secret: tested first, since almost all are such."""

    def is_secret(self, key: str) -> bool:
        """Return whether the values of `key` are secrets."""
        known = self._known.get(key)
        if known is None:
            known = int(self._has_secret_name(key))
            self._known.put(key, known)
            if not known and len(self._plain) < KEYS_REMEMBERED:
                self._plain.add(key)
        return bool(known)

    def _has_secret_name(self, key: str) -> bool:
        name = folded(key)
        if name in self._keys:
            return True
        if name in self._allowed:
            return False
        if name in _DEFAULTS or ends_as_secret(name):
            return True
        words = [folded(word) for word in _WORDS.split(key)]
        return any("".join(words[first:]) in _LAST_WORDS for first in range(1, len(words)))

    def shown(self, key: str, value: str) -> str:
        """Return `value` as it is shown: unchanged, or `sha256:` or `hmac:` and 16 digits of its hash."""
        if key in self._plain or not value or not self.is_secret(key):
            return value
        text = original(value.strip(" \t"))
        if self._hmac_key:
            return f"hmac:{hmac.digest(self._hmac_key, text, 'sha256').hex()[:HASH_DIGITS]}"
        return f"sha256:{sha256(text).hexdigest()[:HASH_DIGITS]}"

    def shown_pattern(self, key: str, value: str) -> str:
        """Return the value of a descriptor in a limits file as it is shown: a pattern with `*` unchanged."""
        return value if "*" in value else self.shown(key, value)


DEFAULT_SECRETS: Final = SecretValues()
"""By the default names, without a key."""
