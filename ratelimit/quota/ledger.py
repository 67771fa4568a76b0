"""What of a limit is assigned: the sum that no division among Envoys may exceed.

Two things are handed out. The rates of all assignments that may be in force are never more than the rate of
the limit. The tokens that an assignment lets an Envoy admit at once are paid from `spare`, which is refilled
by the part of the rate that is not assigned, as long as it and the tokens of all assignments are less than
the burst of the limit. So in any time t all Envoys admit at most `burst + rate * t`: reports
only decide who gets which part.

An assignment may be in force until its time to live has passed, or its successor was applied. The
protocol has no acknowledgement, so a smaller successor counts as applied when its Envoy reports
DELIVERY_SECONDS after it was sent. Envoy 1.40 keeps the fill level of its bucket, as a fraction, when the
size changes: a larger bucket costs the difference, and a smaller one nothing. After an expired assignment or
a blanket rule the bucket begins full.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

from ratelimit.quota.assignment import LOWEST_RATE, Assign, Strategy, TokenQuota, token_quota
from ratelimit.quota.limit import Blanket, QuotaLimit
from ratelimit.quota.shares import fair_shares

REPORT_SECONDS: Final = 5.0
"""Between two reports of Envoy 1.40, regardless of `reporting_interval`."""

DELIVERY_SECONDS: Final = 1.0
"""The longest that a message is on its way to an Envoy that still reports."""

RESERVE: Final = 0.05
"""The part of the rate that is left to refill `spare`, from which newcomers are paid."""

BURST_PART: Final = 0.5
"""The part of an Envoy's share of the burst that it gets at most; the rest is for newcomers."""

NOTABLE: Final = 0.2
"""A share must differ by this part of what is assigned to be worth a message."""

_NEVER: Final = -inf


@dataclass(slots=True, eq=False)
class Holding:
    """What one Envoy was assigned for one of its buckets."""

    demand: float = inf
    """Requests a second, allowed or not; `inf` until it is known."""
    strategy: Strategy | None = None
    sent_at: float = _NEVER
    until: float = _NEVER
    """When what was sent last is surely no longer in force."""
    former_rate: float = 0.0
    """The rate of a larger assignment that may still be in force instead."""
    former_burst: int = 0
    """The tokens of such an assignment."""
    former_until: float = _NEVER

    @property
    def rate(self) -> float:
        """The rate of what was sent last."""
        return self.strategy.rate if isinstance(self.strategy, TokenQuota) else 0.0

    @property
    def burst(self) -> int:
        """The tokens of what was sent last."""
        return self.strategy.max_tokens if isinstance(self.strategy, TokenQuota) else 0

    def rate_at(self, now: float) -> float:
        """The largest rate that may be in force."""
        rate = self.rate if now < self.until else 0.0
        return max(rate, self.former_rate) if now < self.former_until else rate

    def burst_at(self, now: float) -> int:
        """The most tokens that the bucket of the Envoy may have."""
        burst = self.burst if now < self.until else 0
        return max(burst, self.former_burst) if now < self.former_until else burst

    def settle(self, now: float) -> None:
        """A report came: what was sent before is applied."""
        if now >= self.sent_at + DELIVERY_SECONDS:
            self.former_until = _NEVER

    def sent(self, strategy: Strategy, now: float, seconds: float) -> None:
        """`strategy` was sent for so many seconds, instead of what is in force."""
        if strategy != self.strategy:
            self.former_rate, self.former_burst = self.rate_at(now), self.burst_at(now)
            self.former_until = max(self.until, self.former_until)
        self.strategy = strategy
        self.sent_at, self.until = now, now + seconds + DELIVERY_SECONDS

    def is_surely_in_force(self, now: float, seconds: float) -> bool:
        """Whether a message sent now arrives before what was sent last for `seconds` expires."""
        return now <= self.sent_at + seconds - DELIVERY_SECONDS

    def is_due(self, now: float, seconds: float) -> bool:
        """Whether the next report may be too late to renew what was sent last for `seconds`."""
        return not self.is_surely_in_force(now + REPORT_SECONDS + DELIVERY_SECONDS, seconds)


class Ledger:
    """The assignments of one limit, for one set of values. Times are seconds of a clock that never steps.

    `seconds` is the time to live of assignments.
    """

    def __init__(self, limit: QuotaLimit, now: float, seconds: int) -> None:
        self.limit = limit
        self.spare = float(limit.burst)
        """Tokens that new assignments can be given; below 0 after the limit was lowered."""
        self.holdings: dict[Holding, None] = {}
        self._gone: list[Holding] = []
        """The holdings of Envoys that are away, and may still use what they were assigned."""
        self._seconds = seconds
        self._at = now
        self._in_force = 0.0
        """The sum of the rates that may be in force, while assignments are made."""

    def join(self, holding: Holding, now: float) -> None:
        """Count what an Envoy has, and will be assigned, of this limit."""
        self.spare -= holding.burst_at(now)
        self.holdings[holding] = None

    def leave(self, holding: Holding, now: float, *, may_use: bool = True) -> None:
        """The Envoy is away. If it `may_use` what it has, that counts until it expires."""
        self.advance(now)
        del self.holdings[holding]
        if may_use and holding.rate_at(now) > 0:
            self._gone.append(holding)

    def forgotten(self, holding: Holding, now: float) -> None:
        """An Envoy that was told to abandon its bucket has surely done so."""
        self.advance(now)
        holding.until = holding.former_until = _NEVER

    def reported(self, holding: Holding, reported_at: float, now: float) -> None:
        """A report of the Envoy came at `reported_at`. What was in force until now counts first."""
        self.advance(now)
        holding.settle(reported_at)

    def advance(self, now: float) -> None:
        """Refill what is spare."""
        if now <= self._at:
            return
        # What expired since then counts to the end: nothing is refilled too early.
        refilled = self.spare + (now - self._at) * (self.limit.rate - self.rate_at(self._at))
        self.spare = min(refilled, self.limit.burst - self.burst_at(self._at))
        self._at = now
        self._gone = [holding for holding in self._gone if holding.rate_at(now) > 0]

    def rate_at(self, now: float) -> float:
        """The sum of the rates that may be in force."""
        return sum([holding.rate_at(now) for holding in (*self.holdings, *self._gone)])

    def burst_at(self, now: float) -> int:
        """The sum of the tokens that the buckets of all Envoys may have."""
        return sum([holding.burst_at(now) for holding in (*self.holdings, *self._gone)])

    def resize(self, limit: QuotaLimit, now: float) -> bool:
        """Divide another limit from now on; what was used stays used. Returns whether it differs."""
        if limit == self.limit:
            return False
        self.advance(now)
        self.spare += limit.burst - self.limit.burst
        self.limit = limit
        return True

    def is_unused(self, now: float) -> bool:
        """Whether it is as a new ledger would be."""
        self.advance(now)
        return not self.holdings and not self._gone and self.spare >= self.limit.burst

    def assign(self, holdings: Iterable[Holding], now: float) -> list[tuple[Holding, Assign]]:
        """What to send to these Envoys now; nothing to one whose assignment is good and not about to expire.

        What is taken from one is given to others only when it is surely no longer in force.
        """
        self.advance(now)
        usable = self.limit.rate * (1 - RESERVE)
        left = max(0.0, usable - sum([holding.rate_at(now) for holding in self._gone]))
        shares = fair_shares(left, [holding.demand for holding in self.holdings])
        share_of = dict(zip(map(id, self.holdings), shares, strict=True))
        self._in_force = self.rate_at(now)
        return [
            (holding, Assign(strategy, self._seconds))
            for holding in holdings
            if (strategy := self._assigned(holding, share_of[id(holding)], now)) is not None
        ]

    def _assigned(self, holding: Holding, share: float, now: float) -> Strategy | None:
        """What to send, already accounted for; None: nothing."""
        before = holding.strategy
        if isinstance(before, TokenQuota) and holding.is_surely_in_force(now, self._seconds):
            strategy: Strategy | None = self._changed(holding, before, share, now)
        else:
            strategy = self._first(holding, share, now)
        if strategy is None or (strategy == before and not holding.is_due(now, self._seconds)):
            return None
        self._in_force -= holding.rate_at(now)
        holding.sent(strategy, now, self._seconds)
        self._in_force += holding.rate_at(now)
        return strategy

    def _first(self, holding: Holding, share: float, now: float) -> Strategy | None:
        """An assignment to an Envoy that may have none: its bucket begins full.

        None while Envoys that are away hold most of what it would get: if it is one of them, it still uses
        what it had, and less would replace that.
        """
        rate = min(share, self._room(holding, now, self.limit.rate))
        equal = self.limit.rate * (1 - RESERVE) / len(self.holdings)
        if self._gone and holding.strategy is None and rate < equal / 2:
            return None
        burst = min(self._burst(rate), int(max(0.0, self.spare)))
        if burst < 1 or rate < LOWEST_RATE:
            return Blanket.DENY_ALL
        self.spare -= burst
        return token_quota(rate, burst)

    def _changed(self, holding: Holding, before: TokenQuota, share: float, now: float) -> Strategy:
        """What follows an assignment that is in force: the same where little would change."""
        usable = self.limit.rate * (1 - RESERVE)
        rate = share if share <= before.rate else min(share, self._room(holding, now, usable))
        if rate < LOWEST_RATE:
            return Blanket.DENY_ALL
        burst = min(self._burst(rate), before.max_tokens + int(max(0.0, self.spare)))
        too_much = rate < before.rate and self._in_force > usable
        is_about_same = abs(rate - before.rate) <= NOTABLE * before.rate
        if is_about_same and not too_much and before.max_tokens / 2 <= burst < 2 * before.max_tokens:
            return before
        self.spare -= max(0, burst - before.max_tokens)
        return token_quota(rate, burst)

    def _room(self, holding: Holding, now: float, total: float) -> float:
        """The rate that this Envoy can have of `total` without exceeding it, and what it has already."""
        own = holding.rate_at(now)
        return max(own, total - self._in_force + own)

    def _burst(self, rate: float) -> int:
        return max(1, int(self.limit.burst * BURST_PART * min(1.0, rate / self.limit.rate)))
