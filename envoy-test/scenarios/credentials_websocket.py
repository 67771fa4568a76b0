"""A script in a browser sends its credential for a WebSocket among the protocols that it offers."""

import socket
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from common.configfile import read
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import Edge
from sidecars.demo.until import until

MAX_SECONDS = 20.0

_listening: list[socket.socket] = []


def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
    """Make Envoy pass WebSockets on to a WebSocket server."""
    listening = socket.create_server(("127.0.0.1", 0))
    _listening.append(listening)
    resources = configuration["static_resources"]
    manager = http_manager(resources["listeners"][0])
    manager["upgrade_configs"] = [{"upgrade_type": "websocket"}]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    routes.insert(0, {"match": {"prefix": "/ws"}, "route": {"cluster": "ws"}})
    address = {"socket_address": {"address": "127.0.0.1", "port_value": listening.getsockname()[1]}}
    endpoint = {"endpoint": {"address": address}}
    resources["clusters"].append(
        {
            "name": "ws",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": "ws", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }
    )


async def scenario(edge: Edge) -> None:
    file = edge.places.policy_file
    policy = read(file).data
    policy["credentials"]["tokens"] = {"locations": [{"websocket_protocol": "bearer"}]}
    policy["rules"].append({"name": "ws", "paths": ["/ws"], "allow": "authenticated"})
    file.write_text(yaml.safe_dump(policy, sort_keys=False))
    app = web.Application()
    app.router.add_get("/ws", _greet)
    runner = web.AppRunner(app)
    await runner.setup()
    listening = _listening.pop()
    await web.SockSite(runner, listening).start()
    try:
        await _ask(edge)
    finally:
        await runner.cleanup()


async def _ask(edge: Edge) -> None:
    token = edge.provider.token("alice", "orders:read")

    async def known() -> bool:
        return await _greeting(edge, ["chat"]) == "401"

    await until(known, "the new rule decides")
    for offered in ([f"bearer.{token}", "chat"], ["bearer", token, "chat"]):
        assert await _greeting(edge, offered) == "chat alice", offered
    forged = edge.provider.forged_token("alice", "orders:read")
    assert await _greeting(edge, [f"bearer.{forged}", "chat"]) == "401"
    assert await _greeting(edge, [f"bearer.{token}", f"bearer.{forged}", "chat"]) == "400"


async def _greeting(edge: Edge, offered: list[str]) -> str:
    """Return the first message of the server, or the status of the denial."""
    timeout = aiohttp.ClientTimeout(total=MAX_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as client:
        try:
            async with client.ws_connect(f"{edge.url}/ws", protocols=offered) as connection:
                return await connection.receive_str(timeout=MAX_SECONDS)
        except aiohttp.WSServerHandshakeError as error:
            return str(error.status)


async def _greet(request: web.Request) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(protocols=["chat"])
    await connection.prepare(request)
    await connection.send_str(f"{connection.ws_protocol} {request.headers['x-auth-subject']}")
    await connection.close()
    return connection
