import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sidecars.transport.api.address import Address, UnixAddress
from sidecars.transport.api.service import Method, Server
from sidecars.transport.grpcio import MAX_MESSAGE_BYTES
from tests.support.transport.harness import (
    LOOPBACK,
    TRANSPORTS,
    Client,
    Connect,
    Serve,
    Served,
    make_server,
    services,
    within,
)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the sidecars run on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """The name of a transport; a test that asks for it runs on each."""
    name: str = request.param
    return name


@pytest.fixture
async def serve(transport: str) -> AsyncIterator[Serve]:
    """Starts a server with the given methods; every one is closed after the test."""
    started: list[Server] = []

    async def start(
        methods: Mapping[str, Method], *addresses: Address, max_message_bytes: int = MAX_MESSAGE_BYTES
    ) -> Served:
        where = addresses or (LOOPBACK,)
        server = make_server(transport, services(methods), where, max_message_bytes)
        await within(server.start())
        started.append(server)
        return Served(server, where)

    yield start
    for server in started:
        await within(server.drain(0))


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens grpc.aio clients; every one is closed after the test."""
    opened: list[Client] = []

    def open_client(target: str | Served, **options: Any) -> Client:
        client = Client(target.target if isinstance(target, Served) else target, **options)
        opened.append(client)
        return client

    yield open_client
    for client in opened:
        await within(client.channel.close())


@pytest.fixture
def socket_address(tmp_path: Path) -> UnixAddress:
    return UnixAddress(str(tmp_path / "probe.sock"))
