"""Runs the scripts of one turn of the event loop in one round trip."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

MAX_CALLS: Final = 64
"""The most calls in one write: they hold up Redis one after the other."""


class _Call(NamedTuple):
    command: tuple[Any, ...]
    answer: asyncio.Future[Any]


class PipelinedClient:
    """Calls scripts of a Redis: all calls that begin in one turn of the loop are one write on one connection.

    With `asking`, each call follows an ASKING: a node of a cluster then answers for a slot that is on its way
    to it. `names` holds other names for keys, used in calls with one key. `client` stays the caller's to
    close, and its timeouts are those of a call.
    """

    def __init__(
        self, client: Redis, *, asking: bool = False, names: Mapping[str, str] | None = None
    ) -> None:
        self._client = client
        self._asking = asking
        self._names = names or {}
        self._calls: list[_Call] = []
        self._flights: set[asyncio.Task[None]] = set()

    async def evalsha(self, sha: str, numkeys: int, *keys_and_arguments: Any) -> Any:
        """Return what the script with this SHA-1 returns. Raises RedisError."""
        return await self._call(("EVALSHA", sha, numkeys, *self._named(numkeys, keys_and_arguments)))

    async def eval(self, script: str, numkeys: int, *keys_and_arguments: Any) -> Any:
        """Return what `script` returns. Raises RedisError."""
        return await self._call(("EVAL", script, numkeys, *self._named(numkeys, keys_and_arguments)))

    def _named(self, numkeys: int, keys_and_arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if numkeys != 1:
            return keys_and_arguments
        key, *arguments = keys_and_arguments
        return (self._names.get(key, key), *arguments)

    async def _call(self, command: tuple[Any, ...]) -> Any:
        loop = asyncio.get_running_loop()
        call = _Call(command, loop.create_future())
        if not self._calls:
            loop.call_soon(self._send)
        self._calls.append(call)
        answer = await call.answer
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _send(self) -> None:
        calls, self._calls = self._calls, []
        for start in range(0, len(calls), MAX_CALLS):
            task = asyncio.create_task(self._fly(calls[start : start + MAX_CALLS]), name="redis scripts")
            self._flights.add(task)
            task.add_done_callback(self._flights.discard)

    async def _fly(self, calls: Sequence[_Call]) -> None:
        try:
            await self._exchange([call for call in calls if not call.answer.done()])
        except (RedisError, OSError, TimeoutError) as error:
            _settle(calls, error)
        except BaseException:
            _settle(calls, RedisError("the call was cancelled"))
            raise

    async def _exchange(self, calls: Sequence[_Call]) -> None:
        """Write all calls, then read each answer. Raises RedisError when the connection fails."""
        pool: Any = self._client.connection_pool
        connection = await pool.get_connection()
        unread = True
        try:
            commands = [
                command
                for call in calls
                for command in ((("ASKING",), call.command) if self._asking else (call.command,))
            ]
            await connection.send_packed_command(connection.pack_commands(commands))
            for call in calls:
                if self._asking:
                    await _read(connection)
                _settle([call], await _read(connection))
            unread = False
        finally:
            if unread:  # what is left would be taken for the answers of the next calls
                await connection.disconnect(nowait=True)
            await pool.release(connection)


async def _read(connection: Any) -> Any:
    """Return the next answer, or the error that Redis answered."""
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def _settle(calls: Sequence[_Call], answer: Any) -> None:
    for call in calls:
        if not call.answer.done():
            call.answer.set_result(answer)
