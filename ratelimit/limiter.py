"""May they, how often still, and from when on: a request to a decision.

The order of envoyproxy/ratelimit (src/service/ratelimit.go): find each descriptor's rule, drop replaced
ones, charge the others (`ratelimit.stores.take_all`), then join the codes. Finding depends on the request and
the configuration alone, so it is a step of its own (`plan`) whose result may be kept and used again.
"""

from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Final

from common.buckets import SECOND_US, FixedWindow, Taken
from ratelimit.bad_input import DEFAULT_BOUNDS, Bounds
from ratelimit.bans import Bans
from ratelimit.decision import BANNED, Charge, DescriptorStatus, LimitDecision, LimitPlan
from ratelimit.deny_cache import DenyCache
from ratelimit.hot_keys import HotKeys
from ratelimit.in_flight import InFlight
from ratelimit.leases.leases import Leases, StoreRequest
from ratelimit.plan import Modes, make_plan, near_limit
from ratelimit.replaced import ReplacedLimits
from ratelimit.request import LimitRequest
from ratelimit.rules import CompiledLimits, LimitRule, OnFailure, share_of
from ratelimit.shapes import Shapes
from ratelimit.stats import CountedRules, Stats
from ratelimit.stores.detached import DetachedTakes
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.store import NOT_TAKEN, CallbackStore, Failure, Result, Store, StoreError, Take
from ratelimit.stores.take_all import is_refused
from ratelimit.token_budgets import TokenBudgets
from ratelimit.wire import read_request

_new: Final = tuple.__new__
"""Makes a named tuple of all its fields, for half of what its own constructor costs."""

MAX_RECENT: Final = 512
"""Plans of the latest requests, for limits that do not depend on the caller: their requests are all alike."""

MAX_RECENT_BYTES: Final = 512
"""The longest request whose plan is kept: it names a client, most likely, and does not come again soon."""

NO_ROOM: Final = FixedWindow(0, SECOND_US, charge_rejected=False)
"""For rules that do not count in this process: refuses hits, lets refunds pass, and keeps no state."""


class Limiter:
    """Decides requests by `limits` (replaced as a whole by `use`), counting in `store`.

    While the store fails each rule answers as its `on_failure` says; `local` counts in `fallback`.
    `near_limit_ratio` is where the metric near_limit begins; `shadow_mode` lets every request pass;
    `quota_mode` makes a quota of every limit: a request is refused only if all of its limits are over.
    `deny_cache` remembers refusals of `store`, which is asked only about requests that may pass; a definite
    refusal also wins while the store is away.
    `replicas` tells how many sidecars share `store`: the part of a limit that `local` grants. Without it that
    is what the configuration says.
    `note_unmatched` is called with each plan that has `unmatched`.
    `bounds` is what a request may hold at most.
    `leases` answer requests for the hot keys of rules with `lease`; `store` is asked about the others.
    `spare_others`: fixed windows and debts of a refused request are charged only if they are over.
    """

    def __init__(
        self,
        limits: CompiledLimits,
        store: Store,
        fallback: MemoryStore,
        stats: Stats,
        *,
        near_limit_ratio: float = 0.8,
        shadow_mode: bool = False,
        quota_mode: bool = False,
        spare_others: bool = False,
        deny_cache: DenyCache | None = None,
        note_unmatched: Callable[[LimitPlan], None] = lambda _: None,
        bounds: Bounds = DEFAULT_BOUNDS,
        replicas: Callable[[], int] | None = None,
        hot_keys: HotKeys | None = None,
        in_flight: InFlight | None = None,
        bans: Bans | None = None,
        leases: Leases | None = None,
    ) -> None:
        self.stats = stats
        self.hot_keys = hot_keys or HotKeys(0, lambda: 0.0)
        """The keys asked for most often."""
        self.in_flight = in_flight or InFlight(stats, lambda: 0.0)
        """The requests that hold slots of concurrency limits."""
        self.bans = bans or Bans(lambda: 0.0, DetachedTakes(store, fallback))
        """The keys that are refused without counting."""
        self.bans.forget = self.forget
        self.deny_cache = deny_cache
        self.leases = leases
        """The leases, whether or not a rule has some."""
        self.budgets = TokenBudgets()
        """The descriptors whose hits are charges after the fact; a plan holds while their number stays."""
        self._note_unmatched = note_unmatched
        self.store = store
        """Where buckets are kept."""
        self._callback_store = store if isinstance(store, CallbackStore) else None
        self._fallback = fallback
        self._replicas = replicas
        self._modes = Modes(near_limit_ratio, shadow_mode, quota_mode, spare_others, bounds)
        self._limits = limits
        self._shapes = Shapes(limits, self.plan, bounds.max_key_length)
        self._recent: dict[bytes, LimitPlan] = {}
        self.use(limits)

    @property
    def limits(self) -> CompiledLimits:
        """The configuration in service."""
        return self._limits

    def use(self, limits: CompiledLimits, counted: CountedRules | None = None) -> ReplacedLimits:
        """Decide by `limits` from now on, and return what they replace; `counted` is that of `stats`.

        Buckets of unchanged windows keep what is counted.
        """
        replaced = ReplacedLimits(self._limits, self._shapes, self._recent)
        self.stats.keep_rules((rule.path for rule in limits.rules), counted)
        self.stats.loads += 1
        self.stats.unmatched.speak_again()
        self._limits = limits
        self.has_urgent = limits.may_be_urgent
        """Whether any request may be urgent (`LimitPlan.is_urgent`)."""
        self._shapes = Shapes(limits, self.plan, self._modes.bounds.max_key_length)
        self._recent = {}
        self._latest: set[bytes] = set()
        """Messages that came once lately."""
        if self.deny_cache is not None:
            self.deny_cache.clear()
        if self.leases is not None:
            self.leases.end()
        self._leases = self.leases if limits.has_leases else None
        return replaced

    def forget(self, key: str) -> None:
        """Drop what is known here of a key whose limit was given back: the store is asked about it next."""
        if self.deny_cache is not None:
            self.deny_cache.forget(key)
        if self.leases is not None:
            self.leases.drop(key)

    def plan(self, request: LimitRequest) -> LimitPlan:
        """The rules for `request` by the configuration in service. Charges nothing.

        Raises RequestError for what cannot be asked and UnconfiguredError while nothing is configured.
        """
        return make_plan(request, self._limits, self.stats, self._modes, self.budgets)

    def plan_message(self, message: bytes) -> LimitPlan:
        """As `plan`, for a RateLimitRequest. Raises DecodeError for other bytes, too."""
        plan = self._recent.get(message)
        if plan is None:
            budgets = len(self.budgets)
            plan = self._shapes.plan(message) or self.plan(read_request(message))
            if len(self.budgets) != budgets:
                self._recent.clear()
            if len(message) <= MAX_RECENT_BYTES:
                self._remember(message, plan)
        return plan

    def _remember(self, message: bytes, plan: LimitPlan) -> None:
        """Keep `plan` if `message` has come before: those of many callers would only displace each other."""
        latest, plans = self._latest, self._recent
        if message not in latest:
            if len(latest) >= MAX_RECENT:
                latest.clear()
            latest.add(message)
            return
        if len(plans) >= MAX_RECENT:
            plans.clear()
        plans[message] = plan

    def decide(
        self, plan: LimitPlan, budget_seconds: float | None = None
    ) -> LimitDecision | Awaitable[LimitDecision]:
        """The decision: at once, or an awaitable where a shared store must be asked.

        `budget_seconds` is how long the caller can wait. A store that is away is not an error.
        """
        return self.answer(plan, _itself, budget_seconds)

    def answer(
        self, plan: LimitPlan, finish: Callable[[LimitDecision], Result], budget_seconds: float | None = None
    ) -> Result | Awaitable[Result]:
        """What `finish` makes of the decision: as `decide`, in fewer steps where a store must be asked."""
        stats = self.stats
        stats.requests += 1
        if stats.requests >= self.hot_keys.next_request:
            finish = self.hot_keys.noting(stats.requests, finish)
        if plan.is_noted:
            finish = self.in_flight.noting(self.bans.noting(finish))
        for reason in plan.odd:
            stats.bad_input[reason] += 1
        if plan.unmatched:
            for shape, _ in plan.unmatched:
                shape.count += 1
            self._note_unmatched(plan)
        if plan.unknown_domain:
            stats.domain_not_found(plan.request.domain, len(plan.statuses))
        for counts, hits in plan.unlimited:
            counts.arrived(hits)
            counts.within_limit += max(0, hits)
        charges = plan.charges
        if not charges:
            return finish(self._decision(plan, plan.statuses))
        for _, _, hits, counts, _, _ in charges:
            if hits >= 0:
                counts.total_hits += hits
            else:
                counts.total_negative_hits -= hits
        if self.bans.active:
            banned = self.bans.refusal(plan)
            if banned is not None:
                return finish(self._decision(plan, banned, BANNED, over=True))
        leases = self._leases
        if leases is not None:
            leased = leases.take(plan.takes)
            if leased is not None:
                return finish(self._counted(plan, leased))
        deny_cache, asked_at = self.deny_cache, 0.0
        if deny_cache is not None:
            denied = deny_cache.refuse(plan.takes)
            if denied is not None:
                return finish(self._denied(plan, denied))
            asked_at = deny_cache.clock()
        store_request = None if leases is None else leases.store_request(plan.takes, plan.charges)
        takes = plan.takes if store_request is None else store_request.takes
        try:
            if self._callback_store is not None:
                return self._callback_store.take_then(
                    takes,
                    budget_seconds,
                    lambda outcome: finish(self._answered(plan, outcome, asked_at, store_request)),
                )
            taken = self.store.take(takes, budget_seconds)
        except StoreError as error:
            return finish(self._answered(plan, error, asked_at, store_request))
        if isinstance(taken, list):
            return finish(
                self._counted(plan, taken)
                if store_request is None
                else self._answered(plan, taken, asked_at, store_request)
            )
        return self._wait(plan, taken, asked_at, store_request, finish)

    async def _wait(
        self,
        plan: LimitPlan,
        answer: Awaitable[list[Taken]],
        asked_at: float,
        store_request: StoreRequest | None,
        finish: Callable[[LimitDecision], Result],
    ) -> Result:
        try:
            outcome: list[Taken] | StoreError = await answer
        except StoreError as error:
            outcome = error
        return finish(self._answered(plan, outcome, asked_at, store_request))

    def _answered(
        self,
        plan: LimitPlan,
        outcome: list[Taken] | StoreError,
        asked_at: float,
        store_request: StoreRequest | None,
    ) -> LimitDecision:
        most_seconds = inf
        if store_request is not None and self.leases is not None:
            outcome = self.leases.settle(store_request, plan.takes, outcome)
            most_seconds = self.leases.seconds  # until then, tokens come back that others have leased
        if isinstance(outcome, StoreError):
            return self._without_store(plan, outcome.failure)
        if self.deny_cache is not None and plan.limits is self._limits:
            self.deny_cache.note(plan.takes, outcome, asked_at, most_seconds)
        return self._counted(plan, outcome)

    def _denied(self, plan: LimitPlan, taken: Sequence[Taken]) -> LimitDecision:
        """Return the refusal by the deny cache."""
        if len(plan.statuses) == 1:
            charge = plan.charges[0]
            charge.counts.over_limit_with_local_cache += charge.hits
            status = _status(charge, taken[0])
            return self._decision(plan, (status,), over=status.over_limit)
        statuses = list(plan.statuses)
        for charge, outcome in zip(plan.charges, taken, strict=True):
            if outcome is NOT_TAKEN:
                statuses[charge.position] = DescriptorStatus(False, charge.rule, 0, 0, 0, known=False)
            else:
                charge.counts.over_limit_with_local_cache += charge.hits
                statuses[charge.position] = _status(charge, outcome)
        return self._decision(plan, statuses)

    def _counted(self, plan: LimitPlan, taken: Sequence[Taken]) -> LimitDecision:
        if len(plan.statuses) == 1:
            status = _status(plan.charges[0], taken[0])
            return self._decision(plan, (status,), over=status.over_limit)
        statuses = list(plan.statuses)
        if False not in [outcome[0] for outcome in taken]:
            for charge, outcome in zip(plan.charges, taken, strict=True):
                statuses[charge[0]] = _status(charge, outcome)
            return _new(LimitDecision, (False, statuses, plan, "", False, self._modes.quota_mode))
        refused = len(taken) > 1 and is_refused(zip(plan.takes, taken, strict=True))
        for charge, take, outcome in zip(plan.charges, plan.takes, taken, strict=True):
            if outcome is NOT_TAKEN:
                statuses[charge.position] = DescriptorStatus(False, charge.rule, 0, 0, 0, known=False)
            elif refused and outcome.allowed and not take.charges_in_refused(allowed=True):
                reset_seconds = -(-outcome.reset_us // SECOND_US)
                statuses[charge.position] = DescriptorStatus(
                    False, charge.rule, outcome.remaining, reset_seconds, 0
                )
            else:
                statuses[charge.position] = _status(charge, outcome)
        return self._decision(plan, statuses)

    def _without_store(self, plan: LimitPlan, failure: Failure) -> LimitDecision:
        self.stats.errors["redis_error"] += 1
        replicas = self._limits.options.replicas if self._replicas is None else self._replicas()
        takes = [
            _fallback_take(charge.rule, take, replicas)
            for charge, take in zip(plan.charges, plan.takes, strict=True)
        ]
        statuses = list(plan.statuses)
        for charge, take, taken in zip(plan.charges, takes, self._fallback.take(takes), strict=True):
            rule = charge.rule
            self.stats.failure_answers[rule.on_failure.value] += 1
            if take.bucket is not NO_ROOM:
                size = take.bucket.size
                near = near_limit(size, self._modes.near_limit_ratio)
                status = _status(charge._replace(size=size, near=near), taken)
            else:
                over = not taken.allowed and not rule.shadow_mode
                status = DescriptorStatus(over, rule, 0, 0, 0, known=False)
            statuses[charge.position] = status
        return self._decision(plan, statuses, str(failure))

    def _decision(
        self,
        plan: LimitPlan,
        statuses: Sequence[DescriptorStatus],
        failure: str = "",
        *,
        over: bool | None = None,
    ) -> LimitDecision:
        if over is None:
            over = self._is_over(statuses)
        shadowed = True in [status.shadowed for status in statuses]
        modes = self._modes
        if over and modes.shadow_mode:
            self.stats.global_shadow_mode += 1
            over, shadowed = False, True
        return _new(LimitDecision, (over, statuses, plan, failure, shadowed, modes.quota_mode))

    def _is_over(self, statuses: Sequence[DescriptorStatus]) -> bool:
        """The overall code: a limit is over, or there are quotas and all are over.

        Where every limit is a quota, a descriptor without a limit is one that is never used up.
        """
        quotas = quotas_over = 0
        for status in statuses:
            rule = status.rule
            if rule is None or rule.bucket is None:
                quotas += rule is None and self._modes.quota_mode
            elif self._modes.quota_mode or rule.quota_mode:
                quotas += 1
                quotas_over += status.over_limit
            elif status.over_limit:
                return True
        return 0 < quotas == quotas_over


def _itself(decision: LimitDecision) -> LimitDecision:
    return decision


def _fallback_take(rule: LimitRule, take: Take, replicas: int) -> Take:
    """Return what to take from the buckets of this process while the store is away."""
    if rule.on_failure is OnFailure.LOCAL:
        return take._replace(bucket=share_of(take.bucket, replicas))
    passes = rule.on_failure is OnFailure.OPEN or take.hits < 0
    return Take("", NO_ROOM, -1 if passes else 1, take.mode)


def _status(charge: Charge, taken: Taken) -> DescriptorStatus:
    """What became of a descriptor that was charged; counts it."""
    _, rule, hits, counts, near, size = charge
    allowed, remaining, reset_us, retry_after_us, used_before = taken
    if hits >= 0:
        if allowed and used_before + hits <= near:
            counts.within_limit += hits
        else:
            counts.decided(used_before, hits, allowed, size, near)
    reset_seconds = -(-reset_us // SECOND_US)
    if allowed:
        return _new(DescriptorStatus, (False, rule, remaining, reset_seconds, 0, False, True))
    if rule.shadow_mode:
        counts.shadow_mode += min(hits, used_before + hits - size)
        return DescriptorStatus(False, rule, remaining, reset_seconds, 0, shadowed=True)
    # A request that exceeds the whole limit never passes; its client waits a second all the same.
    retry_seconds = -(-retry_after_us // SECOND_US) or 1
    return _new(DescriptorStatus, (True, rule, remaining, reset_seconds, retry_seconds, False, True))
