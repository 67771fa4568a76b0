"""A revocation at one sidecar takes effect at the other: of a JWT, a subject and a session.

The scenario runs the operator's commands. After a revocation by subject, new tokens are accepted again.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer
from sidecars.demo.until import until

REDIS = True
COMMAND_SECONDS = 60.0
LEEWAY_SECONDS = 2


async def scenario(edge: Edge) -> None:
    await edge.change_policy(_clocks_are_close)
    settings = edge.places.settings_file
    by_id = bearer(edge.provider.token("alice", "orders:read", jti="t1"))
    sibling = bearer(edge.provider.token("alice", "orders:read", jti="t2"))
    await _both(edge, by_id, 200)
    await _command(settings, "token", "revoke", "--jti", "t1")
    await _both(edge, by_id, 401)
    await _both(edge, sibling, 200)

    by_subject = bearer(edge.provider.token("bob", "orders:read", jti="t3"))
    await _both(edge, by_subject, 200)
    await _command(settings, "token", "revoke", "--subject", "bob")
    await _both(edge, by_subject, 401)
    # A clock may be ahead, so tokens issued within the leeway are refused; `iat` has whole seconds.
    later = bearer(edge.provider.token("bob", "orders:read", iat=int(time.time()) + LEEWAY_SECONDS + 1))
    await _both(edge, later, 200)

    session = {"cookie": f"session={await edge.admin.create_session('carol', ('orders:read',))}"}
    await _both(edge, session, 200)
    await _command(settings, "session", "revoke", "--subject", "carol")
    await _both(edge, session, 401)


def _clocks_are_close(policy: dict[str, Any]) -> None:
    policy["credentials"]["issuers"][0]["leeway_seconds"] = LEEWAY_SECONDS
    policy["credentials"]["revocations"]["leeway_seconds"] = LEEWAY_SECONDS


async def _both(edge: Edge, headers: dict[str, str], status: int) -> None:
    async def answered() -> bool:
        statuses = [(await ask(url, "/orders", headers=headers)).status for url in (edge.url, edge.other_url)]
        return statuses == [status, status]

    await until(answered, f"both sidecars answer {status}")


async def _command(settings: Path, *words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecars", *words, "--config", str(settings)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS)
    assert process.returncode == 0, output.decode()
