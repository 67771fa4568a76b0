"""After N bad credentials from one address the answer is 429 with the time to wait; what is known goes on."""

import asyncio
from typing import Any

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer

FAILURES = 3
PER_SECONDS = 6


async def scenario(edge: Edge) -> None:
    def configure(policy: dict[str, Any]) -> None:
        policy["credentials"]["throttle"] = {"address_failures": FAILURES, "per_seconds": PER_SECONDS}

    await edge.change_policy(configure)
    idp = edge.provider
    known = bearer(idp.token("alice", "orders:read"))
    assert (await ask(edge.url, "/orders", headers=known)).status == 200

    bad = [bearer(idp.forged_token("mallory", "orders:read")) for _ in range(FAILURES + 1)]
    for number in range(FAILURES + 1):
        answer = await ask(edge.url, "/orders", headers=bad[number])
        if answer.status == 429:
            break
        assert answer.status == 401
    else:
        # On a machine so slow that one failure was forgiven on the way.
        answer = await ask(edge.url, "/orders", headers=bearer(idp.forged_token("mallory", "orders:read")))
    assert answer.status == 429
    wait_seconds = int(answer.headers["retry-after"])
    assert 1 <= wait_seconds <= PER_SECONDS // FAILURES

    # Envoy told authz the address; what a client says of itself makes it nobody else.
    assert (await ask(edge.url, "/orders", headers={**known, "x-forwarded-for": "203.0.113.9"})).status == 200
    assert (await ask(edge.url, "/public/hello", headers=bad[0])).status == 200

    await asyncio.sleep(wait_seconds)
    new = bearer(idp.token("bob", "orders:read"))
    assert (await ask(edge.url, "/orders", headers=new)).status == 200
