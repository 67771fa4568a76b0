"""A TCP connection through Envoy is one line of the access log."""

import asyncio

from sidecars.demo.demo import at_least, log_lines
from sidecars.demo.edge import Edge


async def scenario(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.envoy.ports["edge-tcp"])
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200 ")

    (line,) = await log_lines(edge.places.access_log, at_least(1))
    assert (line["type"], line["log_name"]) == ("tcp", "edge-tcp")
    assert line["sent_bytes"] == len(answer)
    assert line["cluster"] == "upstream"
