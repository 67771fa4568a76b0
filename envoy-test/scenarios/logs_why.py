"""`sidecars logs why` explains a real 403, 429 and 200 on one screen, and the next command runs."""

import asyncio
import json
import shlex
import sys
from typing import Any

from sidecars.demo.ask import ask
from sidecars.demo.demo import at_least, log_lines
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer


async def scenario(edge: Edge) -> None:
    headers = bearer(edge.provider.token("alice", "orders:read"))
    assert (await ask(edge.url, "/orders", headers=headers)).status == 200
    assert (await ask(edge.url, "/orders/7", method="DELETE", headers=headers)).status == 403
    served, denied = await log_lines(edge.places.access_log, at_least(2))

    why = await _why(edge, denied["request_id"])
    assert why["verdict"].startswith("403: authz refused it by rule orders-write: ")
    assert "orders:write" in why["decision"]["detail"]  # from the running authz
    by_decision = await _why(edge, denied["authz_decision_id"])
    assert by_decision["record"] == why["record"] == denied
    explained = await _next(why["next_commands"][0])
    assert "orders-write" in explained

    why = await _why(edge, served["request_id"])
    assert why["verdict"] == "200: the upstream answered."
    assert why["phases"][0]["name"] == "authz decides"
    assert sum(phase["microseconds"] for phase in why["phases"]) == served["duration_us"]
    assert {"limit", "remaining"} <= why["limits"].keys()
    assert why["limits"]["period"] == served["ratelimit_period"]
    explained = await _next(why["next_commands"][1])
    assert served["ratelimit_rule"].rpartition(".")[2] in explained


async def _why(edge: Edge, identifier: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(
        await _sidecars("logs", "why", identifier, "--json", "-c", str(edge.places.settings_file))
    )
    return result


async def _next(command: str) -> str:
    """Run a suggested command."""
    program, *arguments = shlex.split(command)
    assert program == "sidecars"
    return await _sidecars(*arguments)


async def _sidecars(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecars", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()
