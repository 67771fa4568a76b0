"""The seam between handlers and transports: all that a handler ever sees of gRPC.

A transport carries bytes; what they mean is the handler's business. Every transport in this folder
serves the same `Service` and passes the same tests.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Code(IntEnum):
    """gRPC status codes (grpc/grpc doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended. `message` reaches the peer, so it never holds a secret or a stack trace."""

    code: Code
    message: str = ""


class StatusError(Exception):
    """Raised by a handler to end its call with a status other than OK."""

    def __init__(self, code: Code, message: str = "") -> None:
        super().__init__(f"{code.name}: {message}")
        self.status = Status(code, message)


Metadata = Mapping[str, str | bytes]
"""Request metadata: lower-case names; a `-bin` name has bytes. The last value of a repeated name."""


class Call(Protocol):
    """One call, as its handler sees it."""

    @property
    def method(self) -> str:
        """The full path, `/package.Service/Method`."""

    @property
    def peer(self) -> str:
        """Who calls: `ipv4:127.0.0.1:5000`, `ipv6:[::1]:5000` or `unix:`."""

    @property
    def metadata(self) -> Metadata:
        """The request metadata, decoded when first asked for."""

    @property
    def deadline(self) -> float | None:
        """When the caller gives up, on the clock of `time.monotonic`; None: it never does."""

    @property
    def cancelled(self) -> bool:
        """Whether the caller has gone: its stream was reset or its connection lost."""


UnaryHandler = Callable[[bytes, Call], bytes | Awaitable[bytes]]
"""Returns the reply at once when it can; an awaitable of it only when it must wait."""

ClientStreamingHandler = Callable[[AsyncIterator[bytes], Call], Awaitable[bytes]]
"""Reads messages until the iterator ends, then returns the one reply. Not reading stops the peer."""

ServerStreamingHandler = Callable[[bytes, Call], AsyncIterator[bytes]]
"""Yields replies. Is cancelled (asyncio.CancelledError) when the caller goes away."""

BidirectionalHandler = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]
"""Reads and yields as it likes."""


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one request and one reply."""

    handler: UnaryHandler
    exemplar: Callable[[bytes], Mapping[str, str]] | None = None
    """Returns the labels by which a call can be found from its reply, for the exemplars of its durations."""
    urgent: Callable[[bytes], bool] | None = None
    """Returns whether a call with this message may wait for longer than others before it is shed; None: no
    call may. Raises nothing."""
    shed: Callable[[], None] | None = None
    """Called for each call that the transport refuses because it waited too long."""


LateMessageHandler = Callable[[bytes, Call], bool]
"""Takes a message that the client sent before it knew of the reply; returns whether to read on."""


@dataclass(frozen=True, slots=True)
class ClientStreaming:
    """A method with many requests and one reply."""

    handler: ClientStreamingHandler
    waits_for_message: bool = False
    """Whether the handler has nothing to do before the first message or the end of the request. The transport
    may then start it only when one of them comes: a stream that sends nothing costs much less."""
    after_reply: LateMessageHandler | None = None
    """Takes what comes after the handler has ended the call. Transport `grpcio` does not read that, and
    `native` only if this is set."""


@dataclass(frozen=True, slots=True)
class ServerStreaming:
    """A method with one request and many replies."""

    handler: ServerStreamingHandler


@dataclass(frozen=True, slots=True)
class Bidirectional:
    """A method with many requests and many replies."""

    handler: BidirectionalHandler


Method = Unary | ClientStreaming | ServerStreaming | Bidirectional


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service: its full name (`envoy.service.auth.v3.Authorization`) and methods by name."""

    name: str
    methods: Mapping[str, Method]


def routes(services: tuple[Service, ...]) -> dict[str, Method]:
    """Every method of `services` by its full path, as the `:path` header spells it."""
    return {
        f"/{service.name}/{name}": method for service in services for name, method in service.methods.items()
    }


class Server(Protocol):
    """A transport that serves: made by its constructor, inert until `start`."""

    async def start(self) -> None:
        """Bind every address and accept. Raises OSError, with the address in it, when one cannot be bound."""

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports bound, in the order of the addresses (0 asked for means: the port given)."""

    async def drain(self, grace_seconds: float) -> None:
        """Take no new work, let calls in flight finish, then close; after `grace_seconds` close anyway."""
