"""While authz is away nothing passes, and the client learns that it is not at fault."""

import os

from sidecars.demo.ask import ask
from sidecars.demo.edge import STOP_SECONDS, Edge, serve_sidecars
from sidecars.demo.rows import bearer


async def scenario(edge: Edge) -> None:
    token = bearer(edge.provider.token("alice", "orders:read"))
    assert (await ask(edge.url, "/orders", headers=token)).status == 200

    await edge.sidecars.stop(STOP_SECONDS)
    edge.echo.received.clear()
    for path in ("/orders", "/public/hello"):
        assert (await ask(edge.url, path, headers=token)).status == 503
    assert not edge.echo.received

    async with serve_sidecars(edge.places, os.environ):
        assert (await ask(edge.url, "/orders", headers=token)).status == 200
