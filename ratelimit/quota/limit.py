"""Which limit a quota bucket has, and its rate and burst."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from common.buckets import SECOND_US, CalendarWindow, Slots, TokenBucket
from ratelimit.match import Entry, Match, find_child
from ratelimit.rules import LimitRule, Node

BucketId = Mapping[str, str]
"""What Envoy counts together: keys and values without an order."""

_LONGEST_DAYS: Final = {1: 31, 3: 92, 12: 366}
"""By months of a calendar window: its longest length, so that none admits more than its limit in the rest."""

_DAY_SECONDS: Final = 86_400


class Blanket(Enum):
    """The decision about every request of a bucket."""

    ALLOW_ALL = "allow_all"
    DENY_ALL = "deny_all"


@dataclass(frozen=True, slots=True)
class QuotaLimit:
    """What all Envoys together may admit: `burst` requests at once, and `rate` a second."""

    rate: float
    burst: int


def match_bucket(root: Node, bucket_id: BucketId) -> Match | None:
    """The rule of a bucket in the tree of a domain; None without one.

    As a descriptor, a bucket matches the rule whose path has all of its keys and no others. A bucket has no
    order, so the path gives it; where several do, the first by the alphabet of their keys wins.
    """
    return next(_matches(root, sorted(bucket_id.items()), ()), None)


def _matches(node: Node, left: list[Entry], counted: tuple[Entry, ...]) -> Iterator[Match]:
    if not left:
        if node.rule is not None:
            yield Match(node.rule, counted)
        return
    for index, (key, value) in enumerate(left):
        found = find_child(node, key, value)
        if found is not None:
            child, reading = found
            rest = left[:index] + left[index + 1 :]
            yield from _matches(child, rest, (*counted, (key, child.shared_value or reading)))


def limit_of(rule: LimitRule, replicas: int) -> QuotaLimit | Blanket:
    """What this sidecar may assign of a limit that `replicas` sidecars share equally.

    Envoy's token bucket is the only algorithm, so a window counts as a bucket of its size that refills once
    in its length. Requests in flight cannot be assigned, and a limit in shadow mode refuses nothing: both
    allow all.
    """
    bucket = rule.bucket
    if bucket is None or isinstance(bucket, Slots) or rule.shadow_mode:
        return Blanket.ALLOW_ALL
    burst = bucket.size // rule.cost
    if burst == 0:
        return Blanket.DENY_ALL
    if isinstance(bucket, TokenBucket):
        tokens, seconds = bucket.refill_tokens, bucket.period_us / SECOND_US
    elif isinstance(bucket, CalendarWindow):
        tokens, seconds = bucket.limit, float(_LONGEST_DAYS[bucket.months] * _DAY_SECONDS)
    else:
        tokens, seconds = bucket.limit, bucket.window_us / SECOND_US
    return QuotaLimit(tokens / seconds / rule.cost / replicas, -(-burst // replicas))
