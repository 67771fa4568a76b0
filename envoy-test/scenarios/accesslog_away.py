"""While accesslog is down no request waits for it; when it returns, Envoy reconnects."""

import os

import yaml

from common.configfile import read
from sidecars.demo.ask import ask
from sidecars.demo.demo import Lines, log_lines
from sidecars.demo.edge import STOP_SECONDS, Edge, serve_sidecars


async def scenario(edge: Edge) -> None:
    await edge.sidecars.stop(STOP_SECONDS)
    file = edge.places.settings_file
    whole = file.read_text()
    without = {name: value for name, value in read(file).data.items() if name != "accesslog"}
    file.write_text(yaml.safe_dump(without))
    async with serve_sidecars(edge.places, os.environ):
        assert (await ask(edge.url, "/public/while-it-is-away")).status == 200

    file.write_text(whole)
    async with serve_sidecars(edge.places, os.environ):
        assert (await ask(edge.url, "/public/when-it-is-back")).status == 200
        lines = await log_lines(edge.places.access_log, _tells_of_the_return)
        assert _tells_of_the_return(lines)


def _tells_of_the_return(lines: Lines) -> bool:
    return any(line["path"] == "/public/when-it-is-back" for line in lines)
