"""One process whose calls are counted by callgrind: `python instructions_target.py FOLDER`.

It may run against the packages of another source tree, so it imports none of bench. FOLDER has the
configuration and the messages. After `ready` it reads lines `WHAT COUNT`, makes that many calls, and prints
`done`. Clocks and randomness are fixed.
"""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Any

from prometheus_client import CollectorRegistry

from sidecars.services import accesslog, ratelimit
from sidecars.services.authz import sidecar as authz
from sidecars.services.sidecar import Dependencies
from sidecars.settings.accesslog import AccesslogSettings
from sidecars.settings.authz import AuthzSettings
from sidecars.settings.ratelimit import RatelimitSettings
from sidecars.transport.api.address import TcpAddress
from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Unary
from sidecars.transport.http2.connection import Connection

WALL_SECONDS = 1_790_000_000.0
MONOTONIC_SECONDS = 1000.0
REPLY = b"\x0a\x00"
_FRAME_HEAD_BYTES = 9
_LISTEN = (TcpAddress("127.0.0.1", 0),)

Calls = Callable[[int], Awaitable[None]]


class Caller:
    """The call that a handler sees."""

    method = ""
    peer = "unix:"
    deadline = None
    cancelled = False

    def __init__(self) -> None:
        self.metadata: dict[str, str | bytes] = {}


class NoCalls:
    """Runs unary handlers, and nothing else."""

    def answer(self, handler: Callable[..., Any], message: bytes, call: Any) -> Any:
        """Return the reply."""
        return handler(message, call)


class NoObserver:
    """Counts nothing."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_: None


def dependencies() -> Dependencies:
    """Return clocks that are fixed, and no Redis."""
    return Dependencies(
        CollectorRegistry(), lambda: WALL_SECONDS, lambda: MONOTONIC_SECONDS, lambda: 0.5, None
    )


def read_messages(file: Path) -> list[bytes]:
    """Return messages that are written after their length in four bytes each."""
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "big")
        found.append(data[start:at])
    return found


def unary(handler: Callable[..., Any], messages: list[bytes]) -> Calls:
    """Return calls of a handler that answers at once, each with the next message."""
    caller, count = Caller(), len(messages)
    for message in messages:  # verifies and caches what can be cached
        if not isinstance(handler(message, caller), bytes):
            raise TypeError("the handler does not answer at once")
    at = 0

    async def calls(number: int) -> None:
        nonlocal at
        for _ in range(number):
            handler(messages[at], caller)
            at = at + 1 if at + 1 < count else 0

    return calls


def streamed(handler: Callable[..., Any], messages: list[bytes]) -> Calls:
    """Return calls of a streaming handler, with all messages in one stream."""

    async def calls(number: int) -> None:
        async def sent() -> AsyncIterator[bytes]:
            for index in range(number):
                yield messages[index % len(messages)]

        await handler(sent(), Caller())

    return calls


def no_ops(folder: Path) -> Calls:
    """Return calls on one connection of the transport, whose handler does nothing.

    The messages are those for the header table that the transport announces.
    """
    parts: Any = NoCalls(), Limits(), NoObserver()
    calls_, limits, observer = parts
    more: dict[str, Any] = {}
    with suppress(ImportError):  # the baseline is older than the limit over all connections
        from sidecars.transport.http2.held_bytes import HeldBytes

        more["held_by_all"] = HeldBytes(limits.max_total_held_bytes)
    methods = {b"/envoy.service.auth.v3.Authorization/Check": Unary(lambda _request, _call: REPLY)}
    connection = Connection(
        methods,
        calls_,
        limits,
        observer,
        peer="unix:",
        clock=lambda: MONOTONIC_SECONDS,
        output_ready=lambda: None,
        trusted=True,
        **more,
    )
    opening, *requests = read_messages(folder / f"transport_{_table_bytes(connection.take())}")
    connection.receive(opening, MONOTONIC_SECONDS)
    connection.take()
    following: Iterator[bytes] = iter(requests)

    async def calls(number: int) -> None:
        for _ in range(number):
            connection.receive(next(following), MONOTONIC_SECONDS)
            if not connection.take():
                raise RuntimeError("the transport did not answer")

    return calls


def _table_bytes(greeting: bytes) -> int:
    """Return SETTINGS_HEADER_TABLE_SIZE; a server's first frame is SETTINGS (RFC 9113 section 3.4)."""
    stop = _FRAME_HEAD_BYTES + int.from_bytes(greeting[:3], "big")
    settings = dict(Struct(">HI").iter_unpack(greeting[_FRAME_HEAD_BYTES:stop]))
    return int(settings.get(1, 4096))


async def main(folder: Path) -> None:
    """Build all that is measured, then make calls until the input ends."""
    deciding = authz.build(AuthzSettings(listen=_LISTEN, policy=(folder / "policy.yaml",)), dependencies())
    await deciding.start()
    limiting = ratelimit.build(
        RatelimitSettings(listen=_LISTEN, limits=(folder / "limits.yaml",)), dependencies()
    )
    await limiting.start()
    sinks = [{"type": "file", "path": str(folder / "access.jsonl")}]
    settings = AccesslogSettings.model_validate({"listen": _LISTEN, "sinks": sinks})
    logging = accesslog.build(settings, dependencies())
    await logging.start()
    handlers: dict[str, Any] = {
        name: method.handler
        for sidecar in (deciding, limiting, logging)
        for service in sidecar.services
        for name, method in service.methods.items()
    }
    measured = {
        "authz_check": unary(handlers["Check"], read_messages(folder / "authz")),
        "authz_check_callers": unary(handlers["Check"], read_messages(folder / "authz_callers")),
        "authz_check_raw_headers": unary(handlers["Check"], read_messages(folder / "authz_raw_headers")),
        "ratelimit_call": unary(handlers["ShouldRateLimit"], read_messages(folder / "ratelimit")),
        "log_message": streamed(handlers["StreamAccessLogs"], read_messages(folder / "accesslog")),
        "transport_call": no_ops(folder),
    }
    gc.collect()
    gc.freeze()
    gc.disable()  # when a collection comes depends on everything before
    print("ready", flush=True)
    while line := sys.stdin.readline():
        name, number = line.split()
        await measured[name](int(number))
        print("done", flush=True)
    await logging.stop()
    await limiting.stop()
    await deciding.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
