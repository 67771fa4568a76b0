"""Verifies opaque access tokens by asking an authorization server (RFC 7662).

The cache is keyed by the SHA-256 of the token, within one configuration: another URL or client starts
with an empty cache (GHSA-4mq7-pvjg-xp2r). Scopes, audience and rules are checked in every request and
are not part of the key (GHSA-qvp4-rpmr-xwrr).
"""

import asyncio
import hashlib
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote_plus

import orjson

from authz.credentials.core.http import FetchError, HttpStatusError
from authz.credentials.core.metrics import IntrospectionMetrics
from authz.credentials.core.types import looks_like
from authz.credentials.core.verifier import ThrottleCheck, Verified, no_throttle
from authz.credentials.introspection.client import Post
from authz.credentials.introspection.config import IntrospectionConfig
from authz.credentials.jwt.claims import (
    audiences,
    check_claims,
    check_time_now,
    kind_of,
    numeric_date,
    roles,
    scopes,
    subject_of,
)
from authz.credentials.jwt.refusals import RefusedError, refuse_token
from authz.credentials.revocation.revocation_list import RevocationCheck, issued_at
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason
from common.circuit_breaker import CircuitBreaker
from common.lru_cache import LruCache
from common.tasks import cancel_and_wait

_KIND: Final = CredentialKind.INTROSPECTION
_NO_TOKEN: Final = Refusal(RefusalReason.TOKEN_MALFORMED, "not made of the characters of a token", _KIND)
_INACTIVE: Final = Refusal(RefusalReason.TOKEN_INACTIVE, "the server says it is not active", _KIND)

_ABOUT_THE_TOKEN: Final = frozenset({400, 413, 414, 431})
"""Statuses by which a server rejects one token. Counted as an outage, they would let anyone who sends five
malformed tokens lock out all others."""

_CODE: Final = re.compile(r"(?=.{1,40}\Z)[a-z]+(?:_[a-z]+)*", re.ASCII)

_TOKEN_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=")
"""The characters of a b64token (RFC 6750 section 2.1)."""


@dataclass(slots=True)
class CachedIntrospection:
    """An active token, cached from `since` to `until`; void if the clock is set back before `since`."""

    identity: Identity
    since: float
    until: float
    epoch: int


class Introspector:
    """Verifies tokens at the introspection endpoint and caches the results, for one configuration."""

    def __init__(
        self,
        config: IntrospectionConfig,
        secret: str,
        post: Post,
        *,
        lookup_timeout_seconds: float,
        breaker: CircuitBreaker,
        wall_clock: Callable[[], float],
        revocations: RevocationCheck,
        metrics: IntrospectionMetrics,
    ) -> None:
        self.config = config
        self.secret = secret
        self.revocations = revocations
        self._post = post
        self._wait_seconds = lookup_timeout_seconds
        self._breaker = breaker
        self._wall_clock = wall_clock
        self._metrics = metrics
        self._audiences = None if config.audiences == "any" else frozenset(config.audiences)
        too_long = f"longer than introspection.max_bytes, which is {config.max_bytes}"
        self._too_long = Refusal(RefusalReason.TOKEN_TOO_LONG, too_long, _KIND)
        self._active: LruCache[bytes, CachedIntrospection] = LruCache(config.cache_max_entries)
        self._inactive: LruCache[bytes, tuple[Refusal, float, float]] = LruCache(
            config.negative_cache_max_entries
        )
        self._flights: dict[bytes, asyncio.Task[Verified]] = {}

    def __len__(self) -> int:
        return len(self._active)

    def cached(self, token: str, now: float) -> Verified | None:
        """Return the cached outcome; None if the server has to be asked."""
        if len(token) > self.config.max_bytes:
            return self._too_long
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        active = self._active.get(digest)
        if active is not None and active.since <= now < active.until:
            if active.epoch != self.revocations.epoch:
                epoch = self.revocations.epoch
                outcome = self.revocations.check(active.identity, issued_at(active.identity))
                if isinstance(outcome, Refusal):
                    return outcome
                active.epoch = epoch
            return self._meant_for_us(active.identity)
        inactive = self._inactive.get(digest)
        if inactive is not None and inactive[1] <= now < inactive[2]:
            return inactive[0]
        return None

    def verify(
        self, token: str, _now: float, _throttle_check: ThrottleCheck = no_throttle
    ) -> Verified | Awaitable[Verified]:
        """Ask the server about the token. Concurrent requests with one token share a single question."""
        if not token or not _TOKEN_CHARACTERS.issuperset(token):
            return _NO_TOKEN
        digest = hashlib.sha256(token.encode("ascii")).digest()
        flight = self._flights.get(digest)
        if flight is None:
            if len(self._flights) >= self.config.max_concurrent_requests:
                return self._unavailable("too many requests to the server are in flight")
            if not self._breaker.allows():
                return self._unavailable("the server did not answer; it is asked again soon")
            flight = asyncio.create_task(self._ask(token, digest), name="introspection")
            self._flights[digest] = flight
            flight.add_done_callback(lambda _: self._flights.pop(digest, None))
        return self._answer_of(flight)

    def unverified_subject(self, _token: str) -> str:
        """Return an empty text: an opaque token does not name its subject."""
        return ""

    async def close(self) -> None:
        """Cancel the requests in flight."""
        await cancel_and_wait(*self._flights.values())

    async def _answer_of(self, flight: "asyncio.Task[Verified]") -> Verified:
        try:
            async with asyncio.timeout(self._wait_seconds):
                # Others may wait for the same answer, so a caller that gives up must not cancel it.
                return await asyncio.shield(flight)
        except TimeoutError:
            return self._unavailable("the answer takes longer than a request may wait")

    async def _ask(self, token: str, digest: bytes) -> Verified:
        form, headers = self._question(token)
        try:
            content = _read(await self._post(form, headers))
        except FetchError as error:
            if isinstance(error, HttpStatusError) and error.status in _ABOUT_THE_TOKEN:
                return self._rejected(digest, error.status)
            self._breaker.failed()
            self._metrics.failed += 1
            return self._unavailable(_describe(error))
        self._breaker.succeeded()
        self._metrics.answered += 1
        now = self._wall_clock()
        try:
            return self._accepted(digest, self._identity(content, now), now)
        except RefusedError as error:
            refusal = replace(error.refusal, kind=_KIND)
            self._inactive.put(digest, (refusal, now, now + self.config.negative_cache_ttl_seconds))
            return refusal

    def _rejected(self, digest: bytes, status: int) -> Refusal:
        """Refuse a token that the server rejects. The server is up, so other tokens are not affected."""
        self._breaker.succeeded()
        self._metrics.rejected += 1
        now = self._wall_clock()
        detail = f"the server rejects it with HTTP status {status}"
        refusal = Refusal(RefusalReason.TOKEN_MALFORMED, detail, _KIND)
        self._inactive.put(digest, (refusal, now, now + self.config.negative_cache_ttl_seconds))
        return refusal

    def _question(self, token: str) -> tuple[dict[str, str], dict[str, str]]:
        form = {"token": token, "token_type_hint": "access_token"}
        if self.config.client_auth == "post":
            return {**form, "client_id": self.config.client_id, "client_secret": self.secret}, {}
        # RFC 6749 section 2.3.1: both are form-encoded before they are joined.
        pair = f"{quote_plus(self.config.client_id)}:{quote_plus(self.secret)}"
        return form, {"authorization": f"Basic {b64encode(pair.encode()).decode()}"}

    def _identity(self, content: Mapping[str, Any], now: float) -> Identity:
        config = self.config
        if content.get("active") is not True:
            raise RefusedError(_INACTIVE)
        kind = content.get("token_type", "Bearer")
        if not isinstance(kind, str) or kind.lower() not in {"bearer", "access_token"}:
            refuse_token(RefusalReason.TOKEN_TYPE, f"token_type {str(kind)[:40]!r} is not a bearer token")
        issuer = content.get("iss", config.issuer)
        if not isinstance(issuer, str) or (config.issuer and issuer != config.issuer):
            refuse_token(RefusalReason.ISSUER_UNKNOWN, f"its iss is {str(issuer)[:100]!r}")
        expires_at, not_before, issued = (numeric_date(content, name) for name in ("exp", "nbf", "iat"))
        check_time_now(expires_at, not_before, issued, config.leeway_seconds, now)
        check_claims(content, config.required_claims, config.forbidden_claims)
        return Identity(
            kind=_KIND,
            subject=subject_of(content, config.subject_claim),
            issuer=issuer,
            scopes=scopes(content, config.scope_claims),
            roles=roles(content, config.roles_claim),
            audiences=audiences(content.get("aud")),
            claims=content,
            expires_at=expires_at,
        )

    def _accepted(self, digest: bytes, identity: Identity, now: float) -> Verified:
        epoch = self.revocations.epoch
        outcome = self.revocations.check(identity, issued_at(identity))
        if isinstance(outcome, Refusal):
            return outcome
        until = now + self.config.cache_ttl_seconds
        if identity.expires_at is not None:
            until = min(until, identity.expires_at)
        if until > now:
            self._active.put(digest, CachedIntrospection(identity, now, until, epoch))
        return self._meant_for_us(identity)

    def _meant_for_us(self, identity: Identity) -> Verified:
        if self._audiences is None or not self._audiences.isdisjoint(identity.audiences):
            return identity
        detail = f"aud {sorted(identity.audiences)} has none of {sorted(self._audiences)}"
        return Refusal(RefusalReason.AUDIENCE_MISMATCH, detail, _KIND)

    def _unavailable(self, problem: str) -> Refusal:
        return Refusal(RefusalReason.INTROSPECTION_UNAVAILABLE, problem, _KIND)


def _describe(error: FetchError) -> str:
    if isinstance(error, HttpStatusError) and error.status in {401, 403}:
        return f"{error}: the server does not accept client_id and the secret by client_auth"
    return str(error)


def _read(body: bytes) -> Mapping[str, Any]:
    """Parse an introspection response (RFC 7662 section 2.2). Raises FetchError, which says what is wrong."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise FetchError(f"the answer is {looks_like(body)}, not JSON") from None
    if not isinstance(content, dict):
        raise FetchError("the answer is JSON, but not an object")
    active = content.get("active")
    if not isinstance(active, bool):
        found = "no `active`" if active is None else f"{kind_of(active)} as `active`"
        error = content.get("error")
        # An error code names the fault (RFC 6749 section 5.2); any other text may repeat the token.
        also = f", and the error {error!r}" if isinstance(error, str) and _CODE.fullmatch(error) else ""
        raise FetchError(f"the answer has {found}, not true or false{also}")
    return content
