"""Credentials in service, on clocks that stand until a test moves them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from authz.credentials import Credentials
from authz.credentials.jwt.verifier import Tokens
from tests.support.credentials import CredentialsHarness
from tests.support.redis_server import RedisServer, _session_redis, redis_pair, redis_server, shared_redis
from tests.support.webserver import WebServer

__all__ = ["_session_redis", "redis_pair", "redis_server", "shared_redis"]


@pytest.fixture
def harness(tmp_path: Path) -> CredentialsHarness:
    return CredentialsHarness(tmp_path)


@pytest.fixture
async def redis(shared_redis: RedisServer) -> AsyncIterator[Redis]:
    """A client of the shared Redis, which is empty."""
    client: Redis = Redis.from_url(shared_redis.url)
    yield client
    await client.aclose()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[], Awaitable[WebServer]]]:
    """Starts real HTTP servers on loopback, and stops them after the test."""
    servers: list[WebServer] = []

    async def start() -> WebServer:
        server = WebServer()
        servers.append(server)
        await server.start()
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def started() -> AsyncIterator[Callable[[Credentials], Any]]:
    """Starts credentials, and stops them after the test."""
    running: list[Credentials] = []

    async def start(credentials: Credentials) -> Credentials:
        running.append(credentials)
        await credentials.start()
        return credentials

    yield start
    for credentials in running:
        await credentials.stop()


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens that were verified in full."""
    seen: list[str] = []
    original = Tokens.verify

    def counted(self: Tokens, text: str, now: float, *rest: Any) -> Any:
        seen.append(text)
        return original(self, text, now, *rest)

    monkeypatch.setattr(Tokens, "verify", counted)
    return seen
