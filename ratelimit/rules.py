"""Compiled limits: made from YAML once, immutable, replaced as a whole."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any, Final

from common.buckets import (
    SECOND_US,
    Bucket,
    CalendarWindow,
    FixedWindow,
    RateBucket,
    SlidingWindow,
    Slots,
    TokenBucket,
)
from common.configfile import Problem
from ratelimit.files import FolderFiles
from ratelimit.normalise import IPV6_PREFIX, MAX_HOST_CHARACTERS, MAX_PATH_CHARACTERS
from ratelimit.secret_values import DEFAULT_SECRETS, SecretValues

BLANKS: Final = " \t"
"""Around a value they do not count: HTTP/1 strips them from headers and HTTP/2 does not (RFC 9110 section
5.5), so each blank would give a client another bucket, or none."""


class Unit(IntEnum):
    """Units of time, numbered as in RateLimitResponse.RateLimit.Unit (and type.v3.RateLimitUnit)."""

    SECOND = 1
    MINUTE = 2
    HOUR = 3
    DAY = 4
    MONTH = 5
    YEAR = 6
    WEEK = 7


UNIT_SECONDS: Final[Mapping[Unit, int]] = {
    Unit.SECOND: 1,
    Unit.MINUTE: 60,
    Unit.HOUR: 3_600,
    Unit.DAY: 86_400,
    Unit.WEEK: 7 * 86_400,
    Unit.MONTH: 30 * 86_400,
    Unit.YEAR: 365 * 86_400,
}
"""Seconds of each unit, as in envoyproxy/ratelimit: every month has 30 days, every year 365."""


class Algorithm(StrEnum):
    """How a rule counts."""

    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - a bucket of tokens, not a secret
    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW = "sliding_window"


def algorithm_of(bucket: Bucket) -> Algorithm:
    """Return how a bucket counts."""
    if isinstance(bucket, TokenBucket):
        return Algorithm.TOKEN_BUCKET
    return Algorithm.SLIDING_WINDOW if isinstance(bucket, SlidingWindow) else Algorithm.FIXED_WINDOW


CALENDAR_PERIODS: Final[Mapping[str, int]] = {"month": 1, "quarter": 3, "year": 12}
"""The months of each calendar window, in UTC."""


class OnFailure(StrEnum):
    """What a rule answers while its store is away."""

    OPEN = "open"
    """Let the request pass."""
    CLOSED = "closed"
    """Refuse the request."""
    LOCAL = "local"
    """Count in this process: never stricter than the shared count would be, never without a limit."""


class Priority(StrEnum):
    """Which requests are answered first when there are more than this process can answer in time."""

    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class BanRule:
    """When a key that is refused is banned."""

    rejections: SlidingWindow
    """Lets pass the rejections that are one fewer than ban."""
    seconds: int
    """For how long."""


@dataclass(frozen=True, slots=True, eq=False)
class LimitRule:
    """One limit. Compared by identity: two rules are never the same rule."""

    path: tuple[str, ...]
    """Domain, then `key` or `key_value` of each level; values as `SecretValues` shows them."""
    bucket: Bucket | None
    """None: unlimited."""
    requests_per_unit: int = 0
    unit: Unit = Unit.SECOND
    unit_multiplier: int = 1
    cost: int = 1
    """What one hit takes of the limit."""
    charging: Bucket | None = None
    """The bucket for charges after the fact, which always count. None: such a charge may be refused, too."""
    name: str = ""
    replaces: frozenset[str] = frozenset()
    shadow_mode: bool = False
    quota_mode: bool = False
    detailed_metric: bool = False
    metric_has_values: bool = False
    """Whether its metric key depends on the request: by `detailed_metric`, or `value_to_metric` above it."""
    metadata: Mapping[str, Any] | None = None
    on_failure: OnFailure = OnFailure.LOCAL
    ban: BanRule | None = None
    lease: bool = False
    """Whether sidecars may take a part of the limit in advance, to answer from memory."""
    priority: Priority = Priority.NORMAL
    source: str = ""
    """FILE:LINE."""

    @property
    def key(self) -> str:
        """The rule's identity in metrics, metadata and logs, as envoyproxy/ratelimit writes it."""
        return ".".join(self.path)

    @property
    def calendar_period(self) -> str:
        """`month`, `quarter` or `year` of a calendar window, else empty."""
        if not isinstance(self.bucket, CalendarWindow):
            return ""
        return next(name for name, months in CALENDAR_PERIODS.items() if months == self.bucket.months)

    @property
    def unlimited(self) -> bool:
        """Whether it lets everything pass, uncounted."""
        return self.bucket is None


@dataclass(frozen=True, slots=True, eq=False)
class Wildcard:
    """A descriptor with `*` in its composite key: each `*` matches any text, also the empty one."""

    parts: tuple[str, ...]
    """The texts between the stars; at least two."""
    node: "Node"

    def matches(self, composite: str) -> bool:
        """Whether the whole of `composite` fits. Linear in its length, however many stars there are."""
        first, *middle, last = self.parts
        if not composite.startswith(first):
            return False
        position = len(first)
        for part in middle:
            found = composite.find(part, position)
            if found < 0:
                return False
            position = found + len(part)
        return len(composite) - position >= len(last) and composite.endswith(last)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One level of a domain's tree."""

    children: Mapping[str, "Node"]
    """By composite key: `key_value`, or `key` for any value."""
    wildcards: tuple[Wildcard, ...] = ()
    """In the order of the configuration."""
    rule: LimitRule | None = None
    shared_value: str = ""
    """The value pattern that all matching values are counted under (`share_threshold`), or empty."""
    value_to_metric: bool = False
    normalise: Mapping[str, Callable[[str], Sequence[str]]] = field(default_factory=dict)
    """By key of the children: normalises a value before a child is looked up."""
    composite: str = ""
    """`key_value` or `key`, as the level above knows it."""
    shown: str = ""
    """`composite`, the value as `SecretValues` shows it."""


@dataclass(frozen=True, slots=True, eq=False)
class CompiledLimits:
    """A whole configuration."""

    domains: Mapping[str, Node]
    rules: tuple[LimitRule, ...]
    revision: str
    """Changes with the content of the files."""
    options: "Options"
    warnings: tuple[Problem, ...] = ()
    """What was loaded all the same, or left out."""
    without_descriptors: Mapping[str, Problem] = field(default_factory=dict)
    """By domain: the warning about it."""
    may_be_urgent: bool = field(init=False)
    """Whether a rule has a high priority, or limits concurrency."""
    has_leases: bool = field(init=False)
    """Whether a rule has leases."""

    def __post_init__(self) -> None:
        # Here, in the thread that compiles: a look at 10,000 rules takes a loop milliseconds.
        urgent = any(rule.priority is Priority.HIGH or isinstance(rule.bucket, Slots) for rule in self.rules)
        object.__setattr__(self, "may_be_urgent", urgent)
        has_leases = self.options.lease or any(rule.lease for rule in self.rules)
        object.__setattr__(self, "has_leases", has_leases)

    def parts(self) -> Iterator[object]:
        """Yield the nodes and rules, owners first (`common.background.release`)."""
        waiting = list(self.domains.values())
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node.children.values())
        yield from self.rules


@dataclass(frozen=True, slots=True)
class Options:
    """Defaults for rules that do not set them."""

    algorithm: Algorithm = Algorithm.TOKEN_BUCKET
    on_failure: OnFailure = OnFailure.LOCAL
    lease: bool = False
    replicas: int = 1
    """Sidecars that share a store: with the store away, each grants its part of a limit, rounded up."""
    merge_domains: bool = False
    """Whether several files may add to one domain (MERGE_DOMAIN_CONFIG)."""
    folder_files: FolderFiles = FolderFiles.YAML
    """Which files of a folder are read."""
    secrets: SecretValues = DEFAULT_SECRETS
    """How values are shown."""
    max_path_length: int = MAX_PATH_CHARACTERS
    """Characters of a path that `normalise` looks at; the rest is cut off."""
    max_host_length: int = MAX_HOST_CHARACTERS
    """Characters of a host that `normalise` looks at."""
    ipv6_prefix: int = IPV6_PREFIX
    """Bits of an IPv6 address that `normalise` looks at."""


def goes_into_debt(bucket: Bucket) -> bool:
    """Return whether hits that do not pass make later ones wait longer, for as long as they are owed."""
    return isinstance(bucket, TokenBucket | SlidingWindow) and bucket.charge_rejected


def share_of(bucket: Bucket, replicas: int) -> Bucket:
    """Return one of `replicas` equal parts of `bucket`, rounded up."""
    if isinstance(bucket, TokenBucket):
        capacity, refill = -(-bucket.capacity // replicas), -(-bucket.refill_tokens // replicas)
        return replace(bucket, capacity=capacity, refill_tokens=refill)
    return replace(bucket, limit=-(-bucket.limit // replicas))


def build_bucket(
    requests: int,
    window_seconds: int,
    algorithm: Algorithm,
    *,
    burst: int | None = None,
    charge_rejected: bool | None = None,
    calendar_months: int = 0,
) -> RateBucket:
    """The bucket of a limit. Raises ValueError out of range.

    With `calendar_months` other than 0 the bucket is a calendar window; the algorithm is not looked at.
    """
    window_us = window_seconds * SECOND_US
    if calendar_months:
        return CalendarWindow(requests, calendar_months, charge_rejected is not False)
    # Nothing refills a bucket of 0; a window of 0 refuses just the same and has an end to name.
    if algorithm is Algorithm.FIXED_WINDOW or requests == 0:
        charge = True if charge_rejected is None else charge_rejected
        return FixedWindow(requests, window_us, charge)
    if algorithm is Algorithm.SLIDING_WINDOW:
        return SlidingWindow(requests, window_us, bool(charge_rejected))
    capacity = requests if burst is None else burst
    return TokenBucket(capacity, requests, window_us, bool(charge_rejected))
