"""Parts of Envoy configurations, those of docs/deployment.md too, and the check of a whole one by Envoy."""

import asyncio
import re
from pathlib import Path
from typing import Any

import yaml

from sidecars.demo.envoy import READY_SECONDS, EnvoyProgram
from sidecars.transport.api.address import Address, UnixAddress

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"


def blocks(language: str) -> list[str]:
    """The code blocks of a language in docs/deployment.md, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", DEPLOYMENT.read_text(), re.MULTILINE | re.DOTALL)


def envoy_blocks() -> tuple[dict[str, Any], dict[str, Any]]:
    """The cluster, and the part of a filter that names it."""
    cluster, service = (yaml.safe_load(block) for block in blocks("yaml")[1:3])
    return cluster, service


def with_service(service: dict[str, Any]) -> list[dict[str, Any]]:
    """HTTP filters whose ext_authz asks `service`."""
    ext_authz, router = filters()
    ext_authz["typed_config"] |= service
    return [ext_authz, router]


def endpoint(address: Address, port: int) -> dict[str, Any]:
    """An endpoint of a cluster."""
    where: dict[str, Any]
    if isinstance(address, UnixAddress):
        where = {"pipe": {"path": address.path}}
    else:
        where = {"socket_address": {"address": address.host, "port_value": port}}
    return {"endpoint": {"address": where}}


def filters() -> list[dict[str, Any]]:
    """ext_authz that retries elsewhere what a draining sidecar did not begin, then the router."""
    package = "type.googleapis.com/envoy.extensions.filters.http"
    return [
        {
            "name": "ext_authz",
            "typed_config": {
                "@type": f"{package}.ext_authz.v3.ExtAuthz",
                "transport_api_version": "V3",
                "grpc_service": {
                    "envoy_grpc": {"cluster_name": "authz"},
                    # Here, not inside envoy_grpc: that one is for streams that are reopened.
                    # As many as docs/deployment.md says. On a busy machine Envoy tried a stopped endpoint
                    # some 24 times before taking it out, and one request of 5,593 used up three retries.
                    "retry_policy": {
                        "num_retries": 5,
                        "retry_on": "unavailable,cancelled,connect-failure,refused-stream,reset",
                    },
                    "timeout": "10s",
                },
            },
        },
        {"name": "router", "typed_config": {"@type": f"{package}.router.v3.Router"}},
    ]


def listener(filters: list[dict[str, Any]]) -> dict[str, Any]:
    """A listener on a free port whose every path answers `through`."""
    manager = (
        "type.googleapis.com/envoy.extensions.filters.network"
        ".http_connection_manager.v3.HttpConnectionManager"
    )
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "through"}},
    }
    return {
        "name": "edge",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "http",
                        "typed_config": {
                            "@type": manager,
                            "stat_prefix": "edge",
                            "route_config": {
                                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]
                            },
                            "http_filters": filters,
                        },
                    }
                ]
            }
        ],
    }


async def check_configuration(program: EnvoyProgram, config_file: Path) -> str:
    """What `envoy --mode validate` holds against the file, warnings too; empty when it is content."""
    arguments = ("--mode", "validate", "-c", str(config_file), "--disable-hot-restart", "-l", "warning")
    process = await asyncio.create_subprocess_exec(
        *program.command(arguments, (config_file.parent,)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), READY_SECONDS)
    lines = output.decode(errors="replace").splitlines()
    if process.returncode == 0:
        lines = [line for line in lines if line != f"configuration '{config_file}' OK"]
    return "\n".join(lines)
