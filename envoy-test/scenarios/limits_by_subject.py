"""A limit counts by the subject that authz authenticated; headers from a client make no difference."""

import yaml

from common.configfile import read
from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer
from sidecars.demo.until import until

LIMIT = 3


async def scenario(edge: Edge) -> None:
    await _limit_subjects(edge)
    alice = bearer(edge.provider.token("alice", "orders:read"))
    bob = bearer(edge.provider.token("bob", "orders:read"))

    statuses = [(await ask(edge.url, "/orders", headers=alice)).status for _ in range(LIMIT + 1)]
    assert statuses == [200] * LIMIT + [429]
    assert (await ask(edge.url, "/orders", headers={**alice, "x-auth-subject": "bob"})).status == 429
    assert (await ask(edge.url, "/orders", headers=bob)).status == 200


async def _limit_subjects(edge: Edge) -> None:
    file = edge.places.folder / "limits" / "edge.yaml"
    limits = read(file).data
    for descriptor in limits["descriptors"]:
        if descriptor["key"] == "subject":
            descriptor["rate_limit"] = {"unit": "day", "requests_per_unit": LIMIT}
    file.write_text(yaml.safe_dump(limits))

    async def limited() -> bool:
        carol = bearer(edge.provider.token("carol", "orders:read"))
        answer = await ask(edge.url, "/orders", headers=carol)
        return answer.status == 429 or answer.headers["x-ratelimit-limit"].startswith(f"{LIMIT},")

    await until(limited, "the changed limit holds")
