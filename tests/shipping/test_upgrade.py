"""A rolling upgrade from an earlier commit under load: no request fails and no session is lost."""

import asyncio
import os
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import yaml

from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.process import ChildProcess, spawn
from tests.envoy.test_workers import MIN_REQUESTS, READY_SECONDS, STOP_SECONDS, loaded, more_checks
from tests.support.manifests import ROOT
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.timeout(400)

FROM = "9fe2bef"
"""Before sessions had a version. The last tag, once there is one."""

POLICY = {
    "credentials": {"sessions": {"store": "redis"}},
    "rules": [
        {"name": "members", "methods": ["GET"], "paths": ["/open/{rest=**}"], "allow": {"roles": ["member"]}}
    ],
}


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tree of the earlier commit."""
    folder = tmp_path_factory.mktemp("older")
    packed = folder / "tree.tar"
    done = subprocess.run(["git", "archive", "-o", packed, FROM], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"the clone lacks the commit {FROM}: git fetch --unshallow")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    return folder


class Version:
    """The sidecars of one tree, with the dependencies of this environment."""

    def __init__(self, tree: Path, folder: Path, redis_url: str) -> None:
        self._folder = folder
        self._redis_url = redis_url
        own = {key: value for key, value in os.environ.items() if not key.startswith("SIDECARS_")}
        self._environment = {**own, "PYTHONPATH": str(tree)}
        self._command = (sys.executable, "-P", "-m", "sidecars")
        where = [sys.executable, "-P", "-c", "import sidecars; print(sidecars.__file__)"]
        told = subprocess.run(where, env=self._environment, capture_output=True, text=True, check=True)
        assert Path(told.stdout.strip()).is_relative_to(tree)

    def settings(self, name: str) -> Path:
        file = self._folder / f"{name}.yaml"
        file.write_text(
            yaml.safe_dump(
                {
                    "admin": {"listen": f"unix:{self._folder}/{name}.admin"},
                    "drain": {"drain_delay_seconds": 2},
                    # A busy machine may pause for longer than the default of 10 ms.
                    "redis": {
                        "url": self._redis_url,
                        "operation_timeout_ms": 9_000,
                        "connect_timeout_ms": 9_000,
                    },
                    "authz": {"listen": [f"unix:{self._folder}/{name}.0.sock"], "policy": ["policy.yaml"]},
                }
            )
        )
        return file

    @asynccontextmanager
    async def running(self, name: str) -> AsyncIterator[ChildProcess]:
        command = (*self._command, "run", "authz", "--config", str(self.settings(name)))
        log = self._folder / f"{name}.log"
        async with spawn(
            name, command, log, stop_seconds=STOP_SECONDS, environment=self._environment
        ) as process:
            await process.until_ready(SidecarsAdmin(self._folder / f"{name}.admin").ready, READY_SECONDS)
            yield process

    def new_session(self) -> str:
        """Create a session as a login application does, and return its token."""
        create = (
            "session",
            "create",
            "--subject",
            "alice",
            "--role",
            "member",
            "--config",
            str(self.settings("client")),
        )
        done = subprocess.run(
            [*self._command, *create], env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]


async def test_a_rolling_upgrade_under_load_fails_no_request_and_keeps_sessions(
    older: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("u")
    (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    names = ("one", "two")
    admins = {name: SidecarsAdmin(folder / f"{name}.admin") for name in names}
    with RedisServer() as redis:
        before, after = (Version(tree, folder, redis.url) for tree in (older, ROOT))
        async with AsyncExitStack() as stack:
            processes = {name: await stack.enter_async_context(before.running(name)) for name in names}
            tokens = [await asyncio.to_thread(before.new_session)]
            async with loaded(folder, "one.0", "two.0", cookies=tokens) as load:
                for name, other in (names, names[::-1]):
                    await more_checks(admins[name])
                    assert await processes[name].stop(STOP_SECONDS) == 0
                    await more_checks(admins[other])
                    processes[name] = await stack.enter_async_context(after.running(name))
                    await more_checks(admins[name])
                    # While both versions serve, each accepts the sessions of the other.
                    tokens.append(await asyncio.to_thread(after.new_session))
                    await more_checks(admins[other])
    print(f"requests: {load.requests}, failed: {len(load.failures)}")  # noqa: T201  # for docs/versions.md
    assert load.requests >= MIN_REQUESTS
    assert not load.failures, "\n".join(load.failures[:5])
