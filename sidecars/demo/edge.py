"""A whole edge on this machine: identity provider, upstream, the three sidecars and Envoy."""

import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from authz.credentials.api_key.verifier import new_api_key
from common.configfile import read
from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.configuration import (
    SECOND_EDGE,
    CredentialLocations,
    envoy_configuration,
    write_sidecar_files,
)
from sidecars.demo.envoy import Envoy, find_envoy, scripts_folder, serve_envoy
from sidecars.demo.idp import IdentityProvider, serve_idp
from sidecars.demo.login import serve_login
from sidecars.demo.process import ChildProcess, spawn
from sidecars.demo.until import until
from sidecars.demo.upstream import Echo, serve_upstream

READY_SECONDS: Final = 60.0
"""The sidecars start in about a second; a busy machine takes longer."""
STOP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Edge:
    """The running parts, and their addresses."""

    url: str
    other_url: str
    """The listener whose requests the second authz decides; equal to `url` if there is none."""
    places: CredentialLocations
    provider: IdentityProvider
    echo: Echo
    sidecars: ChildProcess
    envoy: Envoy
    admin: SidecarsAdmin
    api_key: str
    processes: tuple[ChildProcess, ...]
    """Every process of the edge, apart from Redis."""
    login_url: str = ""
    """Where a browser signs in; empty if the login application does not run."""

    async def change_policy(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the policy with `change`, and return once every authz uses it."""
        policy = read(self.places.policy_file).data
        change(policy)
        before = await self.admin.policy_revision()
        self.places.policy_file.write_text(yaml.safe_dump(policy, sort_keys=False), encoding="utf-8")
        sockets = {self.places.admin_socket}
        if self.places.redis_url is not None:
            sockets.add(self.places.other_admin_socket)
        for socket in sockets:
            await until(lambda socket=socket: _decides_anew(socket, before), "the changed policy decides")  # type: ignore[misc]


async def _decides_anew(admin_socket: Path, before: str) -> bool:
    return await SidecarsAdmin(admin_socket).policy_revision() != before


@asynccontextmanager
async def serve_edge(
    folder: Path,
    environment: Mapping[str, str],
    *,
    port: int = 0,
    redis_url: str | None = None,
    console_port: int | None = None,
    login: bool = False,
    change_envoy: Callable[[dict[str, Any], Path], None] = lambda _configuration, _folder: None,
    change_settings: Callable[[dict[str, Any]], None] = lambda _settings: None,
    progress: Callable[[str], None] = lambda _line: None,
    wall_clock: Callable[[], float] = time.time,
) -> AsyncIterator[Edge]:
    """Run the edge on 127.0.0.1 during the block, and stop it afterwards.

    All files are written to `folder`; `progress` is called for each step. With `redis_url` there are two
    authz sidecars, which share that Redis. With `console_port` a browser reaches the console there. With
    `login` the sample login application runs, which needs the extra `login`.
    `change_envoy` may change the configuration of Envoy, and also gets `folder`; `change_settings` may change
    the settings of the sidecars. Raises EnvoyError and ProcessError, each with the end of the log of the
    program that did not start.
    """
    program = find_envoy(environment, scripts_folder())
    async with AsyncExitStack() as running:
        progress("Starting the identity provider and the upstream ...")
        provider, echo = IdentityProvider(wall_clock), Echo()
        idp_port = await running.enter_async_context(serve_idp(provider))
        upstream_port = await running.enter_async_context(serve_upstream(echo))
        places = CredentialLocations(folder, port, upstream_port, idp_port, redis_url, console_port, login)
        api_key, api_key_hash = new_api_key("reports", secrets.token_bytes)
        write_sidecar_files(places, api_key_hash, change_settings)

        progress("Starting authz, ratelimit and accesslog ...")
        sidecars = await running.enter_async_context(serve_sidecars(places, environment))
        processes = [sidecars]
        if redis_url is not None:
            progress("Starting a second authz, which shares Redis with the first ...")
            processes.append(await running.enter_async_context(_serve_second_authz(places, environment)))

        progress(f"Starting Envoy ({program.found}) ...")
        configuration = envoy_configuration(places)
        change_envoy(configuration, folder)
        envoy = await running.enter_async_context(serve_envoy(program, configuration, folder))
        processes.append(envoy.process)
        url, other_url = (
            f"http://127.0.0.1:{envoy.ports.get(listener, envoy.ports['edge'])}"
            for listener in ("edge", SECOND_EDGE)
        )
        login_url = ""
        if login:
            progress("Starting the login application ...")
            application = serve_login(places, provider, url, environment)
            processes.append(await running.enter_async_context(application))
            login_url = f"{url}/auth/me"
        admin = SidecarsAdmin(places.admin_socket)
        yield Edge(
            url,
            other_url,
            places,
            provider,
            echo,
            sidecars,
            envoy,
            admin,
            api_key,
            tuple(processes),
            login_url,
        )


@asynccontextmanager
async def serve_sidecars(
    places: CredentialLocations, environment: Mapping[str, str]
) -> AsyncIterator[ChildProcess]:
    """Run the three sidecars in a separate process during the block, with the files of `places`."""
    async with _serve("the sidecars", places.settings_file, places.admin_socket, environment) as process:
        yield process


def _serve_second_authz(
    places: CredentialLocations, environment: Mapping[str, str]
) -> AbstractAsyncContextManager[ChildProcess]:
    return _serve("the second authz", places.other_settings_file, places.other_admin_socket, environment)


@asynccontextmanager
async def _serve(
    name: str, settings_file: Path, admin_socket: Path, environment: Mapping[str, str]
) -> AsyncIterator[ChildProcess]:
    command = (sys.executable, "-m", "sidecars", "run", "all", "--config", str(settings_file))
    # Environment settings of the caller's own sidecars must not affect these.
    own = {name: value for name, value in environment.items() if not name.startswith("SIDECARS_")}
    log = settings_file.with_suffix(".log")
    async with spawn(name, command, log, stop_seconds=STOP_SECONDS, environment=own) as process:
        await process.until_ready(SidecarsAdmin(admin_socket).ready, READY_SECONDS)
        yield process
