"""Limits failed credential checks per client address and per claimed subject."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from typing import Final

from authz.credentials.throttle.config import ThrottleConfig
from authz.request.identity import RefusalReason
from common.buckets import SECOND_US, State, TokenBucket
from common.lru_cache import LruCache

BAD: Final = frozenset(
    {
        RefusalReason.TOKEN_MALFORMED,
        RefusalReason.TOKEN_SIGNATURE,
        RefusalReason.TOKEN_ALGORITHM,
        RefusalReason.TOKEN_TYPE,
        RefusalReason.TOKEN_INACTIVE,
        RefusalReason.ISSUER_UNKNOWN,
        RefusalReason.KEY_UNKNOWN,
        RefusalReason.SESSION_UNKNOWN,
        RefusalReason.API_KEY_UNKNOWN,
    }
)
"""Refusals of credentials that were never issued. The others concern real credentials (expired, revoked,
for another audience) or say nothing about the credential (an outage)."""

MAX_SUBJECT_CHARACTERS: Final = 256
"""The part of a subject that is counted; longer subjects with the same beginning share a count."""


class Throttle:
    """Counts failures by client address and by claimed subject."""

    def __init__(self, config: ThrottleConfig, monotonic_clock: Callable[[], float]) -> None:
        self.config = config
        self._clock = monotonic_clock
        self._addresses = _Counts(config.address_failures, config)
        self._subjects = _Counts(config.subject_failures, config)

    @property
    def counts_subjects(self) -> bool:
        """Whether any subject has failures, so that a look-up is needed."""
        return len(self._subjects) > 0

    def stops_address(self, address: str) -> int:
        """Return for how many seconds credentials from `address` are refused unchecked; 0: not at all."""
        return self._addresses.spent(network_of(address), self._now_us()) if len(self._addresses) else 0

    def stops_subject(self, subject: str) -> int:
        """Return for how many seconds credentials of `subject` are refused unchecked; 0: not at all."""
        return self._subjects.spent(subject[:MAX_SUBJECT_CHARACTERS], self._now_us())

    def failed(self, address: str, subject: str) -> None:
        """Count a failed check. An empty address or subject is not counted."""
        now_us = self._now_us()
        self._addresses.count(network_of(address), now_us)
        self._subjects.count(subject[:MAX_SUBJECT_CHARACTERS], now_us)

    def __len__(self) -> int:
        return len(self._addresses) + len(self._subjects)

    def _now_us(self) -> int:
        return int(self._clock() * SECOND_US)


class _Counts:
    """Token buckets by key, which failures drain."""

    def __init__(self, failures: int | None, config: ThrottleConfig) -> None:
        period_us = round(config.per_seconds * SECOND_US)
        self._bucket = TokenBucket(failures, failures, period_us) if failures else None
        # Concurrent failures are all charged, so the bucket may go into debt.
        self._charged = replace(self._bucket, charge_rejected=True) if self._bucket is not None else None
        self._states: LruCache[str, State] = LruCache(config.cache_max_entries)

    def spent(self, key: str, now_us: int) -> int:
        state = self._states.peek(key)
        if state is None or self._bucket is None:
            return 0
        taken, _ = self._bucket.take(state, 1, now_us)
        if self._bucket.idle_at_us(state) <= now_us:
            self._states.forget(key)
        return taken.retry_after_seconds

    def count(self, key: str, now_us: int) -> None:
        if not key or self._charged is None:
            return
        _, state = self._charged.take(self._states.peek(key), 1, now_us)
        if state is not None:
            self._states.put(key, state)

    def __len__(self) -> int:
        return len(self._states)


def network_of(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or an IPv6 /64, which one customer usually gets."""
    if ":" not in address:
        return address
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))
