"""Runs `ads_server`, and talks to it."""

import asyncio
import base64
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import ParseDict

from protos.ratelimit_config_pb2 import RateLimitConfig

WAIT_SECONDS: Final = 30
TYPE_URL: Final = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"
XDS_PROTOS: Final = Path(sys.prefix) / "xds-protos"
SERVER: Final = Path(__file__).with_name("ads_server.py")


def config(domain: str, key: str, requests: int, **more: Any) -> RateLimitConfig:
    """The limits of a domain with one descriptor."""
    descriptor = {"key": key, "rate_limit": {"unit": "MINUTE", "requests_per_unit": requests}, **more}
    return ParseDict({"name": domain, "domain": domain, "descriptors": [descriptor]}, RateLimitConfig())


class ManagementServer:
    """A server that runs."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def send(
        self,
        version: str,
        configs: Sequence[RateLimitConfig],
        *,
        resource_type: str = TYPE_URL,
        type_url: str = TYPE_URL,
        raw: bytes | None = None,
    ) -> None:
        """Send these limits to every stream, now and later."""
        contents = [config.SerializeToString() for config in configs] if raw is None else [raw]
        resources = [[resource_type, base64.b64encode(content).decode()] for content in contents]
        self._write({"version": version, "resources": resources, "type_url": type_url})

    def end_streams(self) -> None:
        self._write({"end": True})

    async def request(self) -> dict[str, Any]:
        """The next request of a client."""
        while True:
            event = await self.event()
            if "request" in event:
                found: dict[str, Any] = event["request"]
                return found

    async def event(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            event: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return event

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def _write(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")


@asynccontextmanager
async def management_server(port: int = 0, *files: Path) -> AsyncIterator[ManagementServer]:
    """Run a server; `files` are its certificate and key."""
    assert XDS_PROTOS.is_dir(), f"{XDS_PROTOS} is missing; `make test` installs it"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SERVER),
        f"127.0.0.1:{port}",
        *map(str, files),
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": str(XDS_PROTOS)},
    )
    server = ManagementServer(process, 0)
    try:
        server.port = (await server.event())["port"]
        yield server
    finally:
        await server.kill()
