"""Bans of all sidecars that share a Redis, as a stream of events: a key was banned, or its ban was lifted."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import RedisError

from common.redis_errors import error_text
from ratelimit.bans import MAX_BAN_SECONDS, Ban, Bans
from ratelimit.stores.heartbeat import BeatScript

NAME: Final = "bans"
"""The key, after the prefix: a stream of JSON objects."""

SYNC_SECONDS: Final = 1.0
"""The time between two looks at the stream: how long a banned client may go on at other sidecars."""

BATCH: Final = 500
"""Events of one call, each way: Redis serves no one else while a script runs."""

MAX_UNSENT: Final = 10_000
"""Events that wait while Redis is away; the oldest give way."""

# ARGV: the last event that was read, the most events to keep, the time to live in ms, then new events.
_SYNC: Final = """
for i = 4, #ARGV do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'event', ARGV[i])
end
if #ARGV > 3 then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return redis.call('XREAD', 'COUNT', '500', 'STREAMS', KEYS[1], ARGV[1])
"""


class BanStream:
    """Tells other sidecars of the bans of this one, and `bans` of theirs.

    `most` is the number of events that the stream keeps, for sidecars that start. `wanted` tells whether any
    rule bans; without one Redis is not asked. `failed` is called with the reason when a call fails after one
    that did not.
    """

    def __init__(
        self,
        run_script: BeatScript,
        prefix: str,
        bans: Bans,
        most: int,
        *,
        wanted: Callable[[], bool] = lambda: True,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._run_script = run_script
        self._key = prefix + NAME
        self._bans = bans
        self._most = most
        self._wanted = wanted
        self._failed = failed
        self._failing = False
        self._unsent: deque[str] = deque(maxlen=MAX_UNSENT)
        self._last = "0-0"

    def banned(self, ban: Ban) -> None:
        """Tell the others that a key was banned."""
        self._unsent.append(json.dumps({"op": "ban", **ban._asdict()}))

    def lifted(self, key: str) -> None:
        """Tell the others that a ban was lifted."""
        self._unsent.append(json.dumps({"op": "lift", "key": key}))

    async def run(self) -> None:
        """Exchange events until cancelled."""
        while True:
            if self._wanted() or self._unsent:
                await self.sync()
            await asyncio.sleep(SYNC_SECONDS)

    async def sync(self) -> None:
        """Send what is new here, and read what is new there."""
        while True:
            sent = [self._unsent[index] for index in range(min(BATCH, len(self._unsent)))]
            lifetime_ms = f"{MAX_BAN_SECONDS * 1000}"
            try:
                answer = await self._run_script(
                    _SYNC, self._key, self._last, f"{self._most}", lifetime_ms, *sent
                )
            except (RedisError, OSError, TimeoutError) as error:
                if not self._failing:
                    self._failed(error_text(error))
                self._failing = True
                return
            self._failing = False
            # Others may have been added by now, and the oldest may have given way.
            while sent and self._unsent and self._unsent[0] == sent[0]:
                self._unsent.popleft()
                del sent[0]
            events = answer[0][1] if answer else []
            for number, fields in events:
                self._last = _text(number)
                self._apply(fields[1])
            if len(events) < BATCH and not self._unsent:
                return

    def _apply(self, event: bytes | str) -> None:
        """Do what an event says. What is not an event of ours does nothing."""
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            told = json.loads(event)
            if not isinstance(told, dict):
                return
            if told.pop("op") == "lift":
                self._bans.remove(str(told["key"]))
                return
            ban = Ban(**told)
            texts = (ban.key, ban.rule, ban.descriptor)
            if all(isinstance(text, str) for text in texts) and ban.until <= ban.since + MAX_BAN_SECONDS:
                self._bans.add(ban)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
