"""Keeps sessions in Redis, shared by every sidecar."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
import structlog

from authz.credentials.core.redis_caller import BATCH, RedisCaller
from authz.credentials.core.store_errors import StoreUnavailableError
from authz.credentials.session.model import ENDED, Session
from authz.credentials.session.read_batcher import ReadBatcher
from common.lru_cache import LruCache

MAX_PARSED: Final = 20_000
"""The most parsed sessions cached with the value they were read from, about 2 KB each."""

_log = structlog.get_logger(__name__)

# Expired entries are removed by the clock of Redis: a sidecar whose clock is ahead would remove live ones.

_PUT_SESSION: Final = """
local now = redis.call('TIME')[1]
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[4], '', 'PX', ARGV[5])
for number = 2, 3 do
  redis.call('ZREMRANGEBYSCORE', KEYS[number], '-inf', now)
  redis.call('ZADD', KEYS[number], ARGV[3], ARGV[4])
  local last = redis.call('ZRANGE', KEYS[number], -1, -1, 'WITHSCORES')
  redis.call('EXPIREAT', KEYS[number], math.ceil(tonumber(last[2])))
end
"""


class RedisSessionStore:
    """Stores each session under the prefix and the hash of its token, until the session ends.

    An empty marker key lives longer, so that the token of an ended session is not taken for a guess. Sorted
    sets index the sessions of each subject, and all sessions, scored by the end of the session. They may name
    sessions that are gone; each creation removes expired members.
    """

    def __init__(self, redis_caller: RedisCaller, prefix: str, ended_retention_seconds: float) -> None:
        self._redis_caller = redis_caller
        self._redis = redis_caller.redis
        self._reads = ReadBatcher(redis_caller)
        self._prefix = prefix
        self._ended_seconds = ended_retention_seconds
        self._all = f"{prefix}all"
        # A session is read often and changes seldom, so its parsed form is cached.
        self._parsed: LruCache[str, tuple[Any, Session]] = LruCache(MAX_PARSED)
        self.channel = f"{prefix}revoked"

    async def get(self, key: str) -> Session | None:
        """Return the session, ENDED or None. Raises StoreUnavailableError within the timeout."""
        name = self._prefix + key
        begun = asyncio.get_running_loop().time()
        value = await self._reads.get(name)
        if value is None:
            return await self._ended(key, begun)
        parsed = self._parsed.get(key)
        if parsed is not None and parsed[0] == value:
            return parsed[1]
        session = self._read(name, value)
        if session is not None:
            self._parsed.put(key, (value, session))
        return session

    async def _ended(self, key: str, begun: float) -> Session | None:
        try:
            async with asyncio.timeout_at(begun + self._redis_caller.lookup_timeout_seconds):
                return None if await self._reads.get(self._ended_name(key)) is None else ENDED
        except TimeoutError:
            problem = f"Redis gave no answer within {self._redis_caller.lookup_timeout_seconds:g} s"
            raise StoreUnavailableError(problem) from None

    async def put(self, key: str, session: Session, now: float) -> None:
        """Store `session` until it ends. Raises StoreUnavailableError."""
        names = (self._prefix + key, self._index(session.subject), self._all, self._ended_name(key))
        px, ended_px = _milliseconds(session, now), _milliseconds(session, now, self._ended_seconds)
        arguments = (session.to_json(), px, session.ends_at, key, ended_px)
        await self._redis_caller.call(lambda: self._redis.eval(_PUT_SESSION, 4, *names, *arguments))

    async def renew(self, sessions: Mapping[str, Session], now: float) -> None:
        """Write renewed sessions. A session that was revoked stays revoked (SET XX)."""
        items = list(sessions.items())
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]

            async def write(batch: Sequence[tuple[str, Session]] = batch) -> None:
                async with self._redis.pipeline(transaction=False) as pipe:
                    for key, session in batch:
                        value, px = session.to_json(), _milliseconds(session, now)
                        pipe.set(self._prefix + key, value, px=px, xx=True)
                        ended_px = _milliseconds(session, now, self._ended_seconds)
                        pipe.set(self._ended_name(key), b"", px=ended_px)
                    await pipe.execute()

            await self._redis_caller.call(write)

    async def revoke(self, keys: Sequence[str]) -> int:
        """Delete these sessions, tell every sidecar, and return how many there were."""
        ended = 0
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]

            async def write(batch: Sequence[str] = batch) -> int:
                async with self._redis.pipeline(transaction=True) as pipe:
                    pipe.delete(*(self._prefix + key for key in batch))
                    pipe.zrem(self._all, *batch)
                    pipe.publish(self.channel, orjson.dumps(batch))
                    return int((await pipe.execute())[0])

            ended += await self._redis_caller.call(write)
        return ended

    async def keys(self, subject: str | None) -> list[str]:
        """Return the keys of the sessions of `subject`, or of all for None; some may be gone."""
        index = self._all if subject is None else self._index(subject)
        keys = [key async for page in self._redis_caller.pages(index) for key, _ends_at in page]
        return [key.decode() if isinstance(key, bytes) else str(key) for key in keys]

    async def read(self, keys: Sequence[str]) -> list[tuple[str, Session]]:
        """Return the existing sessions among these keys."""
        found: list[tuple[str, Session]] = []
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            names = [self._prefix + key for key in batch]
            values = await self._redis_caller.call(lambda names=names: self._redis.mget(names))  # type: ignore[misc]
            read = (
                (key, self._read(self._prefix + key, value)) for key, value in zip(batch, values, strict=True)
            )
            found += [(key, session) for key, session in read if session is not None]
        return found

    def _ended_name(self, key: str) -> str:
        return f"{self._prefix}ended:{key}"

    def _index(self, subject: str) -> str:
        # Hashed, because a subject may be long and hold any character.
        return f"{self._prefix}of:{hashlib.sha256(subject.encode('utf-8', 'surrogatepass')).hexdigest()}"

    @staticmethod
    def _read(name: str, value: Any) -> Session | None:
        if value is None:
            return None
        try:
            return Session.from_json(value.encode() if isinstance(value, str) else value)
        except ValueError as error:
            _log.warning("session unreadable", key=name, problem=str(error))
            return None


def _milliseconds(session: Session, now: float, more_seconds: float = 0.0) -> int:
    return max(1, round((session.over_at + more_seconds - now) * 1000))
