"""Sessions in service: created, verified from memory or from the store, kept alive by use, revoked."""

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
from authz.credentials.session.memory_store import MemoryStore
from authz.credentials.session.model import (
    ENDED,
    MAX_RECORD_BYTES,
    Session,
    SessionStore,
    SessionTooLargeError,
    key_of,
)
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason
from common.lru_cache import LruCache
from common.tasks import cancel_and_wait

TOKEN_BYTES: Final = 32
"""256 random bits (OWASP asks for 64 at least)."""

NEW_TOKEN_ATTEMPTS: Final = 8
"""One token of 64 begins with a hyphen, which a command line takes for an option."""

RENEWED_FRACTION: Final = 0.1
"""A use is written once a tenth of `idle_timeout_seconds` has passed since the last one written: a session in
steady use costs Redis ten writes in that time, and may end for idleness up to a tenth early."""

FLUSH_SECONDS: Final = 0.5
"""How long renewals gather before they are written in one go."""

MAX_RENEWALS: Final = 10_000
"""Waiting to be written, about 1 KB each. Beyond, a renewal is left to the next use of its session."""

REFUSED_SECONDS: Final = 10.0
"""How long a token that is over, or that the store does not know, is not asked about again. Nobody guesses
one that will be."""

MAX_REFUSED: Final = 10_000
"""Such tokens remembered, apart from good ones, which they never push out."""

MAX_REVOKED: Final = 100_000
"""Revoked sessions remembered, about 0.2 KB each: none comes back because Redis lost its deletion in a
failover, or because an answer was on its way while the session was revoked."""

RESTORED_AT_MOST: Final = 1_000
"""Of these, the latest are looked for when the connection is back. Older ones were not lost by a failover,
and a thousand sidecars ask Redis at the same moment."""

_SHAPE = re.compile(r"[A-Za-z0-9_-]{22,128}")

_UNKNOWN: Final = Refusal(RefusalReason.SESSION_UNKNOWN, "no such session", CredentialKind.SESSION)
_EXPIRED: Final = Refusal(RefusalReason.SESSION_EXPIRED, "the session is over", CredentialKind.SESSION)
_REVOKED: Final = Refusal(RefusalReason.REVOKED, "the session was revoked", CredentialKind.SESSION)


@dataclass(slots=True)
class CachedSession:
    """A session known here. Good from `since` to `until`: a clock set back voids what came after it."""

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
        self._known: LruCache[bytes, CachedSession] = LruCache(config.cache_max_entries)
        self._refused: LruCache[bytes, tuple[Refusal, float]] = LruCache(MAX_REFUSED)
        self._revoked: LruCache[bytes, float] = LruCache(MAX_REVOKED)
        self._renewals: dict[str, Session] = {}
        self._fresh_seconds = inf if isinstance(store, MemoryStore) else config.cache_ttl_seconds
        self._gaps = 0
        """How often messages may have been missed: an answer that was asked for before is not remembered."""
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._known)

    def known(self, token: str, now: float) -> Verified | None:
        """What is known of `token` without the store."""
        try:
            digest = hashlib.sha256(token.encode("ascii")).digest()
        except UnicodeEncodeError:
            return _UNKNOWN
        entry = self._known.get(digest)
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
        self, token: str, now: float, _stopped: ThrottleCheck = no_throttle
    ) -> Verified | Awaitable[Verified]:
        """The identity behind `token`, or why there is none; an awaitable where the store is elsewhere."""
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
        """Nothing: a session token names nobody."""
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
        """The token of a new session.

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
        """End the session of `token`; whether there was one. Raises StoreUnavailableError."""
        return await self.revoke_keys([key_of(token)]) > 0

    async def revoke_keys(self, keys: Sequence[str]) -> int:
        """End the sessions of these keys (the hashes of their tokens); how many there were."""
        self.forget(keys)
        return await self.store.revoke(keys)

    async def revoke_subject(self, subject: str) -> int:
        """End every session of `subject`; how many there were. Raises StoreUnavailableError."""
        return await self.revoke_keys(await self.store.keys(subject))

    async def revoke_before(self, created_before: float) -> int:
        """End every session created before; how many there were. Raises StoreUnavailableError."""
        sessions = await self.store.read(await self.store.keys(None))
        return await self.revoke_keys([key for key, kept in sessions if kept.created_at < created_before])

    async def find(self, subject: str | None, limit: int) -> list[tuple[str, Session]]:
        """Sessions and their keys, of `subject` or of all; `limit` at most. Raises StoreUnavailableError."""
        now = self._wall_clock()
        found: list[tuple[str, Session]] = []
        keys = await self.store.keys(subject)
        for start in range(0, len(keys), limit):
            read = await self.store.read(keys[start : start + limit])
            found += [(key, kept) for key, kept in read if kept.over_at > now]
            if len(found) >= limit:
                break
        return found[:limit]

    def hear(self, message: bytes) -> None:
        """A message of another sidecar: the keys of revoked sessions. Raises ValueError."""
        keys = orjson.loads(message)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("no list of session keys")
        self.forget(keys)

    def forget(self, keys: Sequence[str]) -> None:
        """Refuse these sessions from now on, whatever the store may say."""
        until = self._wall_clock() + self.config.absolute_timeout_seconds
        for key in keys:
            digest = bytes.fromhex(key)
            self._known.forget(digest)
            self._renewals.pop(key, None)
            self._revoked.put(digest, until)

    def inherit(self, other: "Sessions") -> None:
        """Go on with what `other` knows to be revoked, and with the uses that it has not written yet."""
        self._revoked = other._revoked  # noqa: SLF001 - the same sessions in another configuration
        if isinstance(self.store, MemoryStore) == isinstance(other.store, MemoryStore):
            self._renewals = other._renewals  # noqa: SLF001 - as above

    def forget_all(self) -> None:
        """Ask the store anew about every session: messages may have been missed."""
        if not isinstance(self.store, MemoryStore):
            self._known.clear()
            self._gaps += 1

    async def restore(self) -> int:
        """End once more what was revoked, where the store lost that; how many there were.

        Who starts later knows only what the store does. Raises StoreUnavailableError.
        """
        keys = [digest.hex() for digest in self._revoked.latest(RESTORED_AT_MOST)]
        back = [key for key, _ in await self.store.read(keys)]
        return await self.revoke_keys(back) if back else 0

    def start(self) -> None:
        """Begin to write renewals, on the running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._flush_for_ever(), name="session renewals")

    async def stop(self) -> None:
        """Write the renewals that wait, and no more."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait(task)
        await self.flush()

    async def flush(self) -> None:
        """Write the renewals that wait. What cannot be written is left to the next use of its session."""
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
        # No answer of the store makes these good again, but a clock set back must not make them last longer.
        if now < (self._revoked.peek(digest) or 0.0):
            return _REVOKED
        refusal, until = self._refused.peek(digest) or (None, 0.0)
        return refusal if now < until <= now + REFUSED_SECONDS else None

    def _refuse(self, digest: bytes, refusal: Refusal, now: float) -> Refusal:
        self._refused.put(digest, (refusal, now + REFUSED_SECONDS))
        return refusal

    def _renewed(self, key: str, entry: CachedSession, now: float) -> CachedSession:
        """The entry after this use, which is written later."""
        if len(self._renewals) >= MAX_RENEWALS and key not in self._renewals:
            self._metrics.renewals_lost += 1
            return entry
        session = entry.session.used(now, self.config.idle_timeout_seconds)
        self._renewals[key] = session
        # `since` and `fresh_until` stay: that it is still in the store was not learned anew.
        entry = self._entry(session, entry.since, entry.fresh_until)
        self._known.put(bytes.fromhex(key), entry)
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
            self._known.forget(bytes.fromhex(key))
        return outcome

    def _outcome(self, key: str, session: Session | None, now: float) -> Verified:
        digest = bytes.fromhex(key)
        refusal = self._remembered_refusal(digest, now)
        if refusal is not None:
            return refusal
        if session is None:
            return self._refuse(digest, _UNKNOWN, now)
        if session is ENDED:
            # Not what waits to be written: it was used before it ended.
            self._renewals.pop(key, None)
            return self._refuse(digest, _EXPIRED, now)
        pending = self._renewals.get(key)
        if pending is not None:
            session = pending
        if now >= session.over_at:
            return self._refuse(digest, _EXPIRED, now)
        known = self._known.peek(digest)
        if known is not None and known.session is session and known.epoch == self.revocations.epoch:
            known.since, known.fresh_until = now, now + self._fresh_seconds
            known.until = min(known.fresh_until, session.over_at)
            return (known if now < known.renew_at else self._renewed(key, known, now)).identity
        entry = self._entry(session, now, now + self._fresh_seconds)
        outcome = self.revocations.check(entry.identity, session.created_at)
        if isinstance(outcome, Refusal):
            return outcome
        self._known.put(digest, entry)
        if now >= entry.renew_at:
            entry = self._renewed(key, entry, now)
        return entry.identity

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()


def _unavailable(error: StoreUnavailableError) -> Refusal:
    return Refusal(RefusalReason.SESSION_STORE_UNAVAILABLE, str(error), CredentialKind.SESSION)
