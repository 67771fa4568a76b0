"""A rolling upgrade from an earlier commit under load: no request fails and no session is lost."""

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.process import ChildProcess
from tests.envoy.test_workers import MIN_REQUESTS, loaded, more_checks
from tests.support.earlier import STOP_SECONDS, Version, redis_section, tree_of
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


def sections(folder: Path, name: str, redis_url: str) -> dict[str, Any]:
    """Return the settings of one authz process."""
    authz = {"listen": [f"unix:{folder}/{name}.0.sock"], "policy": ["policy.yaml"]}
    return {"redis": redis_section(redis_url), "authz": authz}


def new_session(version: Version, folder: Path, redis_url: str) -> str:
    """Create a session as a login application does, and return its token."""
    settings = version.settings("client", **sections(folder, "client", redis_url))
    create = ("session", "create", "--subject", "alice", "--role", "member", "--config", str(settings))
    return version.run(*create).split()[-1]


async def test_a_rolling_upgrade_under_load_fails_no_request_and_keeps_sessions(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("u")
    (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    names = ("one", "two")
    admins = {name: SidecarsAdmin(folder / f"{name}.admin") for name in names}
    before, after = Version(tree_of(FROM, folder), folder), Version(ROOT, folder)
    with RedisServer() as redis:

        def started(version: Version, name: str) -> AbstractAsyncContextManager[ChildProcess]:
            return version.running(name, "authz", **sections(folder, name, redis.url))

        async with AsyncExitStack() as stack:
            processes = {name: await stack.enter_async_context(started(before, name)) for name in names}
            tokens = [await asyncio.to_thread(new_session, before, folder, redis.url)]
            async with loaded(folder, "one.0", "two.0", cookies=tokens) as load:
                for name, other in (names, names[::-1]):
                    await more_checks(admins[name])
                    assert await processes[name].stop(STOP_SECONDS) == 0
                    await more_checks(admins[other])
                    processes[name] = await stack.enter_async_context(started(after, name))
                    await more_checks(admins[name])
                    # While both versions serve, each accepts the sessions of the other.
                    tokens.append(await asyncio.to_thread(new_session, after, folder, redis.url))
                    await more_checks(admins[other])
    print(f"requests: {load.requests}, failed: {len(load.failures)}")  # noqa: T201  # for docs/versions.md
    assert load.requests >= MIN_REQUESTS
    assert not load.failures, "\n".join(load.failures[:5])
