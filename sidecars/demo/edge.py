"""A whole edge on this machine: identity provider, upstream, the three sidecars, and an Envoy before them."""

import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from authz.credentials.apikey import new_api_key
from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.configuration import Places, envoy_configuration, write_sidecar_files
from sidecars.demo.envoy import Envoy, find_envoy, scripts_folder, serve_envoy
from sidecars.demo.idp import IdentityProvider, serve_idp
from sidecars.demo.process import Process, spawn
from sidecars.demo.upstream import Echo, serve_upstream

READY_SECONDS = 60.0
"""The sidecars start in about a second; a loaded machine takes longer."""
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Edge:
    """Everything that runs, and what one needs to talk to it."""

    url: str
    places: Places
    provider: IdentityProvider
    echo: Echo
    sidecars: Process
    envoy: Envoy
    admin: SidecarsAdmin
    api_key: str


@asynccontextmanager
async def serve_edge(
    folder: Path,
    environment: Mapping[str, str],
    *,
    port: int = 0,
    progress: Callable[[str], None] = lambda _line: None,
    wall_clock: Callable[[], float] = time.time,
) -> AsyncIterator[Edge]:
    """A block in which the edge serves on 127.0.0.1; all has ended when the block is left.

    Everything written lies in `folder`; `progress` is told of each step. Raises EnvoyError and
    ProcessError, each with the end of the log of what did not start.
    """
    program = find_envoy(environment, scripts_folder())
    async with AsyncExitStack() as running:
        progress("Starting the identity provider and the upstream ...")
        provider, echo = IdentityProvider(wall_clock), Echo()
        idp_port = await running.enter_async_context(serve_idp(provider))
        upstream_port = await running.enter_async_context(serve_upstream(echo))
        places = Places(folder, port, upstream_port, idp_port)
        api_key, api_key_hash = new_api_key("reports", secrets.token_bytes)
        write_sidecar_files(places, api_key_hash)

        progress("Starting authz, ratelimit and accesslog ...")
        sidecars = await running.enter_async_context(serve_sidecars(places, environment))

        progress(f"Starting Envoy ({program.found}) ...")
        envoy = await running.enter_async_context(serve_envoy(program, envoy_configuration(places), folder))
        url = f"http://127.0.0.1:{envoy.ports['edge']}"
        admin = SidecarsAdmin(places.admin_socket)
        yield Edge(url, places, provider, echo, sidecars, envoy, admin, api_key)


@asynccontextmanager
async def serve_sidecars(places: Places, environment: Mapping[str, str]) -> AsyncIterator[Process]:
    """A block in which the three sidecars run, in a process of their own, from the files of `places`."""
    command = (sys.executable, "-m", "sidecars", "run", "all", "--config", str(places.settings_file))
    # Settings of the caller's own sidecars are not meant for these.
    own = {name: value for name, value in environment.items() if not name.startswith("SIDECARS_")}
    log = places.folder / "sidecars.log"
    async with spawn("the sidecars", command, log, stop_seconds=STOP_SECONDS, environment=own) as process:
        await process.until_ready(SidecarsAdmin(places.admin_socket).ready, READY_SECONDS)
        yield process
