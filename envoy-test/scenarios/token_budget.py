"""A token budget: Envoy checks it with 0 hits, and charges what was used when the response has ended."""

from pathlib import Path
from typing import Any

import yaml

from common.configfile import read
from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import Edge
from sidecars.demo.until import until

PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"
HITS = "ratelimit_service_rate_limit_total_hits"
BUDGET, USED = 1000, 900
PATH = "/public/answers"
ACTIONS = [{"request_headers": {"header_name": "x-model", "descriptor_key": "model"}}]


def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
    """One route is checked before it is served, and charged with the tokens that its response names."""
    edge = configuration["static_resources"]["listeners"][0]
    [host] = http_manager(edge)["route_config"]["virtual_hosts"]
    limits = [
        {"actions": ACTIONS, "hits_addend": {"number": 0}},
        {"actions": ACTIONS, "hits_addend": {"format": "%RESP(x-tokens)%"}, "apply_on_stream_done": True},
    ]
    route = {
        "match": {"path": PATH},
        "route": {"cluster": "upstream"},
        "response_headers_to_add": [{"header": {"key": "x-tokens", "value": str(USED)}}],
        "typed_per_filter_config": {
            "envoy.filters.http.ratelimit": {"@type": PER_ROUTE, "rate_limits": limits},
        },
    }
    host["routes"].insert(0, route)
    host["rate_limits"] = []


async def scenario(edge: Edge) -> None:
    await _limit_models(edge)
    assert [await _served(edge, "large") for _ in range(3)] == [200, 200, 429]
    assert await _served(edge, "small") == 200


async def _served(edge: Edge, model: str) -> int:
    """Return the status of a request, once it is charged."""
    before = await edge.admin.metric(HITS)
    answer = await ask(edge.url, PATH, headers={"x-model": model})

    async def charged() -> bool:
        return await edge.admin.metric(HITS) == before + USED

    if answer.status == 200:
        await until(charged, "the request is charged")
    return answer.status


async def _limit_models(edge: Edge) -> None:
    file = edge.places.folder / "limits" / "edge.yaml"
    limit = {"unit": "day", "requests_per_unit": BUDGET}
    descriptors = [{"key": "model", "rate_limit": limit}]
    file.write_text(yaml.safe_dump({"domain": read(file).data["domain"], "descriptors": descriptors}))

    async def limited() -> bool:
        answer = await ask(edge.url, PATH, headers={"x-model": "first"})
        return answer.headers.get("x-ratelimit-limit", "").startswith(f"{BUDGET},")

    await until(limited, "the changed limit holds")
