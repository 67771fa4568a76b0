"""A real master with replica and Sentinels, and a real Redis Cluster, for tests."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis

from common.redis_cluster import SLOTS, NodeAddress, key_slot
from sidecars.settings.redis import RedisSettings
from tests.support.free_ports import free_port
from tests.support.redis_server import RedisServer, server_binary

WAIT_SECONDS = 30.0
"""Bounds each wait for a topology on a busy machine."""

MASTER = "MyMaster"
"""The name of the master, as Sentinels know it."""

PATIENT = {"operation_timeout_ms": 5000, "connect_timeout_ms": 5000}
"""For a loaded machine."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return once `condition` is true. Raises TimeoutError."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        if time.monotonic() > until:
            raise TimeoutError(what)
        time.sleep(0.02)


class SentinelServer:
    """A Sentinel process that watches one master."""

    def __init__(self, master_port: int, *arguments: str) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="rs-"))
        file = self.folder / "sentinel.conf"
        file.write_text(
            f"sentinel monitor {MASTER} 127.0.0.1 {master_port} 2\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\n"
            f"sentinel failover-timeout {MASTER} 5000\n" + "".join(f"{line}\n" for line in arguments)
        )
        command = [server_binary(), str(file), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def client(self) -> "redis.Redis":
        """Return a blocking client. The caller closes it."""
        return redis.Redis(port=self.port)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


class Sentinels:
    """A master, a replica, and three Sentinels that agree with two votes."""

    def __init__(self, arguments: tuple[str, ...] = (), sentinel_lines: tuple[str, ...] = ()) -> None:
        more = ("--repl-diskless-sync-delay", "0", *arguments)
        self.servers = [RedisServer(tcp=True, arguments=more), RedisServer(tcp=True, arguments=more)]
        self.sentinels: list[SentinelServer] = []
        self._lines = sentinel_lines
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self.servers:
                stack.enter_context(server)
            self.servers[1].follow(self.servers[0])
            for _ in range(3):
                sentinel = SentinelServer(self.servers[0].port, *self._lines)
                stack.callback(sentinel.close)
                self.sentinels.append(sentinel)
            wait_until(self._ready, "the Sentinels do not know each other")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _ready(self) -> bool:
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                state: Any = client.execute_command("SENTINEL MASTER", MASTER)
                if (state["num-other-sentinels"], state["num-slaves"], state["is_sdown"]) != (2, 1, False):
                    return False
        return True

    def settings(self, **more: Any) -> RedisSettings:
        """Return settings that lead to the master."""
        urls = [f"redis://127.0.0.1:{sentinel.port}" for sentinel in self.sentinels]
        return RedisSettings(url=f"redis://{MASTER}/0", sentinel={"urls": urls}, **(PATIENT | more))

    @property
    def master(self) -> RedisServer:
        """The server that the Sentinels agree on."""
        ports = set()
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                found: Any = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", MASTER)
                ports.add(found[1])
        if len(ports) > 1:
            raise redis.ConnectionError("they do not agree yet")
        [server] = [server for server in self.servers if server.port in ports]
        return server

    def fail_over(self) -> None:
        """Ask for a planned failover and return when all Sentinels name the new master."""
        before = self.master
        with self.sentinels[0].client() as client:

            def asked() -> bool:
                return bool(client.execute_command("SENTINEL FAILOVER", MASTER))

            wait_until(asked, "no Sentinel begins the failover")
        self.wait_for_another_master(before)

    def wait_for_another_master(self, before: RedisServer) -> None:
        """Return when all Sentinels name a master other than `before`."""
        wait_until(lambda: self.master is not before, "no failover")

    def resettle(self) -> None:
        """Return when the servers are a master and its replica again, as every Sentinel sees it."""
        for server in self.servers:
            server.start()
        wait_until(lambda: self._ready() and self._replicates(), "the replica does not follow")

    def _replicates(self) -> bool:
        master = self.master
        [other] = [server for server in self.servers if server is not master]
        with other.client() as client:
            info: Any = client.info("replication")
            return bool(info.get("master_link_status") == "up" and info["master_port"] == master.port)


class RedisCluster:
    """Three masters that share the slots; with `replicas`, each has a replica."""

    def __init__(self, *, replicas: bool = False, arguments: tuple[str, ...] = ()) -> None:
        more = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "500"),
            *("--repl-diskless-sync-delay", "0", *arguments),
        )
        count = 6 if replicas else 3
        # The port of the bus is 10,000 higher, and must be a port, too.
        self.servers = [RedisServer(tcp=True, arguments=more) for _ in range(count)]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self.servers:
                stack.enter_context(server)
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _join(self) -> None:
        first = self.servers[0]
        for number, server in enumerate(self.servers):
            with server.client() as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                if number:
                    client.execute_command("CLUSTER MEET", "127.0.0.1", first.port)
                if number < 3:
                    begin, end = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
                    client.execute_command("CLUSTER ADDSLOTSRANGE", begin, end)
        wait_until(lambda: all(self._knows(server) == len(self.servers) for server in self.servers), "gossip")
        for master, replica in zip(self.servers[:3], self.servers[3:], strict=False):
            with replica.client() as client:
                wait_until(
                    lambda client=client, master=master: client.execute_command(  # type: ignore[misc]
                        "CLUSTER REPLICATE", self.node_id(master)
                    ),
                    "no replica",
                )
        wait_until(self.is_ok, "the cluster is not ok")

    @staticmethod
    def _knows(server: RedisServer) -> int:
        with server.client() as client:
            return int(_info(client)["cluster_known_nodes"])

    def is_ok(self) -> bool:
        """Whether every running node says that all slots are served, and replicas have all data."""
        for server in self.servers:
            if not server.running:
                continue
            with server.client() as client:
                if _info(client)["cluster_state"] != "ok":
                    return False
                if client.info("replication").get("master_link_status", "up") != "up":
                    return False
        return True

    @staticmethod
    def node_id(server: RedisServer) -> str:
        """Return the id of a node."""
        with server.client() as client:
            found: Any = client.execute_command("CLUSTER MYID")
            return str(found.decode())

    def settings(self, **more: Any) -> RedisSettings:
        """Return settings that name one node, and another to start from."""
        nodes = [f"127.0.0.1:{server.port}" for server in self.servers[1:3]]
        url = f"redis://127.0.0.1:{self.servers[0].port}"
        return RedisSettings(url=url, cluster={"nodes": nodes}, **(PATIENT | more))

    def owner(self, key: str) -> RedisServer:
        """Return the server that has the slot of `key`, as the nodes that run say."""
        for server in self.servers:
            if server.running:
                port = _owners(server)[key_slot(key.encode())][1]
                return next(server for server in self.servers if server.port == port)
        raise RuntimeError("no node runs")

    def begin_migration(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Let `target` import `slot` from `source`: from now on nodes answer ASK for missing keys."""
        with target.client() as client:
            client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self.node_id(source))
        with source.client() as client:
            client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self.node_id(target))

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move all keys of `slot`."""
        with source.client() as client:
            while True:
                keys: Any = client.execute_command("CLUSTER GETKEYSINSLOT", slot, 100)
                if not keys:
                    return
                client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

    def end_migration(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Make `target` the owner of `slot`, known to every node."""
        node = self.node_id(target)
        for server in (target, source, *self.servers):
            if server.running:
                with server.client() as client:
                    if client.info("replication")["role"] == "master":
                        client.execute_command("CLUSTER SETSLOT", slot, "NODE", node)


def _info(client: "redis.Redis") -> dict[str, str]:
    untyped: Any = client
    found: Any = untyped.execute_command("CLUSTER INFO")
    text = (
        found
        if isinstance(found, dict)
        else dict(line.split(":", 1) for line in found.decode().split("\r\n") if ":" in line)
    )
    return {str(key): str(value) for key, value in text.items()}


def _owners(server: RedisServer) -> list[NodeAddress]:
    with server.client() as client:
        untyped: Any = client
        untyped.set_response_callback("CLUSTER SLOTS", lambda answer, **_: answer)
        found: Any = untyped.execute_command("CLUSTER SLOTS")
    owners: list[NodeAddress] = [("", 0)] * SLOTS
    for begin, end, master, *_ in found:
        owners[begin : end + 1] = [(master[0].decode(), master[1])] * (end - begin + 1)
    return owners


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    """A master, a replica and three Sentinels for one test."""
    with Sentinels() as topology:
        yield topology


@pytest.fixture(scope="session")
def _session_sentinels() -> Iterator[Sentinels]:
    with Sentinels() as topology:
        yield topology


@pytest.fixture
def shared_sentinels(_session_sentinels: Sentinels) -> Sentinels:
    """A master without data, its replica and Sentinels, which tests share and do not stop or pause."""
    with _session_sentinels.master.client() as client:
        client.flushall()
    return _session_sentinels


@pytest.fixture(scope="session")
def _session_cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as topology:
        yield topology


@pytest.fixture
def redis_cluster(_session_cluster: RedisCluster) -> RedisCluster:
    """An empty cluster of three nodes that tests share: what they move, they move back."""
    for server in _session_cluster.servers:
        with server.client() as client:
            client.flushall()
    return _session_cluster
