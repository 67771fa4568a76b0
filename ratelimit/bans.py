"""Bans: a key that is refused again and again is refused without counting for a while.

Rejections are counted in the store, so sidecars that share one count together. A ban itself is kept in the
memory of each sidecar: a request that is not banned costs one look-up, and none while there are no bans.
`ratelimit.stores.ban_stream` tells the other sidecars.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from math import ceil
from typing import Any, Final, NamedTuple, Protocol

from common.buckets import MAX_HITS, SECOND_US, SlidingWindow, Taken
from protos.lenient import shown
from ratelimit.concurrency import lasting_entries
from ratelimit.decision import BANNED, Charge, DescriptorStatus, LimitDecision, LimitPlan
from ratelimit.map_reader import MapReader
from ratelimit.rules import BanRule, LimitRule
from ratelimit.stores.store import Mode, Result, Take

MAX_BANS: Final = 10_000
"""Keys, of about 0.5 KB each. A flood from more than that is a case for a firewall."""

MAX_BAN_SECONDS: Final = 7 * 86_400

MAX_CLOCK_SKEW_SECONDS: Final = 300.0
"""How far the clock of a sidecar that bans may be ahead. A ban that begins later comes from a wrong clock, or
from before the clock was set back, and would last too long."""

MAX_SHOWN_CHARACTERS: Final = 512
_KEYS: Final = ("after", "within", "for")


def read_ban(limit: MapReader) -> BanRule | None:
    """Return what `ban` of `limit` says, None without one; adds what is wrong to its problems."""
    ban = limit.map("ban")
    if ban is None or not ban.check(_KEYS):
        return None
    for key in ("after", "for"):
        if key not in ban.data:
            ban.problem(f"ban needs {key}")
    after = ban.number("after", 1, 1, 1_000_000)
    within = ban.seconds("within", 60, 86_400)
    return BanRule(SlidingWindow(after - 1, within * SECOND_US), ban.seconds("for", 60, MAX_BAN_SECONDS))


class Ban(NamedTuple):
    """A key that is banned."""

    key: str
    """Its bucket in the store."""
    until: float
    """Unix seconds."""
    since: float
    """Unix seconds."""
    rule: str
    descriptor: str
    """`key=value,key=value`; secrets as hashes."""

    @property
    def id(self) -> str:
        """A short name, for operators."""
        return blake2b(self.key.encode(), digest_size=6).hexdigest()

    def is_in_force(self, now: float) -> bool:
        """Return whether it refuses requests at `now`, in Unix seconds."""
        return self.since - MAX_CLOCK_SKEW_SECONDS <= now < self.until


class Listener(Protocol):
    """Is told what this process decides about bans."""

    def banned(self, ban: Ban) -> None:
        """A key was banned."""

    def lifted(self, key: str) -> None:
        """An operator lifted the ban of a key."""


class NoListener:
    """Is told, and tells no one."""

    def banned(self, ban: Ban) -> None:
        """Do nothing."""

    def lifted(self, key: str) -> None:
        """Do nothing."""


Ask = Callable[[Take, Callable[[Taken], None]], None]
"""Counts a rejection in the store and calls back with the outcome, perhaps later, perhaps never."""


@dataclass(slots=True)
class BanCounts:
    """What became of bans in this process."""

    imposed: dict[tuple[str, ...], int]
    """By path of the rule."""
    refused: int = 0
    """Requests that a ban refused."""
    lifted: int = 0
    evicted: int = 0
    """Bans that gave way to newer ones, because there were too many."""


class Bans:
    """The bans in force, at most `most`. `clock` is in Unix seconds; `ask` counts a rejection."""

    def __init__(
        self,
        clock: Callable[[], float],
        ask: Ask,
        most: int = MAX_BANS,
    ) -> None:
        self.active: dict[str, Ban] = {}
        """By key, the oldest first. May hold some that have ended; `sweep` removes them."""
        self.counts = BanCounts({})
        self.listener: Listener = NoListener()
        self.forget: Callable[[str], None] = lambda _: None
        """Is called with a key whose hits were given back: what else refuses it must no longer do so."""
        self._clock = clock
        self._ask = ask
        self._most = most

    def refusal(self, plan: LimitPlan) -> list[DescriptorStatus] | None:
        """Return the status of each descriptor if a key of the request is banned, else None.

        What is given back, and limits in shadow mode, are not refused. What a refused request gives back
        arrives all the same.
        """
        now = self._clock()
        statuses = list(plan.statuses)
        refused = False
        for charge, take in zip(plan.charges, plan.takes, strict=True):
            ban = self.active.get(take.key)
            if ban is not None and ban.is_in_force(now) and take.hits >= 0 and take.mode is not Mode.SHADOW:
                seconds = max(1, round(ban.until - now))
                statuses[charge.position] = DescriptorStatus(True, charge.rule, 0, seconds, seconds)
                charge.counts.over_limit += charge.hits
                refused = True
            else:
                statuses[charge.position] = DescriptorStatus(False, charge.rule, 0, 0, 0, known=False)
        if not refused:
            return None
        self.counts.refused += 1
        for take in plan.takes:
            if take.hits < 0:
                self.forget(take.key)
                self._ask(take, _ignore)
        return statuses

    def noting(self, finish: Callable[[LimitDecision], Result]) -> Callable[[LimitDecision], Result]:
        """Return `finish` that first counts what the limits of a decision refused."""

        def noted(decision: LimitDecision) -> Result:
            if decision.over_limit and decision.failure != BANNED:
                self._count(decision)
            return finish(decision)

        return noted

    def _count(self, decision: LimitDecision) -> None:
        plan = decision.plan
        for charge, take in zip(plan.charges, plan.takes, strict=True):
            rule, status = charge.rule, decision.statuses[charge.position]
            # Without an answer of the store, an outage would ban everyone.
            if rule.ban is None or take.hits < 0 or not (status.over_limit and status.known):
                continue
            strike = Take(_strikes(take.key), rule.ban.rejections, 1, Mode.SHADOW)
            self._ask(strike, partial(self.judge, plan, charge, take.key))

    def judge(self, plan: LimitPlan, charge: Charge, key: str, taken: Taken) -> None:
        """Ban `key` if this rejection was one too many."""
        ban = charge.rule.ban
        now = self._clock()
        known = self.active.get(key)
        if taken.allowed or ban is None or (known is not None and known.is_in_force(now)):
            return
        secrets = plan.limits.options.secrets
        entries = lasting_entries(charge.rule, plan.request.descriptors[charge.position].entries)
        text = shown(",".join(f"{name}={secrets.shown(name, value)}" for name, value in entries))
        imposed = Ban(key, now + ban.seconds, now, charge.rule.key, text[:MAX_SHOWN_CHARACTERS])
        path = charge.rule.path
        self.counts.imposed[path] = self.counts.imposed.get(path, 0) + 1
        self.add(imposed)
        self.listener.banned(imposed)

    def add(self, ban: Ban) -> None:
        """Put a ban into force, also one that another sidecar imposed."""
        if not ban.is_in_force(self._clock()):
            return
        self.active.pop(ban.key, None)
        if len(self.active) >= self._most:
            self.sweep()
        if len(self.active) >= self._most:
            del self.active[next(iter(self.active))]
            self.counts.evicted += 1
        self.active[ban.key] = ban

    def remove(self, key: str) -> None:
        """End a ban that another sidecar lifted."""
        self.active.pop(key, None)
        self.forget(key)

    def sweep(self) -> None:
        """Forget the bans that have ended. Costs grow with the number of bans."""
        now = self._clock()
        ended = [key for key, ban in self.active.items() if not ban.is_in_force(now)]
        for key in ended:
            del self.active[key]

    def seconds_left(self, key: str) -> int | None:
        """Return for how long a key is still banned, in seconds rounded up; None if it is not."""
        ban, now = self.active.get(key), self._clock()
        return ceil(ban.until - now) if ban is not None and ban.is_in_force(now) else None

    def listed(self) -> list[Ban]:
        """Return the bans in force, the newest first."""
        self.sweep()
        return sorted(self.active.values(), key=lambda ban: -ban.since)

    def lift(self, names: Iterable[str], rules: Iterable[LimitRule]) -> list[Ban]:
        """End the bans with these ids or descriptors, here and everywhere; `rules` are those in service.

        What the key has used of the limit is given back, and its rejections are forgotten: else its next
        request would be refused, and it would be banned again.
        """
        wanted = set(names)
        found = [ban for ban in self.listed() if ban.id in wanted or ban.descriptor in wanted]
        known = {rule.key: rule for rule in rules}
        for ban in found:
            self.counts.lifted += 1
            self.remove(ban.key)
            rule = known.get(ban.rule)
            if rule is not None and rule.bucket is not None:
                self._ask(Take(ban.key, rule.bucket, -MAX_HITS, Mode.SHADOW), _ignore)
            if rule is not None and rule.ban is not None:
                self._ask(Take(_strikes(ban.key), rule.ban.rejections, -MAX_HITS, Mode.SHADOW), _ignore)
            self.listener.lifted(ban.key)
        return found


def _ignore(_taken: Taken) -> None:
    """Do nothing with the outcome of what was given back."""


def _strikes(key: str) -> str:
    return f"strikes|{key}"


def as_data(ban: Ban) -> dict[str, Any]:
    """Return a ban for a page of the admin port."""
    return {
        "id": ban.id,
        "rule": ban.rule,
        "descriptor": ban.descriptor,
        "since": ban.since,
        "until": ban.until,
    }
