"""Who is assigned what: the Envoys that report, their buckets, and the limits that they share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from common.buckets import MAX_HITS
from ratelimit.match import bucket_key
from ratelimit.quota.assignment import Abandon, Action, Assign, TokenQuota
from ratelimit.quota.ledger import Holding, Ledger
from ratelimit.quota.limit import Blanket, BucketId, QuotaLimit, limit_of, match_bucket
from ratelimit.rules import CompiledLimits, LimitRule

SWEEP_SECONDS: Final = 10.0
"""Between two looks for ledgers that no Envoy needs."""

_ABANDON: Final = Abandon()


class Refused(StrEnum):
    """Why a stream is ended, or a bucket gets no assignment: `reason` in metrics."""

    NOT_A_REPORT = "not_a_report"
    """Ends the stream: the bytes are not RateLimitQuotaUsageReports."""
    NO_DOMAIN = "no_domain"
    """Ends the stream."""
    DOMAIN_CHANGED = "domain_changed"
    """Ends the stream."""
    TOO_MANY_STREAMS = "too_many_streams"
    """Ends the stream: there are `max_streams` already."""
    NO_BUCKET_ID = "no_bucket_id"
    """Skips the usage: its bucket has no keys, or an empty one."""
    LONG_BUCKET_ID = "long_bucket_id"
    """Skips the usage: its bucket has more than `max_entries` or `max_id_length`."""
    TOO_MANY_BUCKETS = "too_many_buckets"
    """Skips the usage: the stream has `max_stream_buckets`, or all have `max_buckets`."""


class QuotaError(Exception):
    """A stream that cannot go on. The message reaches the caller."""

    def __init__(self, reason: Refused, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class QuotaBounds:
    """How long assignments last, and what Envoys may make this process remember."""

    seconds: int = 20
    """The time to live of assignments. Envoy needs more than 10: it reports every 5 s."""
    idle_seconds: float = 60.0
    """After so long without requests an Envoy is told to forget a bucket."""
    max_streams: int = 1_000
    max_stream_buckets: int = 1_000
    max_buckets: int = 10_000
    """Buckets of all streams, and as many limits with values that they count under."""
    max_entries: int = 16
    """Keys of a bucket."""
    max_id_length: int = 1_024
    """Characters of all keys and values of a bucket."""


class Usage(NamedTuple):
    """What one Envoy did with one bucket since its last report."""

    bucket_id: BucketId
    allowed: int
    denied: int


class Report(NamedTuple):
    """A message of an Envoy."""

    domain: str
    usages: Sequence[Usage]


@dataclass(slots=True, eq=False)
class _Bucket:
    """A bucket of one Envoy."""

    bucket_id: BucketId
    reported_at: float
    """When it was reported last. Envoy's own `time_elapsed` is not read: it is 0 in a first report."""
    busy_at: float
    """When it last had requests."""
    rule: LimitRule | None = None
    ledger: Ledger | None = None
    """None where no tokens are divided: the bucket has no limit, or a limit that allows or denies all."""
    holding: Holding = field(default_factory=Holding)


class Subscriber:
    """One stream of an Envoy. `deliver` sends an action for a bucket."""

    def __init__(self, deliver: Callable[[BucketId, Action], None]) -> None:
        self.deliver = deliver
        self.domain = ""
        self.buckets: dict[tuple[tuple[str, str], ...], _Bucket] = {}


class UsageCounter:
    """Counts what Envoys report, for the metrics of rules. Does nothing itself."""

    def matched(self, domain: str, bucket_id: BucketId, rule: LimitRule | None, *, is_known: bool) -> None:
        """A bucket has this rule, or none, from now on; `is_known` says whether its domain is configured."""

    def used(self, domain: str, bucket_id: BucketId, rule: LimitRule | None, usage: Usage) -> None:
        """An Envoy reports usage."""


class Quotas:
    """Divides limits among Envoys. Pure: `clock` never steps, and subscribers deliver what is to be sent.

    `replicas` is the number of sidecars that share each limit. With `shadow_mode` nothing is refused.
    """

    def __init__(
        self,
        limits: CompiledLimits,
        clock: Callable[[], float],
        bounds: QuotaBounds,
        *,
        replicas: Callable[[], int] = lambda: 1,
        shadow_mode: bool = False,
        counter: UsageCounter | None = None,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._bounds = bounds
        self._replicas = replicas
        self._shadow_mode = shadow_mode
        self._counter = counter or UsageCounter()
        self._subscribers: dict[Subscriber, None] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._owners: dict[int, tuple[Subscriber, _Bucket]] = {}
        """By `id` of a holding: whose it is."""
        self._sweep_at = 0.0
        self.refused: dict[str, int] = dict.fromkeys(Refused, 0)
        self.actions: dict[str, int] = {"token_bucket": 0, "allow_all": 0, "deny_all": 0, "abandon": 0}
        self.requests: dict[str, int] = {"allowed": 0, "denied": 0}
        self.reports = 0

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._subscribers)

    @property
    def buckets(self) -> int:
        """How many buckets all streams have."""
        return len(self._owners)

    @property
    def ledgers(self) -> Mapping[str, Ledger]:
        """What is divided, by the name of the bucket that a call of the rate limit service would count in."""
        return self._ledgers

    def open(self, subscriber: Subscriber) -> None:
        """An Envoy begins a stream. Raises QuotaError."""
        if len(self._subscribers) >= self._bounds.max_streams:
            raise self.refusal(Refused.TOO_MANY_STREAMS, f"more than {self._bounds.max_streams} streams")
        self._subscribers[subscriber] = None

    def close(self, subscriber: Subscriber) -> None:
        """The stream of an Envoy has ended: what it was assigned counts until it expires."""
        now = self._clock()
        del self._subscribers[subscriber]
        for bucket in subscriber.buckets.values():
            self._forget(bucket, now)
        subscriber.buckets.clear()

    def refusal(self, reason: Refused, text: str) -> QuotaError:
        """Count and return the error that ends a stream."""
        self.refused[reason] += 1
        return QuotaError(reason, text)

    def report(self, subscriber: Subscriber, report: Report) -> None:
        """Take a message of an Envoy and deliver what follows from it. Raises QuotaError."""
        if not (report.domain or subscriber.domain):
            raise self.refusal(Refused.NO_DOMAIN, "the first message of a stream needs a domain")
        if report.domain and subscriber.domain not in {"", report.domain}:
            raise self.refusal(Refused.DOMAIN_CHANGED, "the domain of a stream cannot change")
        subscriber.domain = subscriber.domain or report.domain
        self.reports += 1
        now = self._clock()
        if now >= self._sweep_at:
            self._sweep(now)
        for usage in report.usages:
            self._use(subscriber, usage, now)

    def use(self, limits: CompiledLimits) -> None:
        """Divide these limits from now on, and deliver what changes at once."""
        self._limits = limits
        now = self._clock()
        for subscriber in self._subscribers:
            for bucket in subscriber.buckets.values():
                self._match(subscriber, bucket, now)
        for ledger in self._ledgers.values():
            self._deliver(ledger, ledger.holdings, now)

    def _use(self, subscriber: Subscriber, usage: Usage, now: float) -> None:
        name = tuple(sorted(usage.bucket_id.items()))
        bucket = subscriber.buckets.get(name)
        is_new = bucket is None
        if bucket is None:
            refused = self._refused(subscriber, usage.bucket_id)
            if refused is not None:
                self.refused[refused] += 1
                return
            bucket = subscriber.buckets[name] = _Bucket(dict(name), now, now)
            self._owners[id(bucket.holding)] = subscriber, bucket
            self._match(subscriber, bucket, now)
        self._count(subscriber, bucket, usage, now, is_new=is_new)
        if now - bucket.busy_at >= self._bounds.idle_seconds:
            self._forget(subscriber.buckets.pop(name), now)
            self._send(subscriber, bucket, _ABANDON)
        elif bucket.ledger is None:
            self._send_blanket(subscriber, bucket, now)
        else:
            bucket.holding.settle(now)
            # The others make room for a newcomer at once, and follow a new count of sidecars.
            everyone = self._resize(bucket, now) or is_new
            self._deliver(bucket.ledger, bucket.ledger.holdings if everyone else [bucket.holding], now)

    def _refused(self, subscriber: Subscriber, bucket_id: BucketId) -> Refused | None:
        bounds = self._bounds
        if not bucket_id or "" in bucket_id:
            return Refused.NO_BUCKET_ID
        length = sum(map(len, bucket_id)) + sum(map(len, bucket_id.values()))
        if len(bucket_id) > bounds.max_entries or length > bounds.max_id_length:
            return Refused.LONG_BUCKET_ID
        full = len(self._owners) >= bounds.max_buckets or len(self._ledgers) >= bounds.max_buckets
        if full or len(subscriber.buckets) >= bounds.max_stream_buckets:
            return Refused.TOO_MANY_BUCKETS
        return None

    def _count(
        self, subscriber: Subscriber, bucket: _Bucket, usage: Usage, now: float, *, is_new: bool
    ) -> None:
        """Learn the demand. Counts have a bound, because Envoy may send any uint64."""
        allowed, denied = min(usage.allowed, MAX_HITS), min(usage.denied, MAX_HITS)
        self.requests["allowed"] += allowed
        self.requests["denied"] += denied
        usage = Usage(bucket.bucket_id, allowed, denied)
        self._counter.used(subscriber.domain, bucket.bucket_id, bucket.rule, usage)
        if allowed or denied:
            bucket.busy_at = now
        if is_new:
            return
        demand = (allowed + denied) / max(1.0, now - bucket.reported_at)
        known = bucket.holding.demand
        # A short pause does not cost the share at once.
        bucket.holding.demand = demand if known == float("inf") else max(demand, known / 2)
        bucket.reported_at = now

    def _match(self, subscriber: Subscriber, bucket: _Bucket, now: float) -> None:
        """Find the limit of a bucket, and move the bucket to its ledger."""
        root = self._limits.domains.get(subscriber.domain)
        match = None if root is None else match_bucket(root, bucket.bucket_id)
        bucket.rule = None if match is None else match.rule
        is_known = root is not None
        self._counter.matched(subscriber.domain, bucket.bucket_id, bucket.rule, is_known=is_known)
        limit = self._limit(bucket)
        ledger = None
        if match is not None and match.rule.bucket is not None and isinstance(limit, QuotaLimit):
            name = bucket_key(subscriber.domain, match.rule.bucket, match.counted)
            ledger = self._ledgers.get(name)
            if ledger is None:
                ledger = self._ledgers[name] = Ledger(limit, now, self._bounds.seconds)
            ledger.resize(limit, now)
        if ledger is not bucket.ledger:
            if bucket.ledger is not None:
                bucket.ledger.leave(bucket.holding, now, may_use=False)
            bucket.ledger = ledger
            if ledger is not None:
                ledger.join(bucket.holding)
        if ledger is None:
            self._send_blanket(subscriber, bucket, now)

    def _limit(self, bucket: _Bucket) -> QuotaLimit | Blanket:
        if bucket.rule is None or self._shadow_mode:
            return Blanket.ALLOW_ALL
        return limit_of(bucket.rule, max(1, self._replicas()))

    def _resize(self, bucket: _Bucket, now: float) -> bool:
        """Follow the number of sidecars. Returns whether the limit has changed."""
        limit = self._limit(bucket)
        assert bucket.ledger is not None and isinstance(limit, QuotaLimit)  # noqa: S101, PT018 - see _match
        return bucket.ledger.resize(limit, now)

    def _send_blanket(self, subscriber: Subscriber, bucket: _Bucket, now: float) -> None:
        limit, holding, seconds = self._limit(bucket), bucket.holding, self._bounds.seconds
        assert isinstance(limit, Blanket)  # noqa: S101 - else it has a ledger
        if limit != holding.strategy or holding.is_due(now, seconds):
            holding.sent(limit, now, seconds)
            self._send(subscriber, bucket, Assign(limit, seconds))

    def _deliver(self, ledger: Ledger, holdings: Iterable[Holding], now: float) -> None:
        for holding, action in ledger.assign(holdings, now):
            self._send(*self._owners[id(holding)], action)

    def _send(self, subscriber: Subscriber, bucket: _Bucket, action: Action) -> None:
        if isinstance(action, Abandon):
            kind = "abandon"
        else:
            kind = "token_bucket" if isinstance(action.strategy, TokenQuota) else action.strategy.value
        self.actions[kind] += 1
        subscriber.deliver(bucket.bucket_id, action)

    def _forget(self, bucket: _Bucket, now: float) -> None:
        del self._owners[id(bucket.holding)]
        if bucket.ledger is not None:
            bucket.ledger.leave(bucket.holding, now)

    def _sweep(self, now: float) -> None:
        self._sweep_at = now + SWEEP_SECONDS
        for name in [name for name, ledger in self._ledgers.items() if ledger.is_unused(now)]:
            del self._ledgers[name]
