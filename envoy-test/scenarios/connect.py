"""A tunnel (CONNECT) has no path, so no rule can allow it. A WebSocket handshake is checked as a GET."""

import asyncio
from copy import deepcopy
from pathlib import Path
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived

from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import Edge
from sidecars.demo.until import until
from tests.support.bare_envoy import MAX_ANSWER_SECONDS, add_bare_listener

TUNNELS = "tunnels"
RULES = """
- {name: anything, methods: [CONNECT], allow: anyone}
- {name: chat, methods: [GET], paths: [/chat], deny: anyone, answer: {status: 410}}
"""


def change_envoy(configuration: dict[str, Any], folder: Path) -> None:
    """Add a listener that opens tunnels and, over HTTP/2, WebSockets for requests that authz allows."""
    add_bare_listener(configuration, folder)
    listeners = configuration["static_resources"]["listeners"]
    tunnels = deepcopy(listeners[-1])
    tunnels["name"] = TUNNELS
    manager = http_manager(tunnels)
    manager["upgrade_configs"] = [{"upgrade_type": "CONNECT"}, {"upgrade_type": "websocket"}]
    manager["http2_protocol_options"] = {"allow_connect": True}
    upgrade = {"upgrade_type": "CONNECT", "connect_config": {}}
    manager["route_config"]["virtual_hosts"][0]["routes"].insert(
        0, {"match": {"connect_matcher": {}}, "route": {"cluster": "upstream", "upgrade_configs": [upgrade]}}
    )
    listeners.append(tunnels)


async def scenario(edge: Edge) -> None:
    file = edge.places.policy_file
    file.write_text(file.read_text() + RULES)

    async def known() -> bool:
        return (await ask(edge.url, "/chat")).status == 410

    await until(known, "the new rules decide")
    edge.echo.received.clear()

    # An Envoy without CONNECT in upgrade_configs answers without a check.
    head = await _connect(edge, "edge")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert b"x-details: route_not_found" in head
    # An Envoy with it calls authz, which refuses a request without a path under any rule.
    head = await _connect(edge, TUNNELS)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"x-reason: path_form" in head
    assert not edge.echo.received

    # A WebSocket over HTTP/2 (RFC 8441) is a CONNECT for Envoy, and a GET of its path for authz.
    assert await _websocket_status(edge) == 410


async def _connect(edge: Edge, listener: str) -> bytes:
    """Return the head of the response to a CONNECT."""
    async with asyncio.timeout(MAX_ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.envoy.ports[listener])
        try:
            writer.write(b"CONNECT upstream.example:443 HTTP/1.1\r\nhost: upstream.example:443\r\n\r\n")
            return await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()


async def _websocket_status(edge: Edge) -> int:
    connection = H2Connection(H2Configuration())
    connection.initiate_connection()
    names = {":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":authority": "edge.example"}
    connection.send_headers(1, [*names.items(), (":path", "/chat"), ("sec-websocket-version", "13")])
    async with asyncio.timeout(MAX_ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.envoy.ports[TUNNELS])
        try:
            writer.write(connection.data_to_send())
            while received := await reader.read(65536):
                for event in connection.receive_data(received):
                    if isinstance(event, ResponseReceived):
                        return int(dict(event.headers)[b":status"])
                writer.write(connection.data_to_send())
        finally:
            writer.close()
    raise EOFError("no answer")
