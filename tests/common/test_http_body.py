"""A body that comes in pieces is read whole, up to the bound."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web

from common.http_body import read_at_most


async def pieces(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(3):
        await response.write(b"0123456789")
    return response


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/", pieces)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}/"
    await runner.cleanup()


@pytest.mark.parametrize(("most", "read"), [(100, 30), (30, 30), (25, 25), (0, 0)])
async def test_it_reads_to_the_end_or_to_the_bound(url: str, most: int, read: int) -> None:
    async with ClientSession() as client, client.get(url) as response:
        assert await read_at_most(response.content, most) == (b"0123456789" * 3)[:read]
