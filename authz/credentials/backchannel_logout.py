"""OpenID Connect Back-Channel Logout 1.0: an issuer says which of its sessions have ended."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from authz.credentials.jwt.claims import LOGOUT_EVENT, audiences, check_time_now, numeric_date
from authz.credentials.jwt.key_set import Key
from authz.credentials.jwt.refusals import RefusedError, refuse_token
from authz.credentials.jwt.token import Issuer, UnverifiedToken, check_header, check_key, read
from authz.credentials.revocation.revocation_list import (
    MAX_VALUE_CHARACTERS,
    Revocation,
    Revocations,
    Revoked,
)
from authz.request.identity import Refusal, RefusalReason
from common.lru_cache import LruCache

TYPES: Final = frozenset({"logout+jwt", "jwt"})
"""The accepted `typ` headers. Section 2.4 recommends the first; older providers send the second or none."""

MAX_TOKEN_IDS: Final = 10_000
"""The most logout tokens cached, 0.2 KB each, so that a replay writes nothing. A replay that is not cached is
harmless: it ends only what the token ended the first time."""

OUTAGES: Final = frozenset({RefusalReason.KEYS_UNAVAILABLE, RefusalReason.REVOCATIONS_UNAVAILABLE})
"""The refusals after which the issuer may send the same token again."""


@dataclass(frozen=True, slots=True)
class Logout:
    """The content of a valid logout token."""

    issuer: str
    subject: str
    session: str
    issued_at: float
    id: str
    """The `jti` of the token."""


class LogoutReceiver:
    """Accepts logout tokens from the issuers whose configuration has a `logout` block."""

    def __init__(
        self,
        issuers: Mapping[str, Issuer],
        revocations: Revocations,
        max_bytes: int,
        wall_clock: Callable[[], float],
    ) -> None:
        self._issuers = {name: issuer for name, issuer in issuers.items() if issuer.config.logout is not None}
        self._revocations = revocations
        self._max_bytes = max_bytes
        self._wall_clock = wall_clock
        self._seen: LruCache[Logout, float] = LruCache(MAX_TOKEN_IDS)

    async def receive(self, text: str) -> Logout:
        """Revoke what the logout token `text` names, and return its content.

        Raises RefusedError for an invalid token (section 2.6), and StoreUnavailableError or
        RevocationsFullError if the revocation cannot be stored.
        """
        if len(text) > self._max_bytes:
            detail = f"longer than tokens.max_bytes, which is {self._max_bytes}"
            refuse_token(RefusalReason.TOKEN_TOO_LONG, detail)
        if not text.isascii():
            refuse_token(RefusalReason.TOKEN_MALFORMED, "not ASCII")
        token = read(text)
        issuer = self._issuers.get(token.issuer)
        if issuer is None:
            refuse_token(RefusalReason.ISSUER_UNKNOWN, "no issuer of this name is configured with logout")
        assert issuer.config.logout is not None  # noqa: S101 - only such issuers are looked up
        check_header(token, issuer.algorithms, TYPES, type_required=False)
        # Before the key is looked up: an invalid token must not cause a fetch.
        logout = self._checked(token, issuer, self._wall_clock())
        await _check_signature(token, issuer)
        now = self._wall_clock()
        if now < (self._seen.get(logout) or 0.0):
            # Sent again by an issuer that missed the answer, or replayed: the revocation exists already.
            return logout
        until = now + self._revocations.config.retention_seconds
        # A `sid` ends that session; a `sub` alone ends every session of the subject.
        if logout.session:
            entry = Revocation(Revoked.SESSION, logout.session, until, issuer=logout.issuer)
        else:
            # `iat` counts whole seconds, so tokens issued within the same second have ended too.
            before = logout.issued_at + 1
            entry = Revocation(Revoked.SUBJECT, logout.subject, until, before, logout.issuer)
        await self._revocations.revoke(entry)
        # After the write: a token whose revocation failed is sent again (section 2.8), which is not a replay.
        remember_seconds = issuer.config.logout.max_age_seconds + 2 * issuer.config.leeway_seconds
        self._seen.put(logout, now + remember_seconds)
        return logout

    def _checked(self, token: UnverifiedToken, issuer: Issuer, now: float) -> Logout:
        config, claims = issuer.config, token.claims
        assert config.logout is not None  # noqa: S101 - only such issuers are looked up
        expires_at, issued_at = numeric_date(claims, "exp"), numeric_date(claims, "iat")
        if issued_at is None:
            refuse_token(RefusalReason.CLAIM_MISSING, "it has no iat")
        check_time_now(expires_at, None, issued_at, config.leeway_seconds, now)
        if now - issued_at > config.logout.max_age_seconds + config.leeway_seconds:
            refuse_token(RefusalReason.TOKEN_EXPIRED, "it is older than logout.max_age_seconds")
        if audiences(claims.get("aud")).isdisjoint(config.logout.audiences):
            refuse_token(RefusalReason.AUDIENCE_MISMATCH, "its aud is none of logout.audiences")
        events = claims.get("events")
        if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
            refuse_token(RefusalReason.CLAIM_MISSING, "its events do not name a back-channel logout")
        if "nonce" in claims:
            # Section 2.4: otherwise an ID token could pass for a logout token.
            refuse_token(RefusalReason.CLAIM_FORBIDDEN, "it has a nonce")
        subject, session, token_id = (_text(claims, name) for name in ("sub", "sid", "jti"))
        if not subject and not session:
            refuse_token(RefusalReason.CLAIM_MISSING, "it has neither sub nor sid")
        if not token_id:
            refuse_token(RefusalReason.CLAIM_MISSING, "it has no jti")
        return Logout(config.issuer, subject, session, issued_at, token_id)


async def _check_signature(token: UnverifiedToken, issuer: Issuer) -> None:
    """Raise RefusedError unless a key of the issuer signed the token. Fetches replaced keys."""
    found = issuer.keys.get(token.key_id, token.algorithm)
    key = await found if isinstance(found, Awaitable) else found
    if isinstance(key, Refusal):
        raise RefusedError(key)
    try:
        check_key(token, issuer, key)
    except RefusedError:
        doubt = issuer.keys.doubt(key, token.key_id, token.algorithm)
        fetched = None if doubt is None or doubt.fetched is None else await doubt.fetched
        if not isinstance(fetched, Key) or fetched is key:
            raise
        check_key(token, issuer, fetched)


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str) or len(value) > MAX_VALUE_CHARACTERS:
        refuse_token(RefusalReason.TOKEN_MALFORMED, f"its {name} is not a short text")
    return value
