"""While authz is down no request passes, the client gets 503, and the access log says why."""

import os

import yaml

from common.configfile import read
from sidecars.demo.ask import ask
from sidecars.demo.demo import Lines, log_lines
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

    file = edge.places.settings_file
    whole = file.read_text()
    others = {name: value for name, value in read(file).data.items() if name != "authz"}
    file.write_text(yaml.safe_dump(others))
    async with serve_sidecars(edge.places, os.environ):
        assert (await ask(edge.url, "/public/unanswered")).status == 503
        [line] = _unanswered(await log_lines(edge.places.access_log, lambda lines: bool(_unanswered(lines))))
        assert (line["code"], line["code_details"], line["response_flags"]) == (
            503,
            "ext_authz_error",
            ["UAEX"],
        )
        # Only the time that Envoy has waited.
        assert {name for name in line if name.startswith("authz_")} <= {"authz_duration_us"}
    file.write_text(whole)

    async with serve_sidecars(edge.places, os.environ):
        assert (await ask(edge.url, "/orders", headers=token)).status == 200


def _unanswered(lines: Lines) -> Lines:
    return [line for line in lines if line["path"] == "/public/unanswered"]
