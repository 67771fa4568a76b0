"""`sidecars why` explains a 429 by its id, a 403 by its trace, and a 503 that authz answered too late."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import yaml

from common.configfile import read
from sidecars.demo.ask import EdgeResponse, ask
from sidecars.demo.edge import STOP_SECONDS, Edge, serve_sidecars
from sidecars.demo.rows import bearer
from sidecars.demo.until import until

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def scenario(edge: Edge) -> None:
    file = edge.places.settings_file
    whole = file.with_name("whole.yaml")
    whole.write_text(file.read_text())
    headers = bearer(edge.provider.token("alice", "orders:read"))

    limited = await _explained(whole, _id(await _limited(edge)), "file")
    assert limited["verdict"].startswith("429: over the limit ")
    assert not limited["notes"]
    assert not limited["processes"]

    traced = {**headers, "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    denied = await ask(edge.url, "/orders/7", method="DELETE", headers=traced)
    assert denied.status == 403
    by_trace = await _explained(whole, TRACE, "file")
    assert by_trace["verdict"].startswith("403: authz refused it by rule orders-write: ")
    assert by_trace["record"]["request_id"] == _id(denied)
    assert "orders:write" in by_trace["decision"]["detail"]

    os.kill(edge.sidecars.child.pid, signal.SIGSTOP)
    late = await ask(edge.url, "/orders", headers=headers)
    os.kill(edge.sidecars.child.pid, signal.SIGCONT)
    assert late.status == 503
    why = await _explained(whole, _id(late), "file")
    assert why["verdict"] == "503: Envoy got no answer from authz, and answered with status_on_error."
    assert why["notes"][0].startswith("authz gave no answer within ")

    await edge.sidecars.stop(STOP_SECONDS)
    unanswered = await ask(edge.url, "/orders", headers=headers)
    assert unanswered.status == 503
    code, text = await _why(whole, _id(unanswered))
    assert code == 1
    assert "fail admin unix:" in text

    file.write_text(yaml.safe_dump({name: text for name, text in read(file).data.items() if name != "authz"}))
    async with serve_sidecars(edge.places, os.environ):
        unanswered = await ask(edge.url, "/orders", headers=headers)
        why = await _explained(whole, _id(unanswered), "file")
        assert why["verdict"] == "503: Envoy got no answer from authz, and answered with status_on_error."
        assert why["notes"][0].startswith("authz gave no answer within ")


async def _limited(edge: Edge) -> EdgeResponse:
    for _ in range(100):
        answer = await ask(edge.url, "/login", method="POST")
        if answer.status == 429:
            return answer
    raise AssertionError("no limit was met")


def _id(answer: EdgeResponse) -> str:
    (value,) = answer.headers.getall("x-request-id")
    return str(value)


async def _explained(settings: Path, identifier: str, needed: str) -> dict[str, Any]:
    """The explanation as JSON, once it has what is `needed`: Envoy sends entries after a second."""
    found: dict[str, Any] = {}

    async def known() -> bool:
        code, text = await _why(settings, identifier)
        if code == 0:
            found.update(json.loads(text))
        return bool(found.get(needed))

    await until(known, f"sidecars why knows {identifier}")
    return found


async def _why(settings: Path, identifier: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecars", "why", identifier, "--json", "-c", str(settings)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, (out or err).decode()
