"""Metrics of the credentials: plain numbers, read when Prometheus scrapes.

The counters of `prometheus_client` take a lock and half a microsecond each. These are only changed on the
thread of the loop, and a request has 3 us for its credential.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from authz.request.identity import CredentialKind, Refusal, RefusalReason

MAX_GONE_ISSUERS: Final = 100
"""The most removed issuers whose counts are kept, in case the configuration names them again."""


@dataclass(slots=True)
class KeySetMetrics:
    """Metrics of the key set of one issuer."""

    fetches: dict[str, int] = field(default_factory=dict)
    keys: int = 0
    fetched_at: float | None = None
    """The time of the last good fetch, on the monotonic clock."""

    def fetched(self, outcome: str, *, keys: int | None = None, at: float | None = None) -> None:
        """Count a fetch. A good one comes with the number of keys and its time."""
        self.fetches[outcome] = self.fetches.get(outcome, 0) + 1
        if keys is not None:
            self.keys, self.fetched_at = keys, at


@dataclass(frozen=True, slots=True)
class KeySetSchedule:
    """How often the key set of an issuer is fetched, and how long it serves while fetches fail."""

    refresh_seconds: float
    max_stale_seconds: float


@dataclass(slots=True)
class SessionMetrics:
    """Metrics of sessions."""

    renewals: int = 0
    """Renewals written to the store."""
    renewals_lost: int = 0
    """Renewals not written: too many waited, or the store could not be reached."""


class SubscriberState(Protocol):
    """The state of the revocation subscriber that metrics show."""

    @property
    def connected(self) -> bool:
        """Whether it is subscribed."""

    @property
    def interruptions(self) -> int:
        """How often the subscription was lost."""


class ObservedCircuit(Protocol):
    """The state of a circuit breaker that metrics show."""

    @property
    def state(self) -> int:
        """0 closed, 1 half open, 2 open."""

    @property
    def opened(self) -> int:
        """How often it opened."""


@dataclass(slots=True)
class IntrospectionMetrics:
    """Metrics of requests to the introspection endpoint."""

    answered: int = 0
    rejected: int = 0
    failed: int = 0


class CredentialMetrics(Collector):
    """The Prometheus collector of all credentials, created once and kept across reloads."""

    def __init__(self, monotonic_clock: Callable[[], float]) -> None:
        self._monotonic_clock = monotonic_clock
        # Anonymous callers present no credential, so there is nothing to count.
        self.accepted: dict[str, int] = {
            kind.value: 0 for kind in CredentialKind if kind is not CredentialKind.ANONYMOUS
        }
        self.refused: dict[tuple[CredentialKind | None, RefusalReason], int] = {}
        self.cache_hits = 0
        self.cache_misses = 0
        self.sessions = SessionMetrics()
        self.introspection = IntrospectionMetrics()
        self._remembered: Mapping[str, Sized] = {}
        self._subscriber: SubscriberState | None = None
        self._breaker: ObservedCircuit | None = None
        self._interruptions_before = 0
        """The counts of replaced subscribers: a counter must not fall at a reload."""
        self._key_sets: dict[str, KeySetMetrics] = {}
        self._issuers: Container[str] = ()
        self._schedules: Mapping[str, KeySetSchedule] = {}

    def count_refusal(self, refusal: Refusal) -> None:
        """Count a refused credential."""
        label = (refusal.kind, refusal.reason)
        self.refused[label] = self.refused.get(label, 0) + 1

    def key_set(self, issuer: str) -> KeySetMetrics:
        """Return the metrics of the key set of `issuer`, which continue across reloads."""
        return self._key_sets.setdefault(issuer, KeySetMetrics())

    def serve(
        self,
        remembered: Mapping[str, Sized],
        issuers: Container[str],
        subscriber: "SubscriberState | None",
        breaker: "ObservedCircuit | None",
        schedules: Mapping[str, KeySetSchedule] = MappingProxyType({}),
    ) -> None:
        """Measure these from now on. `issuers` are those whose keys are fetched; no other issuer is shown.

        `schedules`: by issuer.
        """
        self._remembered = remembered
        if self._subscriber is not None and self._subscriber is not subscriber:
            self._interruptions_before += self._subscriber.interruptions
        self._subscriber = subscriber
        self._breaker = breaker
        self._issuers = issuers
        self._schedules = schedules
        gone = [issuer for issuer in self._key_sets if issuer not in issuers]
        for issuer in gone:
            # If the issuer comes back, its fetches are counted on and its keys are fetched again.
            self._key_sets[issuer].keys, self._key_sets[issuer].fetched_at = 0, None
        for issuer in gone[: max(0, len(gone) - MAX_GONE_ISSUERS)]:
            del self._key_sets[issuer]

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as Prometheus reads them."""
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
        requests = CounterMetricFamily(
            "authz_introspection_requests", "Requests about opaque tokens.", labels=["outcome"]
        )
        requests.add_metric(["ok"], self.introspection.answered)
        requests.add_metric(["rejected"], self.introspection.rejected)
        requests.add_metric(["failed"], self.introspection.failed)
        yield requests
        if self._subscriber is not None:
            yield GaugeMetricFamily(
                "authz_revocation_subscription_connected",
                "1 while revocations of other sidecars arrive at once.",
                value=int(self._subscriber.connected),
            )
            yield CounterMetricFamily(
                "authz_revocation_subscription_interruptions",
                "How often the subscription to revocations was lost.",
                value=self._interruptions_before + self._subscriber.interruptions,
            )
        if self._breaker is not None:
            yield GaugeMetricFamily(
                "authz_credentials_redis_breaker_state",
                "0 closed, 1 half open, 2 open: Redis does not answer.",
                value=self._breaker.state,
            )
            yield CounterMetricFamily(
                "authz_credentials_redis_breaker_opened",
                "How often the circuit breaker opened because Redis did not answer.",
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
        refresh = GaugeMetricFamily(
            "authz_key_set_refresh_seconds",
            "The longest time between two regular fetches.",
            labels=["issuer"],
        )
        longest = GaugeMetricFamily(
            "authz_key_set_max_age_seconds", "From this age on, every token is refused.", labels=["issuer"]
        )
        for issuer, schedule in self._schedules.items():
            refresh.add_metric([issuer], schedule.refresh_seconds)
            longest.add_metric([issuer], schedule.max_stale_seconds)
        now = self._monotonic_clock()
        for issuer, key_set in self._key_sets.items():
            if issuer not in self._issuers:
                continue
            for outcome, times in key_set.fetches.items():
                fetches.add_metric([issuer, outcome], times)
            keys.add_metric([issuer], key_set.keys)
            if key_set.fetched_at is not None:
                age.add_metric([issuer], now - key_set.fetched_at)
        yield from (fetches, keys, age, refresh, longest)
