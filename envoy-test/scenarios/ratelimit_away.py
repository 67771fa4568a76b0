"""While ratelimit is down requests pass uncounted: a limit must not cause an outage."""

import os

import yaml

from common.configfile import read
from sidecars.demo.ask import ask
from sidecars.demo.edge import STOP_SECONDS, Edge, serve_sidecars
from sidecars.demo.rows import BURST


async def scenario(edge: Edge) -> None:
    await edge.sidecars.stop(STOP_SECONDS)
    file = edge.places.settings_file
    whole = file.read_text()
    without = {name: value for name, value in read(file).data.items() if name != "ratelimit"}
    file.write_text(yaml.safe_dump(without))
    async with serve_sidecars(edge.places, os.environ):
        for _ in range(BURST):
            answer = await ask(edge.url, "/login", method="POST")
            assert answer.status == 200
            assert "x-ratelimit-limit" not in answer.headers

    file.write_text(whole)
    async with serve_sidecars(edge.places, os.environ):
        statuses = [(await ask(edge.url, "/login", method="POST")).status for _ in range(BURST)]
        assert statuses[-1] == 429
