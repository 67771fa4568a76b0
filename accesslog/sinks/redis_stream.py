"""JSON lines to a Redis stream, one entry for each line."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from accesslog.records.counters import DropReason
from accesslog.sinks.sink import CLOSE_SECONDS, SinkError
from common.redis_errors import answer_in, error_text

FIELD: Final = b"record"
"""The one field of each entry."""


_OF_PIPELINE: Final = " of pipeline caused error: "


class RedisStreamSink:
    """Appends to `stream`, which keeps about the newest `max_entries` (XADD MAXLEN ~).

    A batch is one transaction, because a Redis that is short of memory refuses some entries and takes later
    ones. If no answer arrives, the batch is sent again, and may be in the stream twice. Owns `client`.
    """

    __slots__ = ("_client", "_command", "_stream", "name")

    def __init__(self, client: Redis, stream: str, max_entries: int, name: str = "redis") -> None:
        self.name = name
        self._client = client
        self._stream = stream
        self._command = ("XADD", stream, "MAXLEN", "~", max_entries, "*", FIELD)

    async def open(self) -> None:
        """Ask whether Redis answers. Raises SinkError."""
        await self.check()

    async def write(self, lines: Sequence[bytes]) -> None:
        """Append all of `lines`. Raises SinkError."""
        command = self._command
        pipeline = self._client.pipeline(transaction=True)
        for line in lines:
            pipeline.execute_command(*command, line[:-1])
        try:
            results = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            raise _sink_error(error, self._stream) from None  # its text has a record in it
        for result in results:
            if isinstance(result, Exception):
                raise _sink_error(result, self._stream) from result

    async def check(self) -> None:
        """Ask whether Redis answers. Raises SinkError."""
        try:
            await self._client.ping()
        except (RedisError, OSError) as error:
            raise _sink_error(error, self._stream) from error

    async def reopen(self) -> None:
        """Do nothing: connections are opened when they are needed."""

    async def close(self) -> None:
        """Close the connections."""
        with suppress(TimeoutError, RedisError, OSError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.aclose()


def _sink_error(error: Exception, stream: str) -> SinkError:
    answer = answer_in(error)
    if answer is None:
        return SinkError(DropReason.UNREACHABLE, f"stream {stream}: {error_text(error)}")
    # redis-py puts the command, with a record in it, before the answer of Redis.
    answer.args = (str(answer).rpartition(_OF_PIPELINE)[2].strip("(',\")"),)
    return SinkError(DropReason.REFUSED, f"stream {stream}: {error_text(answer)}")
