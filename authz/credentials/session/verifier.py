"""Creates, verifies, renews and revokes sessions."""

import asyncio
import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

import orjson

from authz.credentials.core.metrics import SessionMetrics
from authz.credentials.core.store_errors import StoreUnavailableError
from authz.credentials.core.verifier import ThrottleCheck, Verified, no_throttle
from authz.credentials.revocation.revocation_list import RevocationCheck
from authz.credentials.session.config import SessionsConfig
from authz.credentials.session.memory_store import MemorySessionStore
from authz.credentials.session.model import (
    ENDED,
    MAX_RECORD_BYTES,
    TOKEN_BYTES,
    Session,
    SessionStore,
    SessionTooLargeError,
    key_of,
)
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason
from common.lru_cache import LruCache
from common.tasks import cancel_and_wait

NEW_TOKEN_ATTEMPTS: Final = 8
"""The most attempts to make a token without a leading hyphen, which a command line takes for an option."""

RENEWED_FRACTION: Final = 0.1
"""The part of `idle_timeout_seconds` between two renewals that are written. A session in steady use costs
Redis ten writes in that time, and may end up to a tenth of it early."""

FLUSH_SECONDS: Final = 0.5
"""How long renewals are collected before they are written together."""

MAX_RENEWALS: Final = 10_000
"""The most renewals that wait, about 1 KB each. Beyond that, the next use renews the session."""

REFUSED_SECONDS: Final = 10.0
"""How long the refusal of an expired or unknown token is cached. No such token becomes valid later."""

MAX_REFUSED: Final = 10_000
"""The most refusals cached, apart from sessions, which they never evict."""

MAX_REVOKED: Final = 100_000
"""The most revoked sessions remembered, about 0.2 KB each, so that none comes back because Redis lost its
deletion in a failover or because an answer was on its way during the revocation."""

RESTORED_AT_MOST: Final = 1_000
"""The most revoked sessions, latest first, that are checked in Redis after a reconnect. A failover does not
lose older ones, and a thousand sidecars may reconnect at the same moment."""

_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]{22,128}")

_UNKNOWN: Final = Refusal(RefusalReason.SESSION_UNKNOWN, "no such session", CredentialKind.SESSION)
_EXPIRED: Final = Refusal(RefusalReason.SESSION_EXPIRED, "the session is over", CredentialKind.SESSION)
_REVOKED: Final = Refusal(RefusalReason.REVOKED, "the session was revoked", CredentialKind.SESSION)


@dataclass(slots=True)
class CachedSession:
    """A session, cached from `since` to `until`; void if the clock is set back before `since`."""

    session: Session
    identity: Identity
    since: float
    fresh_until: float
    until: float
    renew_at: float
    epoch: int


class Sessions:
    """Creates, verifies and revokes sessions."""

    def __init__(
        self,
        config: SessionsConfig,
        store: SessionStore,
        *,
        random_bytes: Callable[[int], bytes],
        wall_clock: Callable[[], float],
        revocations: RevocationCheck,
        metrics: SessionMetrics,
    ) -> None:
        self.config = config
        self.store = store
        self.revocations = revocations
        self._random_bytes = random_bytes
        self._wall_clock = wall_clock
        self._metrics = metrics
        self._cache: LruCache[bytes, CachedSession] = LruCache(config.cache_max_entries)
        self._refused: LruCache[bytes, tuple[Refusal, float]] = LruCache(MAX_REFUSED)
        self._revoked: LruCache[bytes, float] = LruCache(MAX_REVOKED)
        self._renewals: dict[str, Session] = {}
        self._fresh_seconds = inf if isinstance(store, MemorySessionStore) else config.cache_ttl_seconds
        self._gaps = 0
        """How often messages may have been missed. An answer requested before that is not cached."""
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._cache)

    def cached(self, token: str, now: float) -> Verified | None:
        """Return the cached outcome for `token`; None if the store has to be read."""
        try:
            digest = hashlib.sha256(token.encode("ascii")).digest()
        except UnicodeEncodeError:
            return _UNKNOWN
        entry = self._cache.get(digest)
        if entry is None or not entry.since <= now < entry.until:
            return self._remembered_refusal(digest, now)
        if entry.epoch != self.revocations.epoch:
            outcome = self.revocations.check(entry.identity, entry.session.created_at)
            if isinstance(outcome, Refusal):
                return outcome
            entry.epoch = self.revocations.epoch
        if now >= entry.renew_at:
            return self._renewed(digest.hex(), entry, now).identity
        return entry.identity

    def verify(
        self, token: str, now: float, _throttle_check: ThrottleCheck = no_throttle
    ) -> Verified | Awaitable[Verified]:
        """Return the identity of `token` or a refusal; an awaitable of it if the store is remote."""
        if _SHAPE.fullmatch(token) is None:
            return _UNKNOWN
        key = key_of(token)
        try:
            found = self.store.get(key)
        except StoreUnavailableError as error:
            return _unavailable(error)
        if found is None or isinstance(found, Session):
            return self._outcome(key, found, now)
        return self._later(key, found, now)

    def unverified_subject(self, _token: str) -> str:
        """Return an empty text: a session token does not name its subject."""
        return ""

    async def create(
        self,
        subject: str,
        now: float,
        *,
        scopes: tuple[str, ...] = (),
        roles: tuple[str, ...] = (),
        claims: Mapping[str, object] | None = None,
    ) -> str:
        """Create a session and return its token.

        Raises StoreUnavailableError, StoreFullError and SessionTooLargeError.
        """
        if not subject:
            raise ValueError("a session needs a subject")
        token = self._new_token()
        ends_at, idle_until = (
            now + self.config.absolute_timeout_seconds,
            now + self.config.idle_timeout_seconds,
        )
        session = Session(subject, now, idle_until, ends_at, scopes, roles, claims or {})
        size = len(session.to_json())
        if size > MAX_RECORD_BYTES:
            raise SessionTooLargeError(f"{size} bytes of claims; a session has at most {MAX_RECORD_BYTES}")
        await self.store.put(key_of(token), session, now)
        return token

    def _new_token(self) -> str:
        for _ in range(NEW_TOKEN_ATTEMPTS):
            token = urlsafe_b64encode(self._random_bytes(TOKEN_BYTES)).rstrip(b"=").decode("ascii")
            if not token.startswith("-"):
                break
        return token

    async def revoke(self, token: str) -> bool:
        """End the session of `token`. Returns whether there was one. Raises StoreUnavailableError."""
        return await self.revoke_keys([key_of(token)]) > 0

    async def revoke_keys(self, keys: Sequence[str]) -> int:
        """End the sessions of these keys (the hashes of their tokens). Returns how many there were."""
        self.forget(keys)
        return await self.store.revoke(keys)

    async def revoke_subject(self, subject: str) -> int:
        """End every session of `subject`. Returns how many there were. Raises StoreUnavailableError."""
        return await self.revoke_keys(await self.store.keys(subject))

    async def revoke_before(self, created_before: float) -> int:
        """End every session created earlier. Returns how many there were. Raises StoreUnavailableError."""
        sessions = await self.store.read(await self.store.keys(None))
        return await self.revoke_keys([key for key, kept in sessions if kept.created_at < created_before])

    async def find(self, subject: str | None, limit: int) -> list[tuple[str, Session]]:
        """Return at most `limit` keys and sessions, of `subject` or of all. Raises StoreUnavailableError."""
        now = self._wall_clock()
        found: list[tuple[str, Session]] = []
        keys = await self.store.keys(subject)
        for start in range(0, len(keys), limit):
            read = await self.store.read(keys[start : start + limit])
            found += [(key, kept) for key, kept in read if kept.over_at > now]
            if len(found) >= limit:
                break
        return found[:limit]

    def on_message(self, message: bytes) -> None:
        """Handle a message of another sidecar: the keys of revoked sessions. Raises ValueError."""
        keys = orjson.loads(message)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("not a list of session keys")
        self.forget(keys)

    def forget(self, keys: Sequence[str]) -> None:
        """Refuse these sessions from now on, even if the store still has them."""
        until = self._wall_clock() + self.config.absolute_timeout_seconds
        for key in keys:
            digest = bytes.fromhex(key)
            self._cache.forget(digest)
            self._renewals.pop(key, None)
            self._revoked.put(digest, until)

    def adopt(self, other: "Sessions") -> None:
        """Take over the revoked sessions of `other`, and the renewals that it has not written yet."""
        self._revoked = other._revoked  # noqa: SLF001 - the same sessions in another configuration
        if isinstance(self.store, MemorySessionStore) == isinstance(other.store, MemorySessionStore):
            self._renewals = other._renewals  # noqa: SLF001 - as above

    def forget_all(self) -> None:
        """Empty the cache of a shared store, because messages may have been missed."""
        if not isinstance(self.store, MemorySessionStore):
            self._cache.clear()
            self._gaps += 1

    async def restore(self) -> int:
        """Revoke again the sessions whose revocation the store has lost. Returns how many there were.

        A sidecar that starts later knows only the store. Raises StoreUnavailableError.
        """
        keys = [digest.hex() for digest in self._revoked.latest(RESTORED_AT_MOST)]
        back = [key for key, _ in await self.store.read(keys)]
        return await self.revoke_keys(back) if back else 0

    def start(self) -> None:
        """Start to write renewals, on the running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._flush_regularly(), name="session renewals")

    async def stop(self) -> None:
        """Stop, after a last write of pending renewals."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait(task)
        await self.flush()

    async def flush(self) -> None:
        """Write pending renewals. After a failure, the next use renews the session."""
        renewals, self._renewals = self._renewals, {}
        if not renewals:
            return
        try:
            await self.store.renew(renewals, self._wall_clock())
        except StoreUnavailableError:
            self._metrics.renewals_lost += len(renewals)
        else:
            self._metrics.renewals += len(renewals)

    def _remembered_refusal(self, digest: bytes, now: float) -> Refusal | None:
        # The store cannot make these valid again, but a clock set back must not make them last longer.
        if now < (self._revoked.peek(digest) or 0.0):
            return _REVOKED
        refusal, until = self._refused.peek(digest) or (None, 0.0)
        return refusal if now < until <= now + REFUSED_SECONDS else None

    def _refuse(self, digest: bytes, refusal: Refusal, now: float) -> Refusal:
        self._refused.put(digest, (refusal, now + REFUSED_SECONDS))
        return refusal

    def _renewed(self, key: str, entry: CachedSession, now: float) -> CachedSession:
        """Return the entry after this use, and queue its renewal."""
        if len(self._renewals) >= MAX_RENEWALS and key not in self._renewals:
            self._metrics.renewals_lost += 1
            return entry
        session = entry.session.used(now, self.config.idle_timeout_seconds)
        self._renewals[key] = session
        # `since` and `fresh_until` stay: a use does not tell whether the store still has the session.
        entry = self._entry(session, entry.since, entry.fresh_until)
        self._cache.put(bytes.fromhex(key), entry)
        return entry

    def _entry(self, session: Session, since: float, fresh_until: float) -> CachedSession:
        last_written_use = session.idle_until - self.config.idle_timeout_seconds
        renew_at = last_written_use + RENEWED_FRACTION * self.config.idle_timeout_seconds
        return CachedSession(
            session,
            session.identity(),
            since,
            fresh_until,
            min(fresh_until, session.over_at),
            renew_at if session.idle_until < session.ends_at else inf,
            self.revocations.epoch,
        )

    async def _later(self, key: str, found: Awaitable[Session | None], now: float) -> Verified:
        try:
            gaps = self._gaps
            outcome = self._outcome(key, await found, now)
        except StoreUnavailableError as error:
            return _unavailable(error)
        if gaps != self._gaps:
            self._cache.forget(bytes.fromhex(key))
        return outcome

    def _outcome(self, key: str, session: Session | None, now: float) -> Verified:
        digest = bytes.fromhex(key)
        refusal = self._remembered_refusal(digest, now)
        if refusal is not None:
            return refusal
        if session is None:
            return self._refuse(digest, _UNKNOWN, now)
        if session is ENDED:
            # A pending renewal is from before the end.
            self._renewals.pop(key, None)
            return self._refuse(digest, _EXPIRED, now)
        pending = self._renewals.get(key)
        if pending is not None:
            session = pending
        if now >= session.over_at:
            return self._refuse(digest, _EXPIRED, now)
        known = self._cache.peek(digest)
        if known is not None and known.session is session and known.epoch == self.revocations.epoch:
            known.since, known.fresh_until = now, now + self._fresh_seconds
            known.until = min(known.fresh_until, session.over_at)
            return (known if now < known.renew_at else self._renewed(key, known, now)).identity
        entry = self._entry(session, now, now + self._fresh_seconds)
        outcome = self.revocations.check(entry.identity, session.created_at)
        if isinstance(outcome, Refusal):
            return outcome
        self._cache.put(digest, entry)
        if now >= entry.renew_at:
            entry = self._renewed(key, entry, now)
        return entry.identity

    async def _flush_regularly(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()


def _unavailable(error: StoreUnavailableError) -> Refusal:
    return Refusal(RefusalReason.SESSION_STORE_UNAVAILABLE, str(error), CredentialKind.SESSION)
