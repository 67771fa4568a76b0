"""Keeps the revocation list in Redis, shared by every sidecar."""

from collections.abc import Sequence
from math import inf
from typing import Any, Final

import orjson

from authz.credentials.core.redis_caller import BATCH, RedisCaller
from authz.credentials.core.store_errors import StoreUnavailableError
from authz.credentials.revocation.revocation_list import Revocation, RevocationsFullError, Revoked

ADDED_AT_ONCE: Final = 50
"""The most entries in one call. Each is a message to every sidecar; 500 would hold up Redis for 5 ms."""

# Expired entries are removed by the clock of Redis: a sidecar whose clock is ahead would remove live ones.
# Each entry: until, before, member, whether it is exempt from the bound, the message to the others.
_ADD: Final = """
local now = redis.call('TIME')[1]
for _ = 1, 5 do
  local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)
  if #over == 0 then break end
  redis.call('ZREM', KEYS[1], unpack(over))
  redis.call('ZREM', KEYS[2], unpack(over))
end
local refused = 0
for at = 2, #ARGV, 5 do
  local ends, before, named, exempt, message = unpack(ARGV, at, at + 4)
  if exempt == '1' or redis.call('ZSCORE', KEYS[1], named)
    or redis.call('ZCARD', KEYS[1]) < tonumber(ARGV[1]) then
    local changed = redis.call('ZADD', KEYS[1], 'GT', 'CH', ends, named)
      + redis.call('ZADD', KEYS[2], 'GT', 'CH', before, named)
    if changed > 0 then redis.call('PUBLISH', KEYS[1], message) end
  else
    refused = refused + 1
  end
end
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if last[2] then
  -- No sidecar writes a time so far ahead, but EXPIREAT would fail on it, and with it every call.
  local at = math.min(math.ceil(tonumber(last[2])), 100000000000)
  redis.call('EXPIREAT', KEYS[1], at)
  redis.call('EXPIREAT', KEYS[2], at)
end
return refused
"""


class RedisRevocations:
    """Keeps the list in two sorted sets: members scored by `until`, and by `before`.

    Revocations with the same key are one member, whose later times count.
    """

    def __init__(self, redis_caller: RedisCaller, prefix: str) -> None:
        self._redis_caller = redis_caller
        self._redis = redis_caller.redis
        self._list = f"{prefix}list"
        self._before = f"{prefix}before"
        self.channel = self._list

    async def now(self) -> float:
        """Return the time of Redis in unix seconds, alike for all callers. Raises StoreUnavailableError."""
        seconds, microseconds = await self._redis_caller.call(self._redis.time)
        return float(seconds) + float(microseconds) / 1e6

    async def add(self, revocations: Sequence[Revocation], max_entries: int) -> None:
        """Store these revocations and tell every sidecar about the new ones.

        Raises StoreUnavailableError, and RevocationsFullError if some did not fit.
        """
        refused, keys = 0, (self._list, self._before)
        for start in range(0, len(revocations), ADDED_AT_ONCE):
            arguments = [max_entries]
            for one in revocations[start : start + ADDED_AT_ONCE]:
                exempt = int(one.kind is Revoked.ALL_BEFORE)
                arguments += [one.until, one.before, _member(one), exempt, _message(one)]  # type: ignore[list-item]
            refused += await self._redis_caller.call(
                lambda arguments=arguments: self._redis.eval(_ADD, 2, *keys, *arguments)  # type: ignore[misc]
            )
        if refused:
            raise RevocationsFullError(f"{max_entries} revocations are kept")

    async def load(self, limit: int) -> list[Revocation]:
        """Return the list, at most `limit` + 1 entries besides ALL_BEFORE; some may have expired.

        Raises StoreUnavailableError, also for an unreadable entry: it may name any token.
        """
        found: dict[bytes, Revocation] = {}
        limited = 0
        async for page in self._redis_caller.pages(self._list):
            names = [_bytes(named) for named, _ in page]
            befores = await self._scores(self._before, names)
            gone = await self._gone([named for named in names if befores[named] is None])
            for (_, until), named in zip(page, names, strict=True):
                if named in gone:
                    continue
                before = befores[named]
                limited += named not in found and not named.startswith(_ALL_BEFORE)
                found[named] = self._read(named, until, inf if before is None else before)
            if limited > limit:
                break
        return list(found.values())

    async def clean(self) -> list[str]:
        """Remove and return the unreadable entries. Raises StoreUnavailableError."""
        unreadable: list[bytes] = []
        async for page in self._redis_caller.pages(self._list):
            unreadable += (_bytes(named) for named, until in page if not _readable(_bytes(named), until))
        for start in range(0, len(unreadable), BATCH):
            batch = unreadable[start : start + BATCH]
            for name in (self._list, self._before):
                await self._redis_caller.call(lambda name=name, batch=batch: self._redis.zrem(name, *batch))  # type: ignore[misc]
        return [repr(named) for named in unreadable]

    async def _scores(self, name: str, names: Sequence[bytes]) -> dict[bytes, float | None]:
        members: Any = list(names)  # bytes, which the type of redis-py lacks
        scores = await self._redis_caller.call(lambda: self._redis.zmscore(name, members))
        return {
            named: None if score is None else float(score) for named, score in zip(names, scores, strict=True)
        }

    async def _gone(self, names: Sequence[bytes]) -> set[bytes]:
        """Return those of `names` that were removed between two calls, and no longer apply."""
        scores = await self._scores(self._list, names) if names else {}
        return {named for named, score in scores.items() if score is None}

    def _read(self, named: bytes, until: float, before: float) -> Revocation:
        try:
            return _revocation(named, until, before)
        except ValueError as error:
            raise StoreUnavailableError(
                f"{named[:200]!r} in {self._list} is not a revocation ({error}); if it is not needed, "
                "`sidecars token clean` removes it"
            ) from None


def read_message(message: bytes) -> Revocation:
    """Return the revocation in a message. Raises ValueError."""
    content = orjson.loads(message)
    if not isinstance(content, list) or len(content) != 3:
        raise ValueError("not a revocation")
    named, before, until = content
    try:
        return _revocation(named, float(until), inf if before is None else float(before))
    except TypeError as error:
        raise ValueError(f"not a revocation: {error}") from None


def _message(revocation: Revocation) -> bytes:
    before = None if revocation.before == inf else revocation.before
    return orjson.dumps([_member(revocation).decode(), before, revocation.until])


def _member(revocation: Revocation) -> bytes:
    return orjson.dumps([revocation.kind, revocation.issuer, revocation.value])


_ALL_BEFORE: Final = orjson.dumps([Revoked.ALL_BEFORE])[:-1]


def _revocation(named: bytes | str, until: float, before: float) -> Revocation:
    content = orjson.loads(named)
    if not isinstance(content, list) or len(content) != 3 or not all(isinstance(one, str) for one in content):
        raise ValueError("not a list of kind, issuer and value")
    kind, issuer, value = content
    return Revocation(Revoked(kind), value, until, before, issuer)


def _readable(named: bytes, until: float) -> bool:
    try:
        _revocation(named, until, inf)
    except ValueError:
        return False
    return True


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
