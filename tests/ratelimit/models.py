"""What the algorithms mean, in the plainest Python: no bound on memory, fractions instead of integers."""

from copy import deepcopy
from dataclasses import dataclass, field
from fractions import Fraction

from common.buckets import CalendarWindow, FixedWindow, SlidingWindow, Slots, TokenBucket
from ratelimit.stores.store import Mode, Take


@dataclass
class TokenModel:
    """A bucket that fills evenly; what is charged after the fact may leave a debt of one capacity."""

    bucket: TokenBucket
    level: Fraction
    at_us: int

    def take(self, hits: int, now_us: int, charge: bool) -> tuple[bool, int]:
        refill = Fraction(self.bucket.refill_tokens * (now_us - self.at_us), self.bucket.period_us)
        capacity = Fraction(self.bucket.capacity)
        self.level, self.at_us = min(capacity, self.level + refill), now_us
        allowed = hits < 0 or self.level >= hits
        if allowed or charge:
            self.level = max(-capacity, min(capacity, self.level - hits))
        return allowed, max(0, self.level // 1)


@dataclass
class WindowModel:
    """Counts in windows that begin at multiples of their length; sliding, the one before counts in part."""

    bucket: FixedWindow | SlidingWindow
    counts: dict[int, int] = field(default_factory=dict)

    def take(self, hits: int, now_us: int, charge: bool) -> tuple[bool, int]:
        index, passed = divmod(now_us, self.bucket.window_us)
        part = Fraction(self.bucket.window_us - passed, self.bucket.window_us)
        allowed = hits < 0 or self._used(index, part) + hits <= self.bucket.limit
        if allowed or charge:
            count = self.counts.get(index, 0) + hits
            self.counts[index] = max(0, count)
            if count < 0:
                self.counts[index - 1] = max(0, self.counts.get(index - 1, 0) + count)
        return allowed, max(0, self.bucket.limit - self._used(index, part))

    def _used(self, index: int, part: Fraction) -> int:
        carried = 0
        if isinstance(self.bucket, SlidingWindow):
            carried = -((-self.counts.get(index - 1, 0) * part) // 1)
        return self.counts.get(index, 0) + carried


Model = TokenModel | WindowModel


class ModelStore:
    """Charges all buckets of a request, or if it is refused, only those that always charge."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}

    def take(self, takes: list[Take], now_us: int) -> list[tuple[bool, int]]:
        before = deepcopy(self.models)
        tried = [self._take(take, take.hits, now_us) for take in takes]
        over = [take.mode for take, (allowed, _) in zip(takes, tried, strict=True) if not allowed]
        quotas = [take.mode for take in takes].count(Mode.QUOTA)
        if Mode.ENFORCE not in over and not 0 < quotas == over.count(Mode.QUOTA):
            return tried
        self.models = before
        settled = []
        for take, (allowed, _) in zip(takes, tried, strict=True):
            always = take.hits < 0 or (take.bucket.charge_rejected and not (take.spare and allowed))
            _, remaining = self._take(take, take.hits if always else 0, now_us)
            settled.append((allowed, remaining))
        return settled

    def _take(self, take: Take, hits: int, now_us: int) -> tuple[bool, int]:
        model = self.models.get(take.key)
        if model is None:
            bucket = take.bucket
            assert not isinstance(bucket, CalendarWindow | Slots)
            model = (
                TokenModel(bucket, Fraction(bucket.capacity), now_us)
                if isinstance(bucket, TokenBucket)
                else WindowModel(bucket)
            )
            self.models[take.key] = model
        return model.take(hits, now_us, take.bucket.charge_rejected)
