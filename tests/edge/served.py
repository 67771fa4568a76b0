"""Serves what is built from intent with a real Envoy, the sidecars, an identity provider and an upstream."""

import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from edge.build.build import Built, build
from edge.build.write import write_files
from edge.intent.estate import EstateReader
from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.configuration import PATIENCE_SECONDS, http_filters
from sidecars.demo.envoy import Envoy, find_envoy, scripts_folder, serve_envoy
from sidecars.demo.idp import AUDIENCE, IdentityProvider, serve_idp
from sidecars.demo.process import spawn
from sidecars.demo.until import until
from sidecars.demo.upstream import Echo, serve_upstream
from tests.edge.estates import TODAY
from tests.support.free_ports import free_port

READY_SECONDS = 60.0
SIDECARS = ("authz", "ratelimit", "accesslog")
HASH_KEY = "0123456789abcdef"


@dataclass(frozen=True)
class Served:
    """A running edge, and the files that it was built from."""

    folder: Path
    built: Built
    envoy: Envoy
    provider: IdentityProvider
    echo: Echo
    upstream_port: int
    idp_port: int
    port: int

    def build(self, texts: Mapping[str, str]) -> Built:
        """Build other intent, and write it where the sidecars read it."""
        local = on_this_machine(texts, self.folder, self.upstream_port, self.idp_port, self.port)
        built = build(EstateReader().read(local, TODAY))
        write_files(built, self.folder / "built")
        return built

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.envoy.ports['edge']}"

    def records(self) -> list[dict[str, Any]]:
        """Return the access log so far."""
        file = self.folder / "access.jsonl"
        return [orjson.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []

    async def record(self, request_id: str) -> dict[str, Any]:
        """Return the record of a request, once it is there."""

        async def there() -> bool:
            return any(one.get("request_id") == request_id for one in self.records())

        await until(there, "the request is in the access log")
        [found] = [one for one in self.records() if one.get("request_id") == request_id]
        return found


def on_this_machine(
    texts: Mapping[str, str], folder: Path, upstream_port: int, idp_port: int, port: int
) -> dict[str, str]:
    """Return intent whose upstreams, sockets and keys are here; `port` is that of the listener."""
    local = {}
    for name, text in texts.items():
        content = yaml.safe_load(text)
        if "upstream" in content:
            content["upstream"] = {"address": f"127.0.0.1:{upstream_port}"}
        else:
            content.get("reserved", {}).pop("upstreams", None)
            for team in content["teams"].values():
                team.pop("upstreams", None)
            sockets = {name: f"unix:{folder}/{name}.sock" for name in SIDECARS}
            content["envoy"] = {"listen": f"127.0.0.1:{port}", **sockets}
            for issuer in content["policy"]["credentials"]["issuers"]:
                url = f"http://127.0.0.1:{idp_port}/.well-known/jwks.json"
                issuer["audiences"] = [AUDIENCE]
                issuer["jwks"] = {"url": url, "allow_http": True, "allow_addresses": ["127.0.0.0/8"]}
            content["policy"]["credentials"]["lookup_timeout_seconds"] = PATIENCE_SECONDS
        local[name] = yaml.safe_dump(content, sort_keys=False)
    return local


@asynccontextmanager
async def serve(texts: Mapping[str, str], folder: Path, *, following: bool = False) -> AsyncIterator[Served]:
    """Build the intent in `texts` and serve it in `folder` during the block.

    With `following`, Envoy follows the files of the build, whose names are relative to the present folder.
    """
    program = find_envoy(os.environ, scripts_folder())
    async with AsyncExitStack() as running:
        provider, echo = IdentityProvider(time.time), Echo()
        idp_port = await running.enter_async_context(serve_idp(provider))
        upstream_port = await running.enter_async_context(serve_upstream(echo))
        port = free_port()
        local = on_this_machine(texts, folder, upstream_port, idp_port, port)
        built = build(EstateReader().read(local, TODAY))
        write_files(built, folder / "built")
        await running.enter_async_context(serve_sidecars(folder, settings_of(folder, "built")))
        static = built.files["envoy.json"]
        configuration = orjson.loads(built.files["envoy-files.json"]) if following else patient(static)
        envoy = await running.enter_async_context(serve_envoy(program, configuration, folder))
        yield Served(folder, built, envoy, provider, echo, upstream_port, idp_port, port)


@asynccontextmanager
async def serve_sidecars(folder: Path, settings: Mapping[str, Any]) -> AsyncIterator[SidecarsAdmin]:
    """Run the three sidecars in one process during the block, once they are ready."""
    file, admin = folder / "sidecars.yaml", SidecarsAdmin(folder / "admin.sock")
    (folder / "hash-key").write_text(HASH_KEY)
    file.write_text(yaml.safe_dump(settings))
    command = (sys.executable, "-m", "sidecars", "run", "all", "--config", str(file))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARS_")}
    log = folder / "sidecars.log"
    async with spawn("the sidecars", command, log, stop_seconds=10, environment=environment) as sidecars:
        await sidecars.until_ready(admin.ready, READY_SECONDS)
        yield admin


def settings_of(folder: Path, built: str) -> dict[str, Any]:
    """Return settings with sockets in `folder`, of which `built` has what was built from intent."""
    listen = {name: {"listen": [f"unix:{folder}/{name}.sock"]} for name in SIDECARS}
    return {
        "admin": {"listen": f"unix:{folder}/admin.sock"},
        "drain": {"drain_delay_seconds": 0, "grace_seconds": 2, "flush_seconds": 2},
        "reload": {"interval_seconds": 0.1},
        "authz": {**listen["authz"], "policy": [f"{built}/policy.json"]},
        "ratelimit": {**listen["ratelimit"], "limits": [f"{built}/limits.json"]},
        "accesslog": {
            **listen["accesslog"],
            "sinks": [{"type": "file", "path": "access.jsonl"}],
            "route_rules": [f"{built}/accesslog.json"],
            "redact": {"hash_key_file": "hash-key"},
            "flush_seconds": 1,
        },
    }


def patient(static: bytes) -> dict[str, Any]:
    """Return a built configuration with a free port, and with the patience that a busy machine needs."""
    configuration: dict[str, Any] = orjson.loads(static)
    [listener] = configuration["static_resources"]["listeners"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    filters = http_filters(listener)
    patience = f"{PATIENCE_SECONDS}s"
    filters["envoy.filters.http.ext_authz"]["grpc_service"]["timeout"] = patience
    limits = filters["envoy.filters.http.ratelimit"]
    limits["timeout"] = patience
    limits["rate_limit_service"]["grpc_service"]["retry_policy"]["retry_back_off"]["max_interval"] = patience
    return configuration
