"""What the credentials count. Plain numbers, read when Prometheus asks.

`prometheus_client`'s own counters take a lock and half a microsecond each; all of this is counted
on the loop's one thread, and a request has 3 us for its credential.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from authz.request.identity import CredentialKind, Refusal, RefusalReason

MAX_GONE_ISSUERS: Final = 100
"""Issuers whose keys are fetched no more, and whose counts go on should they come back."""


@dataclass(slots=True)
class KeySetMetrics:
    """Of one issuer's key set."""

    fetches: dict[str, int] = field(default_factory=dict)
    keys: int = 0
    fetched_at: float | None = None
    """On the monotonic clock."""

    def fetched(self, outcome: str, *, keys: int | None = None, at: float | None = None) -> None:
        """Count a fetch; a good one brings the number of keys and its time."""
        self.fetches[outcome] = self.fetches.get(outcome, 0) + 1
        if keys is not None:
            self.keys, self.fetched_at = keys, at


@dataclass(slots=True)
class SessionMetrics:
    """Of sessions."""

    renewals: int = 0
    """Uses written to the store."""
    renewals_lost: int = 0
    """Uses that were not: too many, or the store was away."""


class SubscriberState(Protocol):
    """What is shown of the feed of revocations."""

    @property
    def connected(self) -> bool:
        """Whether it stands."""

    @property
    def interruptions(self) -> int:
        """How often it was lost."""


class CircuitState(Protocol):
    """What is shown of a circuit breaker."""

    @property
    def opened(self) -> int:
        """How often it opened."""


@dataclass(slots=True)
class IntrospectionMetrics:
    """Of questions to the introspection endpoint."""

    answered: int = 0
    rejected: int = 0
    failed: int = 0


class CredentialMetrics(Collector):
    """Of all credentials: a Prometheus collector, made once and kept over reloads."""

    def __init__(self, monotonic_clock: Callable[[], float]) -> None:
        self._monotonic_clock = monotonic_clock
        # Where anyone is allowed nobody looks for a credential, so there is none to count.
        self.accepted: dict[CredentialKind, int] = {
            kind: 0 for kind in CredentialKind if kind is not CredentialKind.ANONYMOUS
        }
        self.refused: dict[tuple[CredentialKind | None, RefusalReason], int] = {}
        self.cache_hits = 0
        self.cache_misses = 0
        self.sessions = SessionMetrics()
        self.introspection = IntrospectionMetrics()
        self._remembered: Mapping[str, Sized] = {}
        self._feed: SubscriberState | None = None
        self._breaker: CircuitState | None = None
        self._interruptions_before = 0
        """The counts of replaced feeds: a counter must not fall at a reload."""
        self._key_sets: dict[str, KeySetMetrics] = {}
        self._issuers: Container[str] = ()

    def count_refusal(self, refusal: Refusal) -> None:
        """Count a credential that was not accepted."""
        label = (refusal.kind, refusal.reason)
        self.refused[label] = self.refused.get(label, 0) + 1

    def key_set(self, issuer: str) -> KeySetMetrics:
        """The numbers of the key set of `issuer`, which go on over reloads."""
        return self._key_sets.setdefault(issuer, KeySetMetrics())

    def serve(
        self,
        remembered: Mapping[str, Sized],
        issuers: Container[str],
        feed: "SubscriberState | None",
        breaker: "CircuitState | None",
    ) -> None:
        """Measure these from now on, and show no other issuer. `issuers`: those whose keys are fetched."""
        self._remembered = remembered
        if self._feed is not None and self._feed is not feed:
            self._interruptions_before += self._feed.interruptions
        self._feed = feed
        self._breaker = breaker
        self._issuers = issuers
        gone = [issuer for issuer in self._key_sets if issuer not in issuers]
        for issuer in gone:
            # Its fetches are counted on should it come back; its keys are fetched again then.
            self._key_sets[issuer].keys, self._key_sets[issuer].fetched_at = 0, None
        for issuer in gone[: max(0, len(gone) - MAX_GONE_ISSUERS)]:
            del self._key_sets[issuer]

    def collect(self) -> Iterable[Metric]:
        """The metrics as Prometheus reads them."""
        yield from self._of_credentials()
        yield from self._of_key_sets()
        yield from self._of_stores()

    def _of_credentials(self) -> Iterable[Metric]:
        accepted = CounterMetricFamily(
            "authz_credentials_accepted", "Credentials verified.", labels=["credential"]
        )
        for kind, times in self.accepted.items():
            accepted.add_metric([kind], times)
        yield accepted
        refused = CounterMetricFamily(
            "authz_credentials_refused", "Credentials not accepted.", labels=["credential", "reason"]
        )
        for (refused_kind, reason), times in self.refused.items():
            refused.add_metric([refused_kind or "none", reason], times)
        yield refused
        lookups = CounterMetricFamily(
            "authz_identity_cache_lookups", "Look-ups of verified tokens.", labels=["result"]
        )
        lookups.add_metric(["hit"], self.cache_hits)
        lookups.add_metric(["miss"], self.cache_misses)
        yield lookups
        remembered = GaugeMetricFamily("authz_cache_entries", "Entries in each cache.", labels=["cache"])
        for what, entries in self._remembered.items():
            remembered.add_metric([what], len(entries))
        yield remembered

    def _of_stores(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            "authz_session_renewals", "Uses of sessions written to the store.", value=self.sessions.renewals
        )
        yield CounterMetricFamily(
            "authz_session_renewals_lost",
            "Uses of sessions that could not be written.",
            value=self.sessions.renewals_lost,
        )
        questions = CounterMetricFamily(
            "authz_introspection_requests", "Questions about opaque tokens.", labels=["outcome"]
        )
        questions.add_metric(["ok"], self.introspection.answered)
        questions.add_metric(["rejected"], self.introspection.rejected)
        questions.add_metric(["failed"], self.introspection.failed)
        yield questions
        if self._feed is not None:
            yield GaugeMetricFamily(
                "authz_revocation_feed_connected",
                "1 while revocations of other sidecars arrive at once.",
                value=int(self._feed.connected),
            )
            yield CounterMetricFamily(
                "authz_revocation_feed_interruptions",
                "How often the feed of revocations was lost.",
                value=self._interruptions_before + self._feed.interruptions,
            )
        if self._breaker is not None:
            yield CounterMetricFamily(
                "authz_credentials_redis_breaker_opened",
                "How often Redis was not asked any more because it did not answer.",
                value=self._breaker.opened,
            )

    def _of_key_sets(self) -> Iterable[Metric]:
        fetches = CounterMetricFamily(
            "authz_key_set_fetches", "Fetches of key sets.", labels=["issuer", "outcome"]
        )
        keys = GaugeMetricFamily("authz_key_set_keys", "Usable keys in the last good set.", labels=["issuer"])
        age = GaugeMetricFamily(
            "authz_key_set_age_seconds", "Time since the last good fetch.", labels=["issuer"]
        )
        now = self._monotonic_clock()
        for issuer, key_set in self._key_sets.items():
            if issuer not in self._issuers:
                continue
            for outcome, times in key_set.fetches.items():
                fetches.add_metric([issuer, outcome], times)
            keys.add_metric([issuer], key_set.keys)
            if key_set.fetched_at is not None:
                age.add_metric([issuer], now - key_set.fetched_at)
        yield from (fetches, keys, age)
