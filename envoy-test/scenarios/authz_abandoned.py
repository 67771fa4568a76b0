"""Clients that disconnect during the introspection of their token harm neither Envoy nor authz.

CVE-2026-47205: Envoy 1.36.0 to 1.36.8, 1.37.0 to 1.37.4 and 1.38.0 to 1.38.2 crashed then, on a route with
its own authorizer.
"""

import asyncio
import socket
import struct
from copy import deepcopy
from pathlib import Path
from typing import Any

from aiohttp import web

from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_filters, http_manager
from sidecars.demo.edge import Edge
from sidecars.demo.idp import AUDIENCE
from sidecars.demo.rows import bearer
from sidecars.demo.until import until
from sidecars.demo.upstream import serve_application

CLIENTS = 20
OWN = "authz-of-route"
EXT_AUTHZ = "envoy.filters.http.ext_authz"
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
MAX_WAIT_SECONDS = 20
TOKEN = bearer("opaque")
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
    resources = configuration["static_resources"]
    edge = resources["listeners"][0]
    cluster = deepcopy(next(one for one in resources["clusters"] if one["name"] == "authz"))
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = OWN
    resources["clusters"].append(cluster)
    own = {**http_filters(edge)[EXT_AUTHZ]["grpc_service"], "envoy_grpc": {"cluster_name": OWN}}
    host = http_manager(edge)["route_config"]["virtual_hosts"][0]
    route = {
        "match": {"prefix": "/orders"},
        "route": {"cluster": "upstream"},
        "typed_per_filter_config": {EXT_AUTHZ: {"@type": PER_ROUTE, "check_settings": {"grpc_service": own}}},
    }
    host["routes"].insert(0, route)


async def scenario(edge: Edge) -> None:
    server = SlowServer()
    application = web.Application()
    application.router.add_post("/introspect", server.answer)
    async with serve_application(application, "127.0.0.1", 0) as port:
        secret_file = edge.places.folder / "introspection.secret"
        secret_file.write_text("secret-of-the-client")

        def configure(policy: dict[str, Any]) -> None:
            policy["credentials"]["introspection"] = {
                "url": f"http://127.0.0.1:{port}/introspect",
                "client_id": "edge",
                "client_secret_file": str(secret_file),
                "audiences": [AUDIENCE],
                "timeout_seconds": MAX_WAIT_SECONDS,
                "allow_http": True,
                "allow_addresses": ["127.0.0.0/8"],
            }

        await edge.change_policy(configure)
        before = await edge.admin.metric("authz_decisions_total")
        await _leave_while_asked_about(edge)

        async def noticed() -> bool:
            return await edge.admin.metric("authz_decisions_total") - before == CLIENTS

        await until(noticed, "authz knows that no one waits for these answers")
        assert not edge.echo.received
        server.open.set()
        answer = await ask(edge.url, "/orders", headers=TOKEN)
        assert (answer.status, answer.upstream_values("x-auth-subject")) == (200, ["dora"])
        assert server.asked == 1
    assert await edge.envoy.counter(f"cluster.{OWN}.upstream_rq_tx_reset") == CLIENTS


async def _leave_while_asked_about(edge: Edge) -> None:
    """Send one token on many connections, and reset each once Envoy has sent all checks to authz."""
    writers = []
    for _ in range(CLIENTS):
        _, writer = await asyncio.open_connection("127.0.0.1", edge.envoy.ports["edge"])
        authorization = TOKEN["authorization"]
        writer.write(f"GET /orders HTTP/1.1\r\nhost: a\r\nauthorization: {authorization}\r\n\r\n".encode())
        writers.append(writer)

    async def asked() -> bool:
        return await edge.envoy.counter(f"cluster.{OWN}.upstream_rq_active") == CLIENTS

    await until(asked, "Envoy waits for an answer about each")
    for writer in writers:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()


class SlowServer:
    """Reports a token as active, but only after the test releases it."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = asyncio.Event()

    async def answer(self, _request: web.Request) -> web.Response:
        """Return the introspection response for any token."""
        self.asked += 1
        await self.open.wait()
        return web.json_response({"active": True, "sub": "dora", "scope": "orders:read", "aud": AUDIENCE})
