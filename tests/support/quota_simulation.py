"""A discrete simulation of Envoys that are assigned quotas: token buckets, reports and lost connections.

An Envoy behaves as Envoy 1.40 does: its bucket keeps its fill level, as a fraction, when its size changes,
ignores a change of the interval alone, and begins full after a blanket rule or an expiry. Without an
assignment it refuses, so that everything it admits was assigned.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.configfile import Document
from ratelimit.config import compile_limits
from ratelimit.quota.assignment import Action, Assign, TokenQuota
from ratelimit.quota.limit import Blanket, BucketId
from ratelimit.quota.quotas import QuotaBounds, Quotas, Report, Subscriber, Usage
from ratelimit.rules import CompiledLimits, Options

DOMAIN = "edge"
BUCKET = {"route": "login"}
BOUNDS = QuotaBounds()
TICK_SECONDS = 0.05
REPORT_TICKS = 100
"""Five seconds, as Envoy 1.40 reports."""

MOST_DELAY_TICKS = 19
"""A message is on its way for less than a second."""


def limits_of(*descriptors: Mapping[str, object], domain: str = DOMAIN) -> CompiledLimits:
    """Return the compiled limits of one file."""
    data = {"domain": domain, "descriptors": list(map(dict, descriptors))}
    return compile_limits([Document("limits.yaml", data, None)], Options(), "1")


def login_limit(per_second: float, burst: int) -> CompiledLimits:
    """Return a token bucket for BUCKET."""
    limit = {"requests_per_unit": round(per_second * 60), "unit": "minute", "burst": burst}
    return limits_of({"key": "route", "value": "login", "rate_limit": limit})


def refresh(quotas: Quotas, limits: CompiledLimits) -> None:
    """Let `quotas` divide these limits."""
    for _ in quotas.refresh(limits):
        pass


def serve_waiting(quotas: Quotas) -> None:
    """Let `quotas` assign to Envoys that wait."""
    for _ in quotas.serve_waiting():
        pass


class Clock:
    """Time that the simulation moves."""

    def __init__(self) -> None:
        self.ticks = 0

    def __call__(self) -> float:
        return self.ticks * TICK_SECONDS


@dataclass(eq=False)
class SimulatedEnvoy:
    """One Envoy with one bucket."""

    clock: Clock
    phase: int
    """The tick of its first report, and of each one after REPORT_TICKS."""
    delay: int = 0
    """Ticks that a message is on its way to it."""
    demand: float = 0.0
    """Requests a second."""
    admitted: int = 0
    refused: int = 0
    strategy: TokenQuota | Blanket | None = None
    level: float = 0.0
    filled_at: float = 0.0
    expires_at: float = 0.0
    subscriber: Subscriber | None = None
    started: bool = False
    allowed: int = 0
    denied: int = 0
    underway: deque[tuple[int, Action]] = field(default_factory=deque)
    waiting: float = 0.0

    def deliver(self, _bucket_id: BucketId, action: Action) -> None:
        """Take a message that arrives later."""
        self.underway.append((self.clock.ticks + self.delay, action))

    def connect(self, quotas: Quotas) -> None:
        """Open a stream; the bucket is reported as soon as it has a request."""
        self.subscriber = Subscriber(self.deliver)
        quotas.open(self.subscriber)

    def disconnect(self, quotas: Quotas | None) -> None:
        """Lose the stream, with what is under way; None: the sidecar is gone."""
        if self.subscriber is not None and quotas is not None:
            quotas.close(self.subscriber)
        self.subscriber = None
        self.underway.clear()
        self.allowed = self.denied = 0

    def step(self, quotas: Quotas) -> int:
        """Do what one tick brings. Returns how many requests were admitted."""
        now = self.clock()
        while self.underway and self.underway[0][0] <= self.clock.ticks:
            self._apply(self.underway.popleft()[1], now)
        self.waiting += self.demand * TICK_SECONDS
        admitted = 0
        while self.waiting >= 1:
            self.waiting -= 1
            passes = self._admits(now)
            admitted += passes
            self.allowed, self.denied = self.allowed + passes, self.denied + (not passes)
            self._report_if(quotas, due=not self.started)
        self._report_if(quotas, due=self.started and self.clock.ticks % REPORT_TICKS == self.phase)
        self.admitted += admitted
        return admitted

    def _report_if(self, quotas: Quotas, *, due: bool) -> None:
        if due and self.subscriber is not None:
            self.started = True
            usage = Usage(BUCKET, self.allowed, self.denied)
            self.allowed = self.denied = 0
            quotas.report(self.subscriber, Report(DOMAIN, [usage]))

    def _admits(self, now: float) -> bool:
        if now >= self.expires_at or self.strategy is None:
            return False
        if isinstance(self.strategy, Blanket):
            return self.strategy is Blanket.ALLOW_ALL
        self._fill(self.strategy, now)
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def _fill(self, quota: TokenQuota, now: float) -> None:
        self.level = min(quota.max_tokens, self.level + (now - self.filled_at) * quota.rate)
        self.filled_at = now

    def _apply(self, action: Action, now: float) -> None:
        if not isinstance(action, Assign):
            self.strategy, self.started = None, False
            return
        before, new = self.strategy, action.strategy
        if isinstance(new, TokenQuota):
            if not isinstance(before, TokenQuota) or now >= self.expires_at:
                self.level, self.filled_at = new.max_tokens, now
            elif before[:2] != new[:2]:
                self._fill(before, now)
                self.level *= new.max_tokens / before.max_tokens
            else:
                new = before
        self.strategy = new
        self.expires_at = now + action.seconds


class Conformance:
    """Checks that in any time t at most `burst + rate * t` requests are admitted."""

    def __init__(self) -> None:
        self.level = 0.0

    def admitted(self, requests: int, rate: float, burst: float) -> None:
        """Check one tick."""
        self.level = max(0.0, self.level - rate * TICK_SECONDS) + requests
        assert self.level <= burst + rate * TICK_SECONDS + 1e-6, f"{self.level} above {burst}"
