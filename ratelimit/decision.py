"""What a request comes to: the rules found for it, and the answer."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from ratelimit.request import BadInput, Descriptor, LimitRequest
from ratelimit.rules import CompiledLimits, LimitRule, Priority
from ratelimit.stats import Counts
from ratelimit.stores.store import Take
from ratelimit.unmatched import UnmatchedShape

MAX_MEMOS: Final = 16
"""The most encodings kept for plans with the same rules: there are about as many outcomes as descriptors."""


class DescriptorStatus(NamedTuple):
    """What became of one descriptor."""

    over_limit: bool
    rule: LimitRule | None
    """None: none matched, or it was replaced."""
    remaining: int
    reset_seconds: int
    """Until the limit is restored, rounded up."""
    retry_after_seconds: int
    """Until the same request would pass, rounded up; 0 when it passed. For a request that exceeds the whole
    limit it is the time until the limit is restored, at least 1."""
    shadowed: bool = False
    """Over the limit, but let pass by the rule's shadow mode."""
    known: bool = True
    """False: the store was away and the rule did not count by itself."""

    @property
    def current(self) -> LimitRule | None:
        """The rule whose limit is shown to the caller: None where what remains of it is unknown."""
        rule = self.rule
        return None if rule is None or rule.bucket is None or not self.known else rule


BANNED: Final = "banned"
"""The `failure` of a decision that refuses a banned key."""

UNMATCHED: Final = DescriptorStatus(False, None, 0, 0, 0)


class Charge(NamedTuple):
    """A descriptor that is charged."""

    position: int
    """In the request."""
    rule: LimitRule
    hits: int
    counts: Counts
    near: int
    """Hits in use from which the limit is near."""
    size: int
    """The limit."""


class Told(NamedTuple):
    """The metadata of an outcome."""

    encoded: bytes
    remaining_below: int
    """The number of hits left from which they are not told."""


class Memos:
    """Encodings that depend on an outcome alone, for plans with the same rules."""

    __slots__ = ("_encoded",)

    def __init__(self) -> None:
        self._encoded: dict[object, Told] = {}

    def get(self, outcome: object) -> Told | None:
        """What was put under `outcome`, or None."""
        return self._encoded.get(outcome)

    def put(self, outcome: object, told: Told) -> None:
        """Keep `told` under `outcome`, while there is room."""
        if len(self._encoded) < MAX_MEMOS:
            self._encoded[outcome] = told


class LimitPlan(NamedTuple):
    """A request whose rules are found. Holds for one configuration; may be decided any number of times."""

    request: LimitRequest
    limits: CompiledLimits
    statuses: Sequence[DescriptorStatus]
    """One for each descriptor; those of `charges` to be replaced."""
    charges: Sequence[Charge] = ()
    takes: Sequence[Take] = ()
    """One for each charge."""
    unlimited: Sequence[tuple[Counts, int]] = ()
    """The counters and hits of unlimited rules."""
    unknown_domain: bool = False
    unmatched: Sequence[tuple[UnmatchedShape, Descriptor | None]] = ()
    """Descriptors without a rule, and None for an unknown domain, each with what counts it."""
    odd: Sequence[BadInput] = ()
    """What is odd about the request, for the metric."""
    has_metadata: bool = False
    """Whether any of its rules has metadata to hand on."""
    memos: Memos | None = None
    """Shared by all plans that differ only in the values that are counted; None for a plan of its own."""
    is_noted: bool = False
    """Whether any of its rules limits concurrency or bans, and so notes decisions."""

    @property
    def is_urgent(self) -> bool:
        """Whether any of its rules has high priority, or it gives something back, such as a slot."""
        if any(charge.hits < 0 for charge in self.charges):
            return True
        rules = [charge.rule for charge in self.charges]
        rules += [status.rule for status in self.statuses if status.rule is not None]
        return any(rule.priority is Priority.HIGH for rule in rules)


class LimitDecision(NamedTuple):
    """The answer to one call."""

    over_limit: bool
    statuses: Sequence[DescriptorStatus]
    """One for each descriptor, in their order."""
    plan: LimitPlan
    failure: str = ""
    """Why the store gave no answer, or BANNED; empty when it did, or was not needed."""
    shadowed: bool = False
    """Whether a shadow mode, of a rule or of all, let pass what else would not have."""
    quota_mode: bool = False
    """Whether every limit is a quota."""

    @property
    def closest(self) -> DescriptorStatus | None:
        """The status that headers show: the choice of envoyproxy/ratelimit.

        The last limit that is over, a quota excepted; else the one closest to its limit, the first of equals.
        None when no rule matched.
        """
        closest: DescriptorStatus | None = None
        for status in self.statuses:
            rule = status.rule
            if rule is None:
                continue
            refuses = status.over_limit and not (self.quota_mode or rule.quota_mode)
            if closest is None or refuses or status.remaining < closest.remaining:
                closest = status
        return closest

    @property
    def deciding(self) -> DescriptorStatus | None:
        """The status to explain the answer by: `closest`, unless quotas refuse and it is not one of them."""
        closest = self.closest
        if not self.over_limit or closest is None or closest.over_limit:
            return closest
        return next((status for status in self.statuses if status.over_limit), closest)

    @property
    def reason(self) -> str:
        """What else there is to say: `failure`, or `shadow_mode`, or nothing."""
        return self.failure or ("shadow_mode" if self.shadowed else "")

    @property
    def retry_after_seconds(self) -> int:
        """When the same request could pass: the longest wait of those over their limit."""
        return max([status.retry_after_seconds for status in self.statuses])
