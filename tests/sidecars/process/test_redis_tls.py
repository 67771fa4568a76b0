"""rediss:// to a real Redis, through a server that ends the TLS in front of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from sidecars.process.redis import connect, describe
from sidecars.settings.redis import RedisSettings
from tests.support.authority import Authority
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

pytestmark = pytest.mark.redis

CHUNK_BYTES = 64 * 1024


@asynccontextmanager
async def tls_in_front_of(
    redis: RedisServer, folder: Path, authority: Authority
) -> AsyncIterator[RedisSettings]:
    """Settings that reach `redis` by TLS, with a certificate of `authority`."""
    pair = authority.sign("redis")
    (folder / "server.pem").write_bytes(pair.key + pair.certificate)
    (folder / "ca.pem").write_bytes(authority.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(CHUNK_BYTES):
            target.write(data)
        target.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_redis = await asyncio.open_unix_connection(redis.socket)
        with suppress(OSError):
            await asyncio.gather(pass_on(reader, to_redis[1]), pass_on(to_redis[0], writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield RedisSettings(
            url=f"rediss://localhost:{port}/0",
            ca_file=folder / "ca.pem",
            operation_timeout_ms=5000,
            connect_timeout_ms=5000,
        )


@pytest.mark.parametrize("below", [None, Authority("root")], ids=["a root", "an intermediate alone"])
async def test_the_server_is_verified_with_the_ca_file(
    redis_server: RedisServer, tmp_path: Path, below: Authority | None
) -> None:
    async with tls_in_front_of(redis_server, tmp_path, Authority("private", below=below)) as settings:
        client = connect(settings)
        assert await client.ping()
        await client.aclose()


async def test_a_certificate_without_authority_key_identifier_is_refused_by_name(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """By Python 3.11 and 3.12, too, which would take it by default."""
    private = Authority("private", identified=False)
    async with tls_in_front_of(redis_server, tmp_path, private) as settings:
        client = connect(settings)
        with pytest.raises(RedisError, match="Missing Authority Key Identifier"):
            await client.ping()
        assert "Missing Authority Key Identifier" in str(describe(client)["last_error"])
        await client.aclose()
