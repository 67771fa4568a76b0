"""After N bad credentials from one address authz answers 429 with the time to wait; cached tokens pass."""

import asyncio
from typing import Any

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer
from sidecars.demo.until import until

FAILURES = 3
PER_SECONDS = 20
COOLDOWN_SECONDS = 1


async def scenario(edge: Edge) -> None:
    def configure(policy: dict[str, Any]) -> None:
        policy["credentials"]["throttle"] = {"address_failures": FAILURES, "per_seconds": PER_SECONDS}
        # Failed signatures count once a fetch has shown that their key is still current.
        policy["credentials"]["issuers"][0]["jwks"]["cooldown_seconds"] = COOLDOWN_SECONDS

    await edge.change_policy(configure)
    idp = edge.provider
    known = bearer(idp.token("alice", "orders:read"))
    assert (await ask(edge.url, "/orders", headers=known)).status == 200

    bad = [bearer(idp.forged_token("mallory", "orders:read")) for _ in range(FAILURES + 1)]
    for forged in bad:
        assert (await ask(edge.url, "/orders", headers=forged)).status in {401, 429}

    refusals = []

    async def refused() -> bool:
        answer = await ask(edge.url, "/orders", headers=bearer(idp.token("carol", "orders:read")))
        if answer.status == 429:
            refusals.append(answer)
        return answer.status == 429

    await until(refused, "the address is throttled")
    lookup_timeout_seconds = int(refusals[0].headers["retry-after"])
    assert 1 <= lookup_timeout_seconds <= PER_SECONDS

    # The address comes from Envoy; headers from a client do not change it.
    assert (await ask(edge.url, "/orders", headers={**known, "x-forwarded-for": "203.0.113.9"})).status == 200
    assert (await ask(edge.url, "/public/hello", headers=bad[0])).status == 200

    await asyncio.sleep(lookup_timeout_seconds)
    new = bearer(idp.token("bob", "orders:read"))
    assert (await ask(edge.url, "/orders", headers=new)).status == 200
