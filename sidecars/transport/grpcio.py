"""The services on grpc.aio: the fallback, and the oracle that our own transport is compared with.

Raw bytes go in and out (no serialisers), so the handlers are the very same on both transports.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, assert_never
from urllib.parse import quote, unquote

import grpc
import grpc.aio

from sidecars.transport.api.address import Address, TcpAddress
from sidecars.transport.api.failure import status_of
from sidecars.transport.api.listening import bind_error, remove_stale_socket, socket_mode
from sidecars.transport.api.service import (
    Bidirectional,
    ClientStreaming,
    Metadata,
    Method,
    ServerStreaming,
    Service,
    Unary,
    routes,
)

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""What grpc itself allows by default; a CheckRequest with headers and a buffered body is far smaller."""

MAX_CONCURRENT_STREAMS: Final = 1000
"""Calls at once on one connection: Envoy keeps tens in flight; each costs memory before its handler runs."""

if TYPE_CHECKING:  # generic in the stubs only
    _Context = grpc.aio.ServicerContext[bytes, bytes]
    _Handler = grpc.RpcMethodHandler[bytes, bytes]

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioServer:
    """A `transport.service.Server` on grpc.aio. Messages over `max_message_bytes` get RESOURCE_EXHAUSTED."""

    def __init__(
        self,
        services: tuple[Service, ...],
        addresses: Sequence[Address],
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_concurrent_streams: int = MAX_CONCURRENT_STREAMS,
    ) -> None:
        if any(address.tls is not None for address in addresses):
            raise ValueError("grpcio_server serves no TLS: what asked for it must not be served without")
        self._handlers = _Handlers(routes(services))
        self._addresses = tuple(addresses)
        self._options = (
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", max_concurrent_streams),
            # Two servers on one port would share its connections without a word; a taken port is an error.
            ("grpc.so_reuseport", 0),
        )
        self._server: grpc.aio.Server | None = None
        self._ports: tuple[int, ...] = ()

    async def start(self) -> None:
        """Bind every address and accept. Raises OSError, with the address in it, when one cannot be bound."""
        server = grpc.aio.server(handlers=[self._handlers], options=self._options)
        try:
            bound = [(address, _bind(server, address)) for address in self._addresses]
        except OSError:
            await server.start()  # grpc lets go of its sockets only in the stop of a server that was started
            await server.stop(None)
            raise
        self._ports = tuple(port for address, port in bound if isinstance(address, TcpAddress))
        await server.start()
        self._server = server

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports bound, in the order of the addresses."""
        return self._ports

    async def drain(self, grace_seconds: float) -> None:
        """Take no new work, let calls in flight finish, then close; after `grace_seconds` close anyway."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace_seconds)


def _bind(server: grpc.aio.Server, address: Address) -> int:
    try:
        with ExitStack() as stack:
            if isinstance(address, TcpAddress):
                target = str(address)
            else:
                remove_stale_socket(address)
                stack.enter_context(socket_mode(address))
                # grpc reads the name as a URI; the abstract scheme already implies the leading NUL.
                scheme, path = (
                    ("unix-abstract", address.path[1:]) if address.abstract else ("unix", address.path)
                )
                target = f"{scheme}:{quote(path)}"
            return server.add_insecure_port(target)
    except OSError as error:
        raise bind_error(address, error) from None
    except RuntimeError:
        raise bind_error(address, _why_not(address)) from None


def _why_not(address: Address) -> OSError:
    """The reason that grpc's "Failed to bind" does not tell, found by binding once more."""
    try:
        for family, name in _socket_names(address):
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind(name)
    except OSError as error:
        return error
    return OSError("grpc could not bind it")


def _socket_names(address: Address) -> list[tuple[int, Any]]:
    if isinstance(address, TcpAddress):
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        return [(family, name) for family, _, _, _, name in found]
    return [(socket.AF_UNIX, f"\0{address.path[1:]}" if address.abstract else address.path)]


class _Handlers(grpc.GenericRpcHandler):
    """Every method by its path, as grpc asks for it; None makes grpc answer UNIMPLEMENTED."""

    def __init__(self, methods: dict[str, Method]) -> None:
        self._by_path = {path: _adapt(path, method) for path, method in methods.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "_Handler | None":
        return self._by_path.get(handler_call_details.method)


class _Call:
    """A grpc.aio context as a `transport.service.Call`."""

    def __init__(self, method: str, context: "_Context") -> None:
        self.method = method
        self._context = context
        remaining: float | None = context.time_remaining()
        self.deadline = None if remaining is None else time.monotonic() + remaining
        self._task = asyncio.current_task()

    @cached_property
    def peer(self) -> str:
        peer = unquote(self._context.peer())
        return "unix:" if peer.startswith("unix") else peer

    @cached_property
    def metadata(self) -> Metadata:
        found = self._context.invocation_metadata() or ()
        return {name: value.strip(" \t") if isinstance(value, str) else value for name, value in found}

    @property
    def cancelled(self) -> bool:
        # grpc.aio tells of a peer that left by cancelling the task, before its context knows.
        return self._context.cancelled() or (self._task is not None and self._task.cancelling() > 0)


def _adapt(path: str, method: Method) -> "_Handler":
    handler: Any = method.handler  # its shape is fixed by the arm below that uses it
    match method:
        case Unary():
            return grpc.unary_unary_rpc_method_handler(_one_reply(path, handler))
        case ClientStreaming():
            return grpc.stream_unary_rpc_method_handler(_one_reply(path, handler))
        case ServerStreaming():
            return grpc.unary_stream_rpc_method_handler(_many_replies(path, handler))
        case Bidirectional():
            return grpc.stream_stream_rpc_method_handler(_many_replies(path, handler))
        case _:
            assert_never(method)


def _one_reply(path: str, handler: Callable[[Any, _Call], bytes | Awaitable[bytes]]) -> Any:
    async def answer(request: Any, context: "_Context") -> bytes:
        try:
            reply = handler(request, _Call(path, context))
            return reply if isinstance(reply, bytes) else await reply
        except Exception as error:
            return await _fail(context, error, path)

    return answer


def _many_replies(path: str, handler: Callable[[Any, _Call], AsyncIterable[bytes]]) -> Any:
    async def answer(request: Any, context: "_Context") -> None:
        replies = None
        try:
            replies = handler(request, _Call(path, context))
            async for reply in replies:
                await context.write(reply)
        except Exception as error:
            await _fail(context, error, path)
        finally:
            # A peer that leaves during a write must not leave the generator to the garbage collector.
            close = getattr(replies, "aclose", None)
            if close is not None:
                await close()

    return answer


async def _fail(context: "_Context", error: Exception, path: str) -> bytes:
    status = status_of(error, _Call(path, context))
    await context.abort(_CODES[status.code], status.message)
