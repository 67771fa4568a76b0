"""Who is assigned what: the Envoys that report, their buckets, and the limits that they share."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

from common.buckets import MAX_HITS
from protos.lenient import is_marked
from ratelimit.match import Match, bucket_key, metric_path
from ratelimit.quota.assignment import Abandon, Action, Assign, TokenQuota
from ratelimit.quota.ledger import DELIVERY_SECONDS, Holding, Ledger
from ratelimit.quota.limit import Blanket, BucketId, QuotaLimit, limit_of, match_bucket
from ratelimit.quota.refused import QuotaError, Refused
from ratelimit.request import Descriptor
from ratelimit.rules import CompiledLimits, LimitRule, Node
from ratelimit.stats import Counts, Stats

SWEEP_SECONDS: Final = 10.0
"""Between two looks for ledgers that no Envoy needs."""

CROWD: Final = 200
"""Buckets that share a ledger, above which it is divided once a second: to divide it takes time for each."""

_ABANDON: Final = Abandon()


@dataclass(frozen=True, slots=True)
class QuotaBounds:
    """How long assignments last, and what Envoys may make this process remember."""

    seconds: int = 15
    """The time to live of assignments. Envoy needs more than 10: it reports every 5 s."""
    idle_seconds: float = 600.0
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
    counts: Counts | None = None
    """The counters of the rule."""
    ledger: Ledger | None = None
    """None where no tokens are divided: the bucket has no limit, or a limit that allows or denies all."""
    holding: Holding = field(default_factory=Holding)


class Subscriber:
    """One stream of an Envoy. `deliver` sends an action for a bucket."""

    def __init__(self, deliver: Callable[[BucketId, Action], None]) -> None:
        self.deliver = deliver
        self.domain = ""
        self.buckets: dict[tuple[tuple[str, str], ...], _Bucket] = {}
        self.abandoned: list[tuple[float, Ledger, Holding]] = []
        """What it was told to forget, and when: it counts until a later report."""


class Quotas:
    """Divides limits among Envoys. Pure: `clock` never steps, and subscribers deliver what is to be sent.

    `replicas` is the number of sidecars that share each limit. With `shadow_mode` nothing is refused. What
    Envoys report counts in `stats` as calls of the rate limit service do.
    """

    def __init__(
        self,
        limits: CompiledLimits,
        clock: Callable[[], float],
        bounds: QuotaBounds,
        *,
        stats: Stats,
        replicas: Callable[[], int] = lambda: 1,
        shadow_mode: bool = False,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._bounds = bounds
        self._stats = stats
        self._replicas = replicas
        self._sidecars = max(1, replicas())
        """How many sidecars share each limit."""
        self._counted = self._sidecars
        self._fewer_since = -inf
        """When a sidecar left last."""
        self._shadow_mode = shadow_mode
        self._subscribers: dict[Subscriber, None] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._owners: dict[int, tuple[Subscriber, _Bucket]] = {}
        """By `id` of a holding: whose it is."""
        self._waiting: dict[Ledger, dict[Holding, float]] = {}
        """Holdings that were reported in a crowd, and when, or were assigned nothing yet."""
        self._sweep_at = 0.0
        self.refused: dict[str, int] = dict.fromkeys(Refused, 0)
        self.actions: dict[str, int] = {"token_bucket": 0, "allow_all": 0, "deny_all": 0, "abandon": 0}
        self.requests: dict[str, int] = {"allowed": 0, "denied": 0}
        self.reports = 0

    @property
    def limits(self) -> CompiledLimits:
        """What is divided since the last `refresh`."""
        return self._limits

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
        if len(report.domain) > self._bounds.max_id_length:
            text = f"a domain has at most {self._bounds.max_id_length} characters"
            raise self.refusal(Refused.NO_DOMAIN, text)
        if report.domain and subscriber.domain not in {"", report.domain}:
            raise self.refusal(Refused.DOMAIN_CHANGED, "the domain of a stream cannot change")
        subscriber.domain = subscriber.domain or report.domain
        self.reports += 1
        now = self._clock()
        if now >= self._sweep_at:
            self._sweep(now)
        if subscriber.abandoned:
            self._settle_abandoned(subscriber, now)
        asked: dict[Ledger, dict[Holding, float]] = {}
        joined: set[Ledger] = set()
        for usage in report.usages:
            self._use(subscriber, usage, now, asked, joined)
        for ledger, holdings in asked.items():
            if len(ledger.holdings) > CROWD:
                self._waiting.setdefault(ledger, {}).update(holdings)
            else:  # the others make room for a newcomer at once
                self._deliver(ledger, ledger.holdings if ledger in joined else holdings, now, holdings)

    def refresh(self, limits: CompiledLimits) -> Iterator[None]:
        """Deliver what changes if these limits, or the number of sidecars, are others than before.

        Yields after each piece of the work, since 10,000 buckets take 0.2 s. Reports may come in between: a
        bucket keeps its former limit until its turn.
        """
        sidecars = self._count_sidecars(self._clock())
        if limits is self._limits and sidecars == self._sidecars:
            return
        self._limits, self._sidecars = limits, sidecars
        for subscriber, bucket in list(self._owners.values()):
            if id(bucket.holding) in self._owners:  # else it has left since
                self._match(subscriber, bucket, self._clock())
            yield
        for ledger in list(self._ledgers.values()):
            self._deliver(ledger, ledger.holdings, self._clock(), {})
            yield

    def serve_waiting(self) -> Iterator[None]:
        """Deliver to Envoys in a crowd, and to those that wait until what others had has expired.

        Call it about each second. Yields after each ledger: after a lost connection thousands may wait.
        """
        waiting, self._waiting = self._waiting, {}
        for ledger, holdings in waiting.items():
            present = {holding: at for holding, at in holdings.items() if holding in ledger.holdings}
            self._deliver(ledger, present, self._clock(), present)
            yield

    def _count_sidecars(self, now: float) -> int:
        """How many sidecars share each limit: one that has left counts until what it assigned has expired."""
        counted = max(1, self._replicas())
        if counted < self._counted:
            self._fewer_since = now
        self._counted = counted
        expired_at = self._fewer_since + self._bounds.seconds + DELIVERY_SECONDS
        return counted if now >= expired_at else max(counted, self._sidecars)

    def _use(
        self,
        subscriber: Subscriber,
        usage: Usage,
        now: float,
        asked: dict[Ledger, dict[Holding, float]],
        joined: set[Ledger],
    ) -> None:
        """Take what is reported of one bucket, and add its holding to `asked`.

        The ledgers are divided once after the whole report, because thousands of its buckets may share one.
        """
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
        self._count(bucket, usage, now, is_new=is_new)
        if now - bucket.busy_at >= self._bounds.idle_seconds:
            self._forget(subscriber.buckets.pop(name), now)
            if bucket.ledger is not None:
                subscriber.abandoned.append((now, bucket.ledger, bucket.holding))
            self._send(subscriber, bucket, _ABANDON)
        elif bucket.ledger is None:
            self._send_blanket(subscriber, bucket, now)
        else:
            asked.setdefault(bucket.ledger, {})[bucket.holding] = now
            if is_new:
                joined.add(bucket.ledger)

    def _refused(self, subscriber: Subscriber, bucket_id: BucketId) -> Refused | None:
        bounds = self._bounds
        if not bucket_id or "" in bucket_id:
            return Refused.NO_BUCKET_ID
        if any(is_marked(text) for entry in bucket_id.items() for text in entry):
            return Refused.NOT_UTF8
        length = sum(map(len, bucket_id)) + sum(map(len, bucket_id.values()))
        if len(bucket_id) > bounds.max_entries or length > bounds.max_id_length:
            return Refused.LONG_BUCKET_ID
        full = len(self._owners) >= bounds.max_buckets or len(self._ledgers) >= bounds.max_buckets
        if full or len(subscriber.buckets) >= bounds.max_stream_buckets:
            return Refused.TOO_MANY_BUCKETS
        return None

    def _count(self, bucket: _Bucket, usage: Usage, now: float, *, is_new: bool) -> None:
        """Learn the demand. Counts have a bound, because Envoy may send any uint64."""
        allowed, denied = min(usage.allowed, MAX_HITS), min(usage.denied, MAX_HITS)
        self.requests["allowed"] += allowed
        self.requests["denied"] += denied
        if bucket.counts is not None:
            bucket.counts.total_hits += allowed + denied
            bucket.counts.within_limit += allowed
            bucket.counts.over_limit += denied
        if allowed or denied:
            bucket.busy_at = now
        if is_new:
            return
        demand = (allowed + denied) / max(1.0, now - bucket.reported_at)
        known = bucket.holding.demand
        # A short pause does not cost the share at once.
        bucket.holding.demand = demand if known == inf else max(demand, known / 2)
        bucket.reported_at = now

    def _match(self, subscriber: Subscriber, bucket: _Bucket, now: float) -> None:
        """Find the limit of a bucket, and move the bucket to its ledger."""
        root = self._limits.domains.get(subscriber.domain)
        match = None if root is None else match_bucket(root, bucket.bucket_id)
        bucket.rule = None if match is None else match.rule
        bucket.counts = self._counts(subscriber.domain, bucket.bucket_id, root, match)
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
                ledger.join(bucket.holding, now)
        if ledger is None:
            self._send_blanket(subscriber, bucket, now)

    def _limit(self, bucket: _Bucket) -> QuotaLimit | Blanket:
        if bucket.rule is None or self._shadow_mode:
            return Blanket.ALLOW_ALL
        return limit_of(bucket.rule, self._sidecars)

    def _counts(
        self, domain: str, bucket_id: BucketId, root: Node | None, match: Match | None
    ) -> Counts | None:
        """The counters of the rule of a bucket; without a rule, the bucket is counted as unmatched."""
        stats = self._stats
        if root is None:
            stats.domain_not_found(domain, 1)
            stats.unmatched.domain(domain).count += 1
            return None
        if match is None:
            descriptor = Descriptor(tuple(sorted(bucket_id.items())))
            stats.unmatched.descriptor(domain, descriptor).count += 1
            return None
        rule = match.rule
        if not rule.metric_has_values:
            return stats.of_rule(rule.path)
        secrets = self._limits.options.secrets
        return stats.of_request(metric_path(root, rule, domain, match.counted, secrets=secrets))

    def _send_blanket(self, subscriber: Subscriber, bucket: _Bucket, now: float) -> None:
        limit, holding, seconds = self._limit(bucket), bucket.holding, self._bounds.seconds
        assert isinstance(limit, Blanket)  # noqa: S101 - else it has a ledger
        if limit != holding.strategy or holding.is_due(now, seconds):
            holding.sent(limit, now, seconds)
            self._send(subscriber, bucket, Assign(limit, seconds))

    def _deliver(
        self,
        ledger: Ledger,
        holdings: Collection[Holding],
        now: float,
        reported: Mapping[Holding, float],
    ) -> None:
        """Send what these holdings are assigned; `reported`: when reports of some came."""
        for holding, reported_at in reported.items():
            ledger.reported(holding, reported_at, now)
        for holding, action in ledger.assign(holdings, now):
            self._send(*self._owners[id(holding)], action)
        if unassigned := [holding for holding in holdings if holding.strategy is None]:
            self._waiting.setdefault(ledger, {}).update(dict.fromkeys(unassigned, -inf))

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

    def _settle_abandoned(self, subscriber: Subscriber, now: float) -> None:
        under_way = []
        for told_at, ledger, holding in subscriber.abandoned:
            if now >= told_at + DELIVERY_SECONDS:
                ledger.forgotten(holding, now)
            else:
                under_way.append((told_at, ledger, holding))
        subscriber.abandoned = under_way

    def _sweep(self, now: float) -> None:
        self._sweep_at = now + SWEEP_SECONDS
        for name in [name for name, ledger in self._ledgers.items() if ledger.is_unused(now)]:
            del self._ledgers[name]
