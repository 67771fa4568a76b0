"""SIGTERM ends the sidecars cleanly: exit code 0, and every line of the access log is written."""

from sidecars.demo.ask import ask
from sidecars.demo.edge import STOP_SECONDS, Edge
from sidecars.demo.until import until

REQUESTS = 20


async def scenario(edge: Edge) -> None:
    for _ in range(REQUESTS):
        assert (await ask(edge.url, "/public/hello")).status == 200
    await until(lambda: _received(edge), "every entry is received")
    assert await edge.sidecars.stop(STOP_SECONDS) == 0
    assert len(edge.places.access_log.read_text().splitlines()) == REQUESTS


async def _received(edge: Edge) -> bool:
    return await edge.admin.metric("accesslog_entries_received_total") == REQUESTS
