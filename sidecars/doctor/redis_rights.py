"""Whether a user of Redis may do what the sidecars do, tried without changing anything.

Redis checks rights before it looks at values and keys. So a write is allowed if it is refused for its value,
or finds no such key: the keys here end in `doctor`, and no sidecar has one of that name.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ExecAbortError, NoPermissionError, ResponseError

_KEY: Final = "doctor"

_ARGUMENTS: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "del": (),
        "expireat": (1,),
        "get": (),
        "mget": (),
        "pexpire": (1,),
        "set": ("", "PX", "no number"),
        "xadd": ("NOMKSTREAM", "0-0", "field", ""),
        "zadd": ("no number", ""),
        "zcard": (),
        "zmscore": ("",),
        "zrange": (0, 0),
        "zrangebyscore": (0, 0),
        "zrem": ("",),
        "zremrangebyscore": (0, 0),
        "zscan": (0,),
        "zscore": ("",),
    }
)
"""What follows the key in each command that has one."""

_OTHERS: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {"ping": (), "time": (), "eval": ("return 1", 0), "evalsha": ("0" * 40, 0), "exec": ()}
)

_RATELIMIT: Final = "evalsha eval time get set zadd zremrangebyscore zcard pexpire xadd xread"
_SESSIONS: Final = (
    "eval time get mget set del zadd zrange zrem zremrangebyscore zscan expireat multi exec publish subscribe"
)
_REVOCATIONS: Final = (
    "eval time zadd zcard zrange zrangebyscore zrem zscan zscore zmscore expireat publish subscribe"
)
_LOG_STREAM: Final = "xadd multi exec"
"""The commands of each use: docs/deployment.md."""


@dataclass(frozen=True, slots=True)
class RedisUses:
    """What the sidecars do with a Redis."""

    ratelimit: str | None = None
    """The prefix of its keys."""
    sessions: str | None = None
    """The prefix of their keys and channels."""
    revocations: str | None = None
    """The prefix of their keys and channels."""
    log_streams: tuple[str, ...] = ()
    """The keys of the streams that accesslog writes to."""


async def lacking_rights(client: Redis, uses: RedisUses) -> AsyncIterator[str]:
    """Yield each command, with its use, that the user may not call. Raises RedisError, OSError."""
    for use, command, key in _tries(uses):
        try:
            await _try(client, command, key)
        except (NoPermissionError, ExecAbortError) as error:  # the second is how EXEC says it
            yield f"{command} on {key} ({use})" if _names_key(error) else f"{command} ({use})"
        except ResponseError:
            continue  # it was allowed, and refused for its value


def _tries(uses: RedisUses) -> Iterator[tuple[str, str, str]]:
    """Yield the use, the command and the key or channel of each try."""
    yield "every use", "ping", ""
    listed = [
        (use, commands, f"{prefix}{_KEY}")
        for use, commands, prefix in (
            ("ratelimit", _RATELIMIT, uses.ratelimit),
            ("sessions", _SESSIONS, uses.sessions),
            ("revocations", _REVOCATIONS, uses.revocations),
        )
        if prefix is not None
    ]
    listed += [("accesslog", _LOG_STREAM, stream) for stream in uses.log_streams]
    for use, commands, key in listed:
        for command in commands.split():
            yield use, command, key


async def _try(client: Redis, command: str, key: str) -> None:
    match command:
        case "multi":
            connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
            try:
                await connection.send_command("MULTI")
                await connection.read_response()
            finally:
                await connection.disconnect()  # a later command would wait for EXEC
                await client.connection_pool.release(connection)
        case "subscribe":
            async with client.pubsub() as channel:
                await channel.subscribe(key)
                await channel.get_message(timeout=1)
        case "publish":
            await client.publish(key, "")
        case "xread":
            await client.execute_command("XREAD", "COUNT", 1, "STREAMS", key, 0)  # type: ignore[no-untyped-call]
        case _:
            arguments = (key, *_ARGUMENTS[command]) if command in _ARGUMENTS else _OTHERS[command]
            await client.execute_command(command.upper(), *arguments)  # type: ignore[no-untyped-call]


def _names_key(error: ResponseError) -> bool:
    """Whether the user may call the command, but not on this key or channel."""
    text = str(error)
    return " a key" in text or " a channel" in text or "keys used" in text or "channels used" in text
