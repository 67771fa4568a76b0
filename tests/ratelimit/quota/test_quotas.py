"""What each report of an Envoy leads to."""

from dataclasses import dataclass, field

import pytest

from protos.lenient import mark
from ratelimit.quota.assignment import Abandon, Action, Assign, TokenQuota
from ratelimit.quota.limit import Blanket, BucketId
from ratelimit.quota.quotas import CROWD, QuotaBounds, Quotas, Report, Subscriber, Usage
from ratelimit.quota.refused import QuotaError, Refused
from ratelimit.rules import CompiledLimits
from ratelimit.stats import Stats
from tests.support.quota_simulation import (
    BUCKET,
    DOMAIN,
    Clock,
    limits_of,
    login_limit,
    refresh,
    serve_waiting,
)

LIMIT = login_limit(20, 20)
BOUNDS = QuotaBounds(max_streams=3, max_stream_buckets=4, max_buckets=6, max_entries=3, max_id_length=64)


@dataclass
class Stream:
    """One Envoy, and what it was sent."""

    quotas: Quotas
    sent: list[tuple[BucketId, Action]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.subscriber = Subscriber(lambda bucket_id, action: self.sent.append((bucket_id, action)))
        self.quotas.open(self.subscriber)

    def report(
        self, *bucket_ids: BucketId, allowed: int = 0, denied: int = 0, domain: str = DOMAIN
    ) -> list[Action]:
        """Report usage, and return what was sent since the last time."""
        usages = [Usage(bucket_id, allowed, denied) for bucket_id in bucket_ids]
        self.quotas.report(self.subscriber, Report(domain, usages))
        return self.take()

    def take(self) -> list[Action]:
        actions = [action for _, action in self.sent]
        self.sent.clear()
        return actions


class World:
    """Quotas, and the time."""

    def __init__(self, limits: CompiledLimits = LIMIT, bounds: QuotaBounds = BOUNDS) -> None:
        self.clock = Clock()
        self.replicas = 1
        self.stats = Stats()
        self.stats.keep_rules(rule.path for rule in limits.rules)
        self.quotas = Quotas(limits, self.clock, bounds, stats=self.stats, replicas=lambda: self.replicas)

    def pass_seconds(self, seconds: float) -> None:
        self.clock.ticks += round(seconds / 0.05)


def strategies(actions: list[Action]) -> list[object]:
    assert all(isinstance(action, Assign) for action in actions)
    return [action.strategy for action in actions if isinstance(action, Assign)]


def rate(actions: list[Action]) -> float:
    (strategy,) = strategies(actions)
    assert isinstance(strategy, TokenQuota)
    return strategy.rate


def test_the_first_report_of_a_bucket_is_answered_at_once() -> None:
    stream = Stream(World().quotas)
    (action,) = stream.report(BUCKET, allowed=1)
    assert action == Assign(TokenQuota(9, 19 * 60, 60), 15)


def test_an_assignment_is_sent_again_before_it_expires_and_not_at_each_report() -> None:
    world = World()
    stream = Stream(world.quotas)
    stream.report(BUCKET)
    sent = []
    for _ in range(8):
        world.pass_seconds(5)
        sent.append(len(stream.report(BUCKET, allowed=50)))
    assert sent == [0, 1] * 4


def test_a_newcomer_takes_from_the_others_at_once_and_has_its_part_later() -> None:
    world = World()
    first, second = Stream(world.quotas), Stream(world.quotas)
    assert rate(first.report(BUCKET)) == 19
    world.pass_seconds(1)
    assert rate(second.report(BUCKET)) == pytest.approx(1)
    assert rate(first.take()) == 9.5
    world.pass_seconds(5)
    assert first.report(BUCKET, allowed=100) == []
    world.pass_seconds(1)
    assert rate(second.report(BUCKET, allowed=100)) == pytest.approx(9.5, rel=0.05)


def test_what_an_envoy_had_counts_until_it_expires() -> None:
    """If it only lost its stream, it uses that until then, so nothing less is sent."""
    world = World()
    first = Stream(world.quotas)
    first.report(BUCKET)
    world.quotas.close(first.subscriber)
    second = Stream(world.quotas)
    world.pass_seconds(10)
    assert second.report(BUCKET) == []
    serve_waiting(world.quotas)
    assert second.take() == []
    world.pass_seconds(7)
    serve_waiting(world.quotas)
    assert rate(second.take()) == 19


def test_envoys_that_wait_are_served_ledger_by_ledger() -> None:
    limit = {"unit": "second", "requests_per_unit": 20}
    world = World(limits_of({"key": "route", "rate_limit": limit}))
    bucket_ids = [{"route": name} for name in "abc"]
    first, second = Stream(world.quotas), Stream(world.quotas)
    first.report(*bucket_ids)
    world.quotas.close(first.subscriber)
    assert second.report(*bucket_ids) == []
    world.pass_seconds(17)
    pieces = world.quotas.serve_waiting()
    next(pieces)
    assert len(second.take()) == 1
    assert len(list(pieces)) == len(second.take()) == 2


def test_a_limit_of_a_crowd_is_divided_once_a_second() -> None:
    """At each report it would take seconds of each second."""
    world = World(login_limit(10_000, 10_000), QuotaBounds(max_streams=CROWD + 2))
    for _ in range(CROWD):
        assert len(Stream(world.quotas).report(BUCKET)) == 1
    late, later = Stream(world.quotas), Stream(world.quotas)
    assert late.report(BUCKET) == later.report(BUCKET) == []
    world.quotas.close(later.subscriber)
    serve_waiting(world.quotas)
    assert len(late.take()) == 1
    assert later.take() == []


def test_where_nothing_is_spare_an_envoy_that_comes_is_refused_until_something_is() -> None:
    world = World(login_limit(1 / 60, 1))
    first, second = Stream(world.quotas), Stream(world.quotas)
    first.report(BUCKET)
    assert strategies(second.report(BUCKET)) == [Blanket.DENY_ALL]
    world.quotas.close(first.subscriber)
    sent: list[Action] = []
    for _ in range(20):
        world.pass_seconds(5)
        sent += second.report(BUCKET, denied=1)
    first_bucket = next(one for one in strategies(sent) if isinstance(one, TokenQuota))
    assert first_bucket.max_tokens == 1
    assert first_bucket.rate <= 1 / 60


def test_a_bucket_without_a_limit_and_one_of_an_unknown_domain_allow_all() -> None:
    quotas = World().quotas
    assert strategies(Stream(quotas).report({"route": "other"})) == [Blanket.ALLOW_ALL]
    assert strategies(Stream(quotas).report(BUCKET, domain="other")) == [Blanket.ALLOW_ALL]


def test_a_limit_of_0_denies_all() -> None:
    limits = limits_of({"key": "route", "rate_limit": {"unit": "second", "requests_per_unit": 0}})
    assert strategies(Stream(World(limits).quotas).report(BUCKET)) == [Blanket.DENY_ALL]


def test_shadow_mode_allows_all() -> None:
    quotas = Quotas(LIMIT, Clock(), BOUNDS, stats=Stats(), shadow_mode=True)
    assert strategies(Stream(quotas).report(BUCKET)) == [Blanket.ALLOW_ALL]


def test_a_reload_assigns_at_once() -> None:
    world = World()
    stream = Stream(world.quotas)
    stream.report(BUCKET)
    refresh(world.quotas, login_limit(2, 20))
    assert rate(stream.take()) == 1.9
    refresh(world.quotas, limits_of({"key": "other", "rate_limit": {"unlimited": True}}))
    assert strategies(stream.take()) == [Blanket.ALLOW_ALL]
    refresh(world.quotas, LIMIT)
    assert rate(stream.take()) == 19


def test_a_reload_works_piece_by_piece_while_envoys_report_come_and_go() -> None:
    world = World()
    streams = [Stream(world.quotas) for _ in range(3)]
    for stream in streams[:2]:
        stream.report(BUCKET, {"route": "other"}, allowed=1)
    pieces = world.quotas.refresh(login_limit(2, 20))
    next(pieces)
    world.quotas.close(streams[0].subscriber)
    streams[1].report(BUCKET, {"route": "other"}, allowed=1)
    streams[2].report(BUCKET, {"route": "other"}, allowed=1)
    assert len(list(pieces)) > 3
    world.pass_seconds(20)
    (ledger,) = world.quotas.ledgers.values()
    for stream in streams[1:]:
        stream.report(BUCKET, {"route": "other"}, allowed=1)
        world.pass_seconds(2)
    assert len(ledger.holdings) == 2
    assert (ledger.limit.rate, world.quotas.buckets) == (2, 4)
    assert ledger.rate_at(world.clock()) <= 2


def test_a_reload_to_the_same_limit_sends_nothing() -> None:
    world = World()
    stream = Stream(world.quotas)
    stream.report(BUCKET)
    refresh(world.quotas, login_limit(20, 20))
    assert stream.take() == []


def test_more_sidecars_leave_less_for_each() -> None:
    world = World()
    stream = Stream(world.quotas)
    assert rate(stream.report(BUCKET)) == 19
    world.replicas = 4
    refresh(world.quotas, LIMIT)
    assert rate(stream.take()) == 4.75
    for world.replicas in [3] * 8 + [2] * 16:  # until what each of the others has assigned has expired
        refresh(world.quotas, LIMIT)
        assert stream.take() == []
        world.pass_seconds(1)
        stream.report(BUCKET, allowed=5)
        stream.take()
    refresh(world.quotas, LIMIT)
    assert rate(stream.take()) == 9.5


def test_an_idle_bucket_is_abandoned_and_may_come_again() -> None:
    world = World()
    stream = Stream(world.quotas)
    stream.report(BUCKET, {"route": "other"}, allowed=1)
    for _ in range(119):
        world.pass_seconds(5)
        assert Abandon() not in stream.report(BUCKET, {"route": "other"})
    world.pass_seconds(5)
    assert stream.report(BUCKET, {"route": "other"}) == [Abandon(), Abandon()]
    assert world.quotas.buckets == 0
    world.pass_seconds(1)
    assert rate(stream.report(BUCKET, allowed=1)) == 19


def test_what_an_envoy_should_abandon_counts_until_it_expires_if_its_stream_ends() -> None:
    world = World()
    stream = Stream(world.quotas)
    stream.report(BUCKET)
    for _ in range(120):
        world.pass_seconds(5)
        actions = stream.report(BUCKET)
    assert actions == [Abandon()]
    world.quotas.close(stream.subscriber)
    world.pass_seconds(2)
    again = Stream(world.quotas)
    assert again.report(BUCKET) == []
    world.pass_seconds(15)
    serve_waiting(world.quotas)
    assert rate(again.take()) == 19


def test_values_that_share_a_limit_share_its_quota() -> None:
    limit = {"unit": "second", "requests_per_unit": 20}
    limits = limits_of({"key": "path", "value": "/a/*", "share_threshold": True, "rate_limit": limit})
    stream = Stream(World(limits).quotas)
    first, second = strategies(stream.report({"path": "/a/1"}, {"path": "/a/2"}))
    assert isinstance(first, TokenQuota)
    assert isinstance(second, TokenQuota)
    assert first.rate + second.rate <= 20


def test_a_report_of_many_buckets_that_share_a_limit_divides_it_once() -> None:
    """Once for each bucket would take seconds where a client chooses thousands of values."""
    limit = {"unit": "second", "requests_per_unit": 1000}
    limits = limits_of({"key": "path", "value": "/a/*", "share_threshold": True, "rate_limit": limit})
    world = World(limits, QuotaBounds())
    stream = Stream(world.quotas)
    bucket_ids = [{"path": f"/a/{number}"} for number in range(100)]
    assert len(stream.report(*bucket_ids)) == len(bucket_ids)
    (ledger,) = world.quotas.ledgers.values()
    assert len(ledger.holdings) == len(bucket_ids)
    world.quotas.close(stream.subscriber)
    assert not ledger.holdings


def test_the_first_message_needs_a_domain_and_later_ones_keep_it() -> None:
    quotas = World().quotas
    stream = Stream(quotas)
    with pytest.raises(QuotaError, match="needs a domain"):
        stream.report(BUCKET, domain="")
    stream = Stream(quotas)
    stream.report(BUCKET)
    stream.report(BUCKET, domain="")
    with pytest.raises(QuotaError, match="cannot change"):
        stream.report(BUCKET, domain="other")
    with pytest.raises(QuotaError, match="at most 64 characters"):
        Stream(quotas).report(BUCKET, domain="x" * 65)
    assert (quotas.refused[Refused.NO_DOMAIN], quotas.refused[Refused.DOMAIN_CHANGED]) == (2, 1)


@pytest.mark.parametrize(
    ("bucket_id", "reason"),
    [
        ({}, Refused.NO_BUCKET_ID),
        ({"": "login"}, Refused.NO_BUCKET_ID),
        (dict.fromkeys("abcd", ""), Refused.LONG_BUCKET_ID),
        ({"route": "x" * 64}, Refused.LONG_BUCKET_ID),
        ({"route": mark(b"\xff")}, Refused.NOT_UTF8),
    ],
)
def test_a_bad_bucket_id_is_skipped_and_counted(bucket_id: dict[str, str], reason: Refused) -> None:
    quotas = World().quotas
    stream = Stream(quotas)
    assert len(stream.report(bucket_id, BUCKET)) == 1
    assert quotas.refused[reason] == 1
    assert quotas.buckets == 1


def test_streams_and_buckets_have_a_limit() -> None:
    quotas = World().quotas
    streams = [Stream(quotas) for _ in range(3)]
    with pytest.raises(QuotaError, match="more than 3 streams"):
        Stream(quotas)
    for stream in streams:
        stream.report(*({"route": str(number)} for number in range(5)))
    assert quotas.buckets == 6
    assert quotas.refused[Refused.TOO_MANY_BUCKETS] == 5 + 4
    assert quotas.refused[Refused.TOO_MANY_STREAMS] == 1
    quotas.close(streams[0].subscriber)
    assert Stream(quotas).report(BUCKET) != []


def test_counts_beyond_any_limit_are_a_demand_like_others() -> None:
    world = World()
    stream, other = Stream(world.quotas), Stream(world.quotas)
    for _ in range(4):
        world.pass_seconds(5)
        stream.report(BUCKET, allowed=2**64 - 1, denied=2**64 - 1)
        other.report(BUCKET, allowed=60)
    (ledger,) = world.quotas.ledgers.values()
    rates = [holding.rate for holding in ledger.holdings]
    assert sum(rates) <= 20
    assert min(rates) > 5


def test_what_envoys_report_counts_in_the_metrics_of_the_rule() -> None:
    world = World()
    stream = Stream(world.quotas)
    stream.report(BUCKET, {"route": "other"}, allowed=3, denied=2)
    counts = world.stats.of_rule((DOMAIN, "route_login"))
    assert (counts.total_hits, counts.within_limit, counts.over_limit) == (5, 3, 2)
    assert world.quotas.requests == {"allowed": 6, "denied": 4}
    (shape,) = world.stats.unmatched.shapes()
    assert (shape.domain, shape.keys) == (DOMAIN, "route")


def test_a_detailed_metric_has_the_value_of_the_bucket() -> None:
    limit = {
        "key": "route",
        "detailed_metric": True,
        "rate_limit": {"unit": "second", "requests_per_unit": 9},
    }
    world = World(limits_of(limit))
    Stream(world.quotas).report(BUCKET, allowed=3)
    assert world.stats.of_request((DOMAIN, "route_login")).total_hits == 3
