"""Verifies bearer tokens and caches the outcome by their hash."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from authz.credentials.core.metrics import CredentialMetrics
from authz.credentials.core.verifier import ThrottleCheck, Verified, no_throttle
from authz.credentials.jwt.config import CacheConfig
from authz.credentials.jwt.cpu_budget import CpuBudget, OverloadedError
from authz.credentials.jwt.key_set import Key
from authz.credentials.jwt.refusals import RefusedError
from authz.credentials.jwt.token import Issuer, JwtVerifier, KeyAwaited, Proven, check_audience, read
from authz.credentials.revocation.revocation_list import RevocationCheck, issued_at
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason
from common.lru_cache import LruCache

LASTING: Final = frozenset(
    {
        RefusalReason.TOKEN_MALFORMED,
        RefusalReason.TOKEN_EXPIRED,
        RefusalReason.TOKEN_SIGNATURE,
        RefusalReason.TOKEN_ALGORITHM,
        RefusalReason.TOKEN_TYPE,
        RefusalReason.TOKEN_LIFETIME,
        RefusalReason.CLAIM_MISSING,
        RefusalReason.CLAIM_FORBIDDEN,
        RefusalReason.SUBJECT_MALFORMED,
        RefusalReason.REVOKED,
    }
)
"""Refusals that cannot change on retry, and so are cached. Missing keys may still arrive."""

NOT_YET_SECONDS: Final = 1.0
"""How long the refusal of a token with a future nbf is cached."""

_OVERLOADED: Final = Refusal(
    RefusalReason.OVERLOADED, "more new tokens than can be verified", CredentialKind.JWT
)
_KEY_LATE: Final = Refusal(
    RefusalReason.KEYS_UNAVAILABLE, "the fetch takes longer than a request may wait", CredentialKind.JWT
)
_NOT_ASCII: Final = Refusal(RefusalReason.TOKEN_MALFORMED, "not ASCII", CredentialKind.JWT)


@dataclass(slots=True)
class CachedIdentity:
    """A verified token, cached from `since` to `until`; void if the clock is set back before `since`."""

    identity: Identity
    issuer: Issuer
    key: Key
    since: float
    until: float
    epoch: int
    """The epoch of the revocation list that it was checked against."""


@dataclass(frozen=True, slots=True)
class CachedRefusal:
    """A refused token, cached from `since` to `until`."""

    refusal: Refusal
    since: float
    until: float
    key: Key | None
    """The key with which it failed, whose removal voids the entry; None if no key makes the token valid."""


class Tokens:
    """Verifies tokens and caches the outcomes.

    The cache is keyed by the SHA-256 of the token, never by the token (Oathkeeper kept it raw). An entry is
    valid while its issuer is configured unchanged, its key is still in the set and nothing new is revoked
    (GHSA-4mq7-pvjg-xp2r, GHSA-qvp4-rpmr-xwrr, lua-resty-openidc#399: cache keys that lacked a part), and
    never past `exp`. The audience is checked in every request.
    """

    def __init__(
        self,
        issuers: Mapping[str, Issuer],
        *,
        max_bytes: int,
        cache: CacheConfig,
        verified: LruCache[bytes, CachedIdentity],
        revocations: RevocationCheck,
        cpu_budget: "CpuBudget[Proven | KeyAwaited]",
        lookup_timeout_seconds: float,
        metrics: CredentialMetrics,
    ) -> None:
        self.verified = verified
        self._verifier = JwtVerifier(issuers)
        self._max_bytes = max_bytes
        too_long = f"longer than tokens.max_bytes, which is {max_bytes}"
        self._too_long = Refusal(RefusalReason.TOKEN_TOO_LONG, too_long, CredentialKind.JWT)
        self._cache = cache
        self._failed: LruCache[bytes, CachedRefusal] = LruCache(cache.negative_max_entries)
        self._revocations = revocations
        self.cpu_budget = cpu_budget
        self._wait_seconds = lookup_timeout_seconds
        self._metrics = metrics

    def cached(self, text: str, now: float) -> Verified | None:
        """Return the cached outcome; None if the token has to be verified."""
        if len(text) > self._max_bytes:
            return self._too_long
        try:
            digest = hashlib.sha256(text.encode("ascii")).digest()
        except UnicodeEncodeError:
            return _NOT_ASCII
        known = self.verified.get(digest)
        if (
            known is not None
            and known.since <= now < known.until
            and known.key.trusted
            and known.issuer.trusted
        ):
            self._metrics.cache_hits += 1
            if known.epoch != self._revocations.epoch:
                return self._checked(known)
            return check_audience(known.identity, known.issuer)
        self._metrics.cache_misses += 1
        failed = self._failed.get(digest)
        if (
            failed is not None
            and failed.since <= now < failed.until
            and (failed.key is None or failed.key.trusted)
        ):
            return failed.refusal
        return None

    def verify(
        self, text: str, now: float, throttle_check: ThrottleCheck = no_throttle
    ) -> Verified | Awaitable[Verified]:
        """Return the identity or the refusal.

        Returns an awaitable if a key must be fetched, or if this turn of the loop has used its time. Then
        `throttle_check` runs first, so that of ten thousand queued bad tokens only the first hundred are
        verified.
        """
        digest = hashlib.sha256(text.encode("ascii")).digest()
        try:
            proven = self.cpu_budget.do(_unless(throttle_check, lambda: self._verifier.verify(text, now)))
        except RefusedError as error:
            return self._refused(digest, error.refusal, now, error.key) if error.kept else error.refusal
        except OverloadedError:
            return _OVERLOADED
        if isinstance(proven, Proven):
            return self._accepted(digest, proven, now)
        return self._later(digest, proven, now, throttle_check)

    def unverified_subject(self, text: str) -> str:
        """Return the unverified `iss` and `sub` of the token."""
        try:
            token = read(text)
        except RefusedError:
            return ""
        subject = token.claims.get("sub")
        return f"{token.issuer} {subject}" if isinstance(subject, str) else ""

    async def _later(
        self,
        digest: bytes,
        step: "KeyAwaited | asyncio.Future[Proven | KeyAwaited] | Proven",
        now: float,
        throttle_check: ThrottleCheck,
    ) -> Verified:
        try:
            # One timeout for the queue, the fetch of the key, and the queue again.
            async with asyncio.timeout(self._wait_seconds):
                while not isinstance(step, Proven):
                    if isinstance(step, KeyAwaited):
                        awaited, key = step, await step.key
                        # The lambda runs before the names change: its result is awaited in this loop.
                        step = self.cpu_budget.do(_unless(throttle_check, lambda: awaited.prove(key, now)))  # noqa: B023
                    else:
                        step = await step
            return self._accepted(digest, step, now)
        except RefusedError as error:
            return self._refused(digest, error.refusal, now, error.key) if error.kept else error.refusal
        except OverloadedError:
            return _OVERLOADED
        except TimeoutError:
            if not isinstance(step, KeyAwaited):
                return _OVERLOADED
            return _KEY_LATE if step.failed is None else step.failed.refusal

    def _accepted(self, digest: bytes, proven: Proven, now: float) -> Verified:
        identity = proven.identity
        epoch = self._revocations.epoch
        outcome = self._revocations.check(identity, issued_at(identity))
        if isinstance(outcome, Refusal):
            return self._refused(digest, outcome, now)
        until = now + self._cache.ttl_seconds
        if identity.expires_at is not None:
            until = min(until, identity.expires_at)
        if until > now:
            entry = CachedIdentity(identity, proven.issuer, proven.key, now, until, epoch)
            self.verified.put(digest, entry)
        return check_audience(identity, proven.issuer)

    def _checked(self, known: CachedIdentity) -> Verified:
        """Check a cached token against the present revocations."""
        epoch = self._revocations.epoch
        outcome = self._revocations.check(known.identity, issued_at(known.identity))
        if isinstance(outcome, Refusal):
            return outcome
        known.epoch = epoch
        return check_audience(known.identity, known.issuer)

    def _refused(self, digest: bytes, refusal: Refusal, now: float, key: Key | None = None) -> Refusal:
        seconds = self._cache.negative_ttl_seconds
        if refusal.reason is RefusalReason.TOKEN_NOT_YET_VALID:
            seconds = min(seconds, NOT_YET_SECONDS)
        elif refusal.reason not in LASTING:
            return refusal
        self._failed.put(digest, CachedRefusal(refusal, now, now + seconds, key))
        return refusal


def _unless(
    throttle_check: ThrottleCheck, verify: Callable[[], Proven | KeyAwaited]
) -> Callable[[], Proven | KeyAwaited]:
    """Return a step that verifies unless the caller is throttled by the time it runs."""

    def step() -> Proven | KeyAwaited:
        refusal = throttle_check()
        if refusal is not None:
            raise RefusedError(refusal)
        return verify()

    return step
