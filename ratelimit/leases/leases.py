"""The leases of this process, by key: which requests they answer, and what the store is asked for.

A lease is charged in the store before its tokens are handed out. So what passes in any time is at most what
the limit admits in it, plus the tokens that were out when it began. Tokens that are lost, with this process
or with an answer of the store, make a limit stricter, never more generous. docs/ratelimit.md has the proof.

It has no clock, timer or store: it says what to ask (`StoreRequest`, `due`) and is told the outcome.
"""

from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from common.buckets import Bucket, Slots, Taken
from ratelimit.cache import GenerationalCache
from ratelimit.decision import Charge
from ratelimit.leases.lease import FIRST_TOKENS, Lease, lease_seconds
from ratelimit.rules import goes_into_debt
from ratelimit.stores.store import NOT_TAKEN, Failure, Mode, StoreError, Take
from ratelimit.stores.take_all import is_refused

LEASE_SECONDS: Final = 5.0
"""Tokens for so long are leased, and unused ones are returned after it: a key with one request in a second
still asks Redis for one of five."""

WINDOW_PART: Final = 0.01
"""The part of its window that a lease has tokens for, if that is longer."""

LEASE_SHARE: Final = 0.1
"""The part of a limit that all sidecars together may hold in leases."""

MAX_LEASES: Final = 10_000
"""About 5 MB. A bound is needed: each client makes as many keys as it has addresses or identities."""

LEAST_TOKENS: Final = 2
"""A lease of one token saves no call."""

PART_OF_REMAINING: Final = 4
"""No lease takes more than this part of what remains, so that a limit that is nearly used up is shared."""

RETRY_SECONDS: Final = 0.25
"""The time between two attempts to lease tokens of a limit that has too few, or whose store is away."""

ANSWER_SECONDS: Final = 2.0
"""After so long an answer does not come: its caller has gone. What it would have brought counts as lost."""

RETURN_SECONDS: Final = 1.0
"""Tokens are not returned so shortly before the end of their window: they could arrive in the next one."""

LOOKED_AT_ONCE: Final = 500
"""Leases that one `due` looks at, about 0.1 ms."""

PARTS_LOOKED_AT: Final = 20
"""After so many `due` every lease was looked at, however many there are."""

_NOT_CHARGED: Final = frozenset({Failure.REFUSED, Failure.BREAKER_OPEN, Failure.BUSY, Failure.NO_TIME})
"""Failures after which nothing was charged for certain."""


class StoreRequest:
    """What to ask the store about a request: those of its takes that no lease covers, and leases."""

    __slots__ = ("asked_at", "held", "held_tokens", "own", "renewals", "takes")

    def __init__(self, takes: Sequence[Take], asked_at: float) -> None:
        self.takes = takes
        """What to ask."""
        self.asked_at = asked_at
        self.own: list[int] = []
        """The positions of the request's own takes, which come first in `takes`."""
        self.held: list[tuple[int, Lease, Taken, float]] = []
        """The takes that leases cover: position, lease, outcome, and when the tokens are worthless."""
        self.held_tokens = 0
        """What these take, and put back if the request is refused."""
        self.renewals: list[tuple[str, Lease, int]] = []
        """What leases gain, or give back."""

    @property
    def is_plain(self) -> bool:
        """Whether no lease takes part in it."""
        return not (self.held or self.renewals)


class Leases:
    """Answers requests from leases of keys that are asked for again within `seconds`.

    A lease has tokens for `seconds` at the rate of its key (for `window_part` of a long window, up to a
    minute), at most `share` of the limit, divided by the `replicas` that share it. `clock` counts seconds,
    monotonic. At most `max_keys` keys have one.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        seconds: float = LEASE_SECONDS,
        window_part: float = WINDOW_PART,
        share: float = LEASE_SHARE,
        max_keys: int = MAX_LEASES,
        replicas: Callable[[], int] = lambda: 1,
    ) -> None:
        self.seconds = seconds
        self._window_part = window_part
        self.answered = 0
        """Requests that were decided without the store."""
        self.taken = self.returned = self.lost = 0
        """Tokens since the start. Lost: charged, or perhaps charged, and never handed out."""
        self._pending = self._returning = 0
        """Tokens that the store was asked for, and that are on their way back to it."""
        self._clock = clock
        self._share = share
        self._max_keys = max_keys
        self._replicas = replicas
        self._leases: dict[str, Lease] = {}
        self._queue: deque[str] = deque()
        """The key of each lease once: `due` looks at the first ones next."""
        self._seen: GenerationalCache[str, tuple[float, int]] = GenerationalCache(max_keys)
        """Keys without a lease: when they were asked for, and what remained."""
        self._returns: list[Take] = []
        self._holding: set[StoreRequest] = set()
        """StoreRequests that hold tokens and have no answer yet."""
        self._closed = False

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def tokens_out(self) -> int:
        """Tokens that are charged, or being charged, and neither handed out nor known to be back."""
        held = sum(store_request.held_tokens for store_request in self._holding)
        return self._pending + self._returning + held + sum(lease.left for lease in self._leases.values())

    def take(self, takes: Sequence[Take]) -> list[Taken] | None:
        """The outcomes of a request that leases cover; else None, with nothing changed."""
        now = self._clock()
        leases = self._leases
        if len(takes) == 1:
            lease = leases.get(takes[0][0])
            taken = None if lease is None else lease.spend(takes[0], now)
            if taken is None:
                return None
            self.answered += 1
            return [taken]
        outcomes: list[Taken] = []
        for take in takes:
            lease = leases.get(take[0])
            taken = None if lease is None else lease.spend(take, now)
            if taken is None:
                for spent, _ in zip(takes, outcomes, strict=False):
                    leases[spent.key].left += spent.hits
                return None
            outcomes.append(taken)
        self.answered += 1
        return outcomes

    def store_request(self, takes: Sequence[Take], charges: Sequence[Charge]) -> StoreRequest | None:
        """What to ask the store instead of `takes`; None where no rule of the request has leases.

        `settle` has to be called with the answer.
        """
        if len(takes) == 1:
            if not charges[0].rule.lease:
                return None
            key = takes[0].key
            if key not in self._leases and self._seen.get(key) is None:
                return StoreRequest(takes, self._clock())
        elif True not in [charge.rule.lease for charge in charges]:
            return None
        now = self._clock()
        store_request = StoreRequest(takes, now)
        for position, (take, charge) in enumerate(zip(takes, charges, strict=True)):
            lease = self._lease(take, now) if charge.rule.lease and take.hits > 0 else None
            taken = None
            if lease is not None:
                if now >= lease.renew_at or take.hits > lease.left:
                    self._renew(take.key, lease, store_request)
                taken = lease.spend(take, now)
            if lease is not None and taken is not None:
                store_request.held.append((position, lease, taken, lease.ends_at))
                store_request.held_tokens += take.hits
            else:
                store_request.own.append(position)
        if store_request.held:
            self._holding.add(store_request)
        if not store_request.is_plain:
            store_request.takes = _to_ask(takes, store_request)
        return store_request

    def settle(
        self, store_request: StoreRequest, takes: Sequence[Take], outcome: list[Taken] | StoreError
    ) -> list[Taken] | StoreError:
        """The outcome of a request with `takes`, by the answer of the store to its store_request."""
        now = self._clock()
        if store_request.is_plain:
            if isinstance(outcome, list):
                for take, taken in zip(takes, outcome, strict=True):
                    self._seen.put(take.key, (now, taken.remaining))
            return outcome
        puts_back = not store_request.held or store_request in self._holding
        self._holding.discard(store_request)
        outcomes = [NOT_TAKEN] * len(takes)
        for position, _, taken, _ in store_request.held:
            outcomes[position] = taken
        if isinstance(outcome, StoreError):
            for _, lease, hits in store_request.renewals:
                if lease.asked_at == store_request.asked_at:
                    self._unanswered(lease, hits, charged=outcome.failure not in _NOT_CHARGED)
            if not store_request.own:
                return outcomes
            for position, lease, _, ends_at in store_request.held:
                self._put_back(takes[position], lease, ends_at if puts_back else -inf, now)
            return outcome
        for position, taken in zip(store_request.own, outcome, strict=False):
            outcomes[position] = taken
        refused = is_refused(zip(takes, outcomes, strict=True))
        self._renewed_all(store_request, outcome[len(store_request.own) :], refused=refused)
        if refused:
            for position, lease, taken, ends_at in store_request.held:
                if not takes[position].charges_in_refused(allowed=True):
                    self._put_back(takes[position], lease, ends_at if puts_back else -inf, now)
                    outcomes[position] = taken._replace(remaining=taken.remaining + takes[position].hits)
        return outcomes

    def due(self) -> list[Take]:
        """What to return to the store now: tokens of keys that nothing asks for. `sent` has to follow."""
        now = self._clock()
        self._holding = {
            store_request for store_request in self._holding if now - store_request.asked_at <= ANSWER_SECONDS
        }
        queue = self._queue
        for _ in range(min(len(queue), max(LOOKED_AT_ONCE, len(queue) // PARTS_LOOKED_AT))):
            key = queue.popleft()
            lease = self._leases[key]
            if lease.asked_at is not None and now - lease.asked_at > ANSWER_SECONDS:
                self._unanswered(lease, lease.asked, charged=True)
            if lease.asked_at is None and now >= lease.renew_at:
                self._end(key, lease, now)
            else:
                queue.append(key)
        returns, self._returns = self._returns, []
        return returns

    def sent(self, returns: Sequence[Take], *, arrived: bool) -> None:
        """Note that tokens were returned, or that this failed: then they are lost."""
        tokens = -sum(take.hits for take in returns)
        self._returning -= tokens
        if arrived:
            self.returned += tokens
        else:
            self.lost += tokens

    def end(self, *, for_good: bool = False) -> None:
        """End all leases: their tokens are in the next `due`. With `for_good` no others follow."""
        self._closed = self._closed or for_good
        now = self._clock()
        for key, lease in list(self._leases.items()):
            if lease.asked_at is not None:
                self._unanswered(lease, lease.asked, charged=True)
            self._end(key, lease, now)
        self._queue.clear()
        self._seen.clear()

    def drop(self, key: str) -> None:
        """End the lease of a key whose whole limit was given back, and with it the tokens that are out.

        So they are lost: neither handed out on top of the limit, nor returned once more.
        """
        self._seen.forget(key)
        lease = self._leases.get(key)
        if lease is None:
            return
        if lease.asked_at is not None:
            self._unanswered(lease, lease.asked, charged=True)
        lease.ends_at = -inf
        self._queue.remove(key)
        self._end(key, lease, self._clock())

    def _lease(self, take: Take, now: float) -> Lease | None:
        """The lease for `take`, a new one if its key was seen lately; None if there is none."""
        lease = self._leases.get(take.key)
        if lease is not None:
            return lease if lease.serves(take.bucket) else None
        seen = self._seen.get(take.key)
        if isinstance(take.bucket, Slots) or goes_into_debt(take.bucket) or seen is None or self._closed:
            return None
        seconds = lease_seconds(take.bucket, self.seconds, self._window_part)
        if now - seen[0] > seconds:
            return None
        if len(self._leases) >= self._max_keys or self._most(take.bucket, seen[1]) < LEAST_TOKENS:
            return None
        lease = self._leases[take.key] = Lease(take.bucket, seen[1], seconds)
        self._queue.append(take.key)
        return lease

    def _most(self, bucket: Bucket, remaining: int) -> int:
        share = int(bucket.size * self._share / max(1, self._replicas()))
        return min(share, remaining // PART_OF_REMAINING)

    def _renew(self, key: str, lease: Lease, store_request: StoreRequest) -> None:
        """Ask for the tokens that the rate of the key calls for, or return those that it does not need."""
        now = store_request.asked_at
        if lease.asked_at is not None or now < lease.retry_at:
            return
        self.lost += lease.outlived(now)
        lease.measure(now)
        most = self._most(lease.bucket, lease.remaining)
        hits = min(lease.tokens, most) - lease.left if most >= LEAST_TOKENS else 0
        if hits < 0 and lease.ends_at - now < RETURN_SECONDS:
            hits = 0
        lease.asked, lease.asked_at, lease.retry_at = hits, now, now + RETRY_SECONDS
        lease.renew_at = min(now + RETRY_SECONDS, lease.ends_at)  # until then it serves others
        if hits > 0:
            self._pending += hits
        else:
            lease.left += hits
            self._returning -= hits
        store_request.renewals.append((key, lease, hits))

    def _renewed_all(self, store_request: StoreRequest, outcomes: Sequence[Taken], *, refused: bool) -> None:
        now = self._clock()
        for (_, lease, hits), taken in zip(store_request.renewals, outcomes, strict=True):
            if lease.asked_at != store_request.asked_at:
                continue  # given up
            if taken is NOT_TAKEN:
                self._unanswered(lease, hits, charged=True)
            else:
                charged = hits < 0 or (taken.allowed and not refused)
                self._renewed(lease, hits if charged else 0, taken, now)

    def _renewed(self, lease: Lease, charged: int, taken: Taken, now: float) -> None:
        """Take up an answer of the store: it charged so many tokens, or took some back."""
        asked_at = now if lease.asked_at is None else lease.asked_at
        if lease.asked > 0:
            self._pending -= lease.asked
            self.taken += charged
        else:
            self._returning += lease.asked
            self.returned -= lease.asked
        lease.asked, lease.asked_at = 0, None
        self.lost += lease.renewed(max(0, charged), taken, asked_at, now)
        if charged > 0:
            lease.retry_at = now

    def _unanswered(self, lease: Lease, hits: int, *, charged: bool) -> None:
        """Note that no answer comes; `charged`: perhaps the store did what it was asked."""
        if hits > 0:
            self._pending -= hits
            self.lost += hits if charged else 0
        else:
            self._returning += hits
            if charged:
                self.lost -= hits
            else:
                lease.left -= hits
        lease.asked, lease.asked_at = 0, None
        lease.tokens = FIRST_TOKENS
        lease.retry_at = max(lease.retry_at, self._clock() + self.seconds)  # it may have lost tokens

    def _put_back(self, take: Take, lease: Lease, ends_at: float, now: float) -> None:
        """Put the hits of a request that is not charged back into the lease that covered them."""
        if now >= ends_at:
            self.lost += take.hits
            return
        lease.left += take.hits
        if lease.ended:
            self._give_back(take.key, lease, now)

    def _end(self, key: str, lease: Lease, now: float) -> None:
        lease.ended = True
        del self._leases[key]
        self._give_back(key, lease, now)

    def _give_back(self, key: str, lease: Lease, now: float) -> None:
        if lease.ends_at - now < RETURN_SECONDS:
            self.lost += lease.left
        elif lease.left:
            self._returns.append(lease.change(key, -lease.left))
            self._returning += lease.left
        lease.left = 0


def _to_ask(takes: Sequence[Take], store_request: StoreRequest) -> list[Take]:
    """The request's own takes as the rest of it sees them, and then those of leases."""
    own = [takes[position] for position in store_request.own]
    if any(takes[position].mode is Mode.QUOTA for position, *_ in store_request.held):
        # Where one quota passes, no other refuses the request.
        own = [take._replace(mode=Mode.SHADOW) if take.mode is Mode.QUOTA else take for take in own]
    return own + [lease.change(key, hits) for key, lease, hits in store_request.renewals]
