"""`Expect: 100-continue`: who sends the 100, and whether the check comes first."""

import asyncio
from copy import deepcopy
from pathlib import Path
from typing import Any

from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import Edge
from sidecars.demo.until import until
from tests.support.bare_envoy import MAX_ANSWER_SECONDS

ASKING = "asking"
"""Add a listener with `proxy_100_continue`: the upstream sends the 100 if the request reaches it."""

RULES = """
- {name: upload, methods: [POST], paths: [/upload], allow: anyone}
- {name: ready, paths: [/ready], deny: anyone, answer: {status: 410}}
"""


def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
    listeners = configuration["static_resources"]["listeners"]
    asking = deepcopy(listeners[0])
    asking["name"] = ASKING
    http_manager(asking)["proxy_100_continue"] = True
    listeners.append(asking)


async def scenario(edge: Edge) -> None:
    file = edge.places.policy_file
    file.write_text(file.read_text() + RULES)

    async def known() -> bool:
        return (await ask(edge.url, "/ready")).status == 410

    await until(known, "the new rules decide")

    # By default Envoy itself sends the 100 before authz has decided, so a denied client may send its body.
    assert await _statuses(edge, "edge", "/upload") == [100, 200]
    assert await _statuses(edge, "edge", "/orders") == [100, 401]
    # With proxy_100_continue a denied client sends no body.
    assert await _statuses(edge, ASKING, "/upload") == [100, 200]
    assert await _statuses(edge, ASKING, "/orders") == [401]


async def _statuses(edge: Edge, listener: str, path: str) -> list[int]:
    """Return the statuses of the responses; the body is sent after a 100."""
    async with asyncio.timeout(MAX_ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.envoy.ports[listener])
        try:
            lines = (
                f"POST {path} HTTP/1.1",
                "host: edge.example",
                "content-length: 4",
                "expect: 100-continue",
            )
            writer.write("\r\n".join((*lines, "", "")).encode())
            first = await _status(reader)
            if first != 100:
                return [first]
            writer.write(b"body")
            return [first, await _status(reader)]
        finally:
            writer.close()


async def _status(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1])
