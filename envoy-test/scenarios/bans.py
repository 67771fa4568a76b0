"""Clients with bad credentials are banned: ratelimit counts before authz what authz says afterwards."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml

from common.configfile import read
from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer
from sidecars.demo.until import until

PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"
FILTER = "clients"
"""A second rate limit filter, before authz: a request that authz refuses never reaches the first."""
FAILURES = 3
ACTIONS = [
    {"generic_key": {"descriptor_key": "check", "descriptor_value": "bad_credentials"}},
    {"remote_address": {}},
]
IN_METADATA = "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:bad_credentials)%"


def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
    """Each request checks the budget of its client, and bad credentials charge it when it ends."""
    manager = http_manager(configuration["static_resources"]["listeners"][0])
    known = next(one for one in manager["http_filters"] if one["name"] == "envoy.filters.http.ratelimit")
    manager["http_filters"].insert(0, deepcopy(known) | {"name": FILTER})
    [host] = manager["route_config"]["virtual_hosts"]
    limits = [
        {"actions": ACTIONS, "hits_addend": {"number": 0}},
        {"actions": ACTIONS, "hits_addend": {"format": IN_METADATA}, "apply_on_stream_done": True},
    ]
    host["typed_per_filter_config"] = {FILTER: {"@type": PER_ROUTE, "rate_limits": limits}}


async def scenario(edge: Edge) -> None:
    await _limit_failures(edge)
    good = bearer(edge.provider.token("alice", "orders:read"))
    for _ in range(2 * FAILURES):
        assert (await ask(edge.url, "/orders", headers=good)).status == 200
        assert (await ask(edge.url, "/orders")).status == 401  # without credentials: not bad ones

    for _ in range(FAILURES + 1):
        before = await _charged(edge)
        assert (await ask(edge.url, "/orders", headers={"x-api-key": "wrong"})).status == 401

        async def charged(before: float = before) -> bool:
            return await _charged(edge) == before + 1

        await until(charged, "the failure is charged")

    assert (await ask(edge.url, "/orders", headers=good)).status == 429
    [ban] = orjson.loads(await edge.admin.page("/limits/bans"))
    assert ban["descriptor"] == "check=bad_credentials,remote_address=127.0.0.1"
    answer = await ask(edge.url, "/orders", headers=good)
    assert (answer.status, answer.headers["retry-after"]) == (429, answer.headers["x-ratelimit-reset"])

    await _lift(edge, ban["id"])
    assert (await ask(edge.url, "/orders", headers=good)).status == 200


async def _charged(edge: Edge) -> float:
    return await edge.admin.metric("ratelimit_service_rate_limit_total_hits")


async def _limit_failures(edge: Edge) -> None:
    limit = {"unit": "hour", "requests_per_unit": FAILURES, "ban": {"after": 1, "for": "10m"}}
    below = [{"key": "remote_address", "normalise": "address", "rate_limit": limit}]
    descriptors = [{"key": "check", "value": "bad_credentials", "descriptors": below}]
    file = edge.places.folder / "limits" / "edge.yaml"
    file.write_text(yaml.safe_dump({"domain": read(file).data["domain"], "descriptors": descriptors}))

    async def loaded() -> bool:
        return "bad_credentials" in await edge.admin.page("/rlconfig")

    await until(loaded, "the changed limits hold")


async def _lift(edge: Edge, name: str) -> None:
    connector = aiohttp.UnixConnector(path=str(edge.places.admin_socket))
    async with (
        aiohttp.ClientSession("http://sidecars", connector=connector) as client,
        client.post("/limits/bans/lift", json={"names": [name]}) as answer,
    ):
        assert len(await answer.json()) == 1
