"""Starts a server on any transport, and has the tools that its tests share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio

from sidecars.transport.api.address import Address, TcpAddress, UnixAddress
from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Call, Method, Server, Service
from sidecars.transport.grpcio import MAX_MESSAGE_BYTES, GrpcioServer
from sidecars.transport.server.server import GrpcServer

T = TypeVar("T")
Requests = AsyncIterator[bytes] | Iterator[bytes] | None

WAIT_SECONDS = 30.0
"""The bound of every wait: far above the need of a slow machine, so that it only ends a hang."""

SERVICE = "test.v1.Probe"
LOOPBACK = TcpAddress("127.0.0.1", 0)
TRANSPORTS = ("grpcio", "native")

CLIENT_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # one connection for each channel, so that tests do not share one
    ("grpc.enable_retries", 0),  # a lost call must be visible
    ("grpc.max_receive_message_length", -1),
)


def make_server(
    transport: str,
    services: tuple[Service, ...],
    addresses: Sequence[Address],
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> Server:
    if transport == "grpcio":
        return GrpcioServer(services, addresses, max_message_bytes=max_message_bytes)
    return GrpcServer(services, addresses, limits=Limits(max_message_bytes=max_message_bytes))


@dataclass(frozen=True, slots=True)
class Served:
    """A running server and its addresses."""

    server: Server
    addresses: tuple[Address, ...]

    @property
    def port(self) -> int:
        return self.server.ports[0]

    @property
    def target(self) -> str:
        """The first address, in the syntax of a grpc client."""
        address = self.addresses[0]
        if isinstance(address, UnixAddress):
            return f"unix-abstract:{address.path[1:]}" if address.abstract else f"unix:{address.path}"
        return str(TcpAddress(address.host, self.port))


class Client:
    """A grpc.aio channel for raw bytes, with one method for each kind of call."""

    def __init__(self, target: str, **options: Any) -> None:
        self.channel = grpc.aio.insecure_channel(target, options=CLIENT_OPTIONS, **options)

    def unary(self, method: str, request: bytes, **options: Any) -> "grpc.aio.UnaryUnaryCall[bytes, bytes]":
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path(method))
        return call(request, **options)

    def client_stream(
        self, method: str, requests: Requests = None, **options: Any
    ) -> "grpc.aio.StreamUnaryCall[bytes, bytes]":
        call: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = self.channel.stream_unary(path(method))
        return call(requests, **options)

    def server_stream(
        self, method: str, request: bytes, **options: Any
    ) -> "grpc.aio.UnaryStreamCall[bytes, bytes]":
        call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self.channel.unary_stream(path(method))
        return call(request, **options)

    def both(
        self, method: str, requests: Requests = None, **options: Any
    ) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
        call: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self.channel.stream_stream(path(method))
        return call(requests, **options)


Serve = Callable[..., Awaitable[Served]]
Connect = Callable[..., Client]


def services(methods: Mapping[str, Method]) -> tuple[Service, ...]:
    return (Service(SERVICE, methods),)


def path(method: str) -> str:
    """Return the path of a method of the test service; a path is unchanged."""
    return method if method.startswith("/") else f"/{SERVICE}/{method}"


async def within(awaitable: Awaitable[T]) -> T:
    """Return the result of `awaitable`. Raises TimeoutError instead of hanging."""
    async with asyncio.timeout(WAIT_SECONDS):
        return await awaitable


async def outcome(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """Return the status that `call` ended with."""
    try:
        await within(call)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def read_all(call: Any) -> list[bytes]:
    """Return every reply of a streaming call. Raises AioRpcError if the call ends with an error."""

    async def replies() -> list[bytes]:
        found = []
        while (reply := await call.read()) is not grpc.aio.EOF:
            found.append(reply)
        if await call.code() is not grpc.StatusCode.OK:  # read() alone hides the error
            raise grpc.aio.AioRpcError(await call.code(), details=await call.details())
        return found

    return await within(replies())


class Gate:
    """A handler that waits until the test releases it, and records how it ended."""

    def __init__(self) -> None:
        self.entered = asyncio.Semaphore(0)
        self.open = asyncio.Event()
        self.left = asyncio.Semaphore(0)
        self.cancelled: list[bool] = []

    async def unary(self, request: bytes, call: Call) -> bytes:
        await self.hold(call)
        return request

    async def hold(self, call: Call) -> None:
        self.entered.release()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(call.cancelled)
            raise
        finally:
            self.left.release()

    async def wait_entered(self, calls: int = 1) -> None:
        for _ in range(calls):
            await within(self.entered.acquire())

    async def wait_left(self, calls: int = 1) -> None:
        for _ in range(calls):
            await within(self.left.acquire())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110  # the conditions of these tests have no event to wait for
            await asyncio.sleep(0.005)


async def settled(read: Callable[[], int]) -> int:
    """Return the result of `read` once it no longer rises."""
    last, unchanged = read(), 0
    async with asyncio.timeout(WAIT_SECONDS):
        while unchanged < 10:
            await asyncio.sleep(0.03)
            now = read()
            unchanged = unchanged + 1 if now == last else 0
            last = now
    return last
