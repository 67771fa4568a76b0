"""Sentinels and a cluster that ask for TLS, client certificates, users and passwords.

The servers of the tests have no TLS, so a relay ends it in front of each. Nodes of the cluster announce the
ports of their relays.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from common.buckets import MAX_WINDOW_US, TokenBucket
from common.redis_cluster import NodeAddress
from ratelimit.stores.store import StoreError, Take
from sidecars.process.redis import ClientMaker, connect, describe
from sidecars.process.redis_cluster import RedisCluster as ClusterNodes
from sidecars.settings.redis import RedisSettings
from tests.support.authority import Authority
from tests.support.cluster_store import cluster_store
from tests.support.redis_topologies import PATIENT, RedisCluster, Sentinels, shared_sentinels
from tests.support.redis_topologies import _session_sentinels as _session_sentinels  # noqa: PLC0414

__all__ = ["shared_sentinels"]

pytestmark = pytest.mark.redis

CHUNK_BYTES = 64 * 1024
SLOW = TokenBucket(10, 10, MAX_WINDOW_US)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority of servers and clients; its files and those of a client are in `tmp_path`."""
    found = Authority("private")
    (tmp_path / "ca.pem").write_bytes(found.certificate)
    for name in ("redis", "client"):
        pair = found.sign(name)
        (tmp_path / f"{name}.pem").write_bytes(pair.certificate)
        (tmp_path / f"{name}.key").write_bytes(pair.key)
    (tmp_path / "password").write_text("sesame\n")
    return found


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> dict[str, Any]:
    names = {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key"}
    return {key: tmp_path / name for key, name in names.items()} | PATIENT


@asynccontextmanager
async def relays(folder: Path, ports: Sequence[int]) -> AsyncIterator[list[int]]:
    """Ports of servers that end TLS in front of `ports`, for clients with a certificate alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "redis.pem", folder / "redis.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                target.write(data)
        target.close()

    async def begin(port: int) -> asyncio.Server:
        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            plain = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pass_on(reader, plain[1]), pass_on(plain[0], writer))

        return await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)

    async with AsyncExitStack() as stack:
        servers = [await begin(port) for port in ports]
        for server in servers:
            stack.push_async_callback(server.wait_closed)
            stack.callback(server.close)
        yield [server.sockets[0].getsockname()[1] for server in servers]


def users(servers: Sequence[Any]) -> None:
    """Give each server the user that the settings name, with what a cluster and Sentinels need."""
    for server in servers:
        with server.client() as client:
            rules = ["reset", "on", ">sesame", "~*", "&*", "+@all", "-@dangerous", "+info", "+role"]
            client.execute_command("ACL", "SETUSER", "sidecars", *rules)
            if server.arguments:
                client.execute_command("ACL", "SETUSER", "sidecars", "+cluster|slots")


class FixedRoute:
    """Leads to one address."""

    def __init__(self, address: NodeAddress) -> None:
        self._address = address

    async def address(self) -> NodeAddress:
        return self._address

    def suspect(self) -> None: ...

    async def close(self) -> None: ...


async def test_a_cluster_by_tls_with_a_client_certificate_and_a_user(
    tmp_path: Path, files: dict[str, Any]
) -> None:
    topology = RedisCluster()
    async with relays(tmp_path, [server.port for server in topology.servers]) as ports:
        for server, port in zip(topology.servers, ports, strict=True):
            announced = ("--cluster-announce-port", str(port))
            bus = ("--cluster-announce-bus-port", str(server.port + 10_000))
            server.arguments += (*announced, *bus)
        with topology:
            users(topology.servers)
            settings = RedisSettings(
                url=f"rediss://localhost:{ports[0]}",
                cluster={},
                username="sidecars",
                password_file=tmp_path / "password",
                **files,
            )
            nodes = ClusterNodes(ClientMaker(settings))
            store = cluster_store(nodes)
            taken = await asyncio.gather(*[store.take([Take(f"k{n}", SLOW, 1)]) for n in range(30)])
            assert [one.remaining for [one] in taken] == [9] * 30
            assert len(nodes.describe()["nodes"]) == 3
            whoami: Any = nodes.client(nodes.owner(0) or ("", 0)).acl_whoami()
            assert await whoami == "sidecars"
            await store.close()
            await nodes.aclose()


async def test_a_cluster_is_refused_by_its_certificate(tmp_path: Path, files: dict[str, Any]) -> None:
    (tmp_path / "ca.pem").write_bytes(Authority("another").certificate)
    other = RedisCluster()  # not started: the handshake fails before it is reached
    pair = Authority("private").sign("redis")
    (tmp_path / "redis.pem").write_bytes(pair.certificate)
    (tmp_path / "redis.key").write_bytes(pair.key)
    async with relays(tmp_path, [other.servers[0].port]) as [port]:
        nodes = ClusterNodes(
            ClientMaker(RedisSettings(url=f"rediss://localhost:{port}", cluster={}, **files))
        )
        store = cluster_store(nodes)
        with pytest.raises(StoreError, match="certificate verify failed"):
            await store.take([Take("k", SLOW, 1)])
        await store.close()
        await nodes.aclose()


async def test_sentinels_by_tls_with_users_of_their_own(
    tmp_path: Path, files: dict[str, Any], shared_sentinels: Sentinels
) -> None:
    users(shared_sentinels.servers)
    for sentinel in shared_sentinels.sentinels:
        with sentinel.client() as client:
            client.execute_command(
                *[
                    "ACL",
                    "SETUSER",
                    "watcher",
                    "reset",
                    "on",
                    ">open",
                    "&*",
                    "+ping",
                    "+subscribe",
                    "+sentinel",
                ]
            )
    (tmp_path / "other").write_text("open")
    async with relays(tmp_path, [one.port for one in shared_sentinels.sentinels]) as ports:
        plain = shared_sentinels.settings()
        watcher = {
            "urls": [f"rediss://localhost:{port}" for port in ports],
            "username": "watcher",
            "password_file": tmp_path / "other",
        }
        known = {"username": "sidecars", "password_file": tmp_path / "password", "sentinel": watcher}
        async with connect(RedisSettings(url=plain.url, **known, **files)) as client:
            assert await client.acl_whoami() == "sidecars"
            assert describe(client)["sentinel_problems"] == {}
        (tmp_path / "other").write_text("wrong")
        async with connect(RedisSettings(url=plain.url, **known, **files)) as client:
            with pytest.raises(RedisError, match=r"no Sentinel names the master .*WRONGPASS"):
                await client.ping()


async def test_a_master_by_tls(tmp_path: Path, files: dict[str, Any], shared_sentinels: Sentinels) -> None:
    async with relays(tmp_path, [shared_sentinels.master.port]) as [port]:
        maker = ClientMaker(RedisSettings(url="rediss://unused/0", **files))
        client: Redis = maker.routed(FixedRoute(("localhost", port)))
        assert await client.ping()
        await client.aclose()
