"""What Envoy asks ratelimit about, and how often a request counts: as docs/ratelimit.md tells it."""

from pathlib import Path
from typing import Any

import yaml

from common.configfile import read
from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import Edge
from sidecars.demo.until import until

PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"
ADDEND = 5
LIMITS = {"first": 1000, "second": 2000, "first,second": 3000, "second,first": 4000}
"""By the value of the header."""


def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
    """Routes of every kind, each with a limit of its own."""
    [host] = http_manager(configuration["static_resources"]["listeners"][0])["route_config"]["virtual_hosts"]
    host["routes"] = [
        _route("direct", {"direct_response": {"status": 200}}),
        _route("redirect", {"redirect": {"path_redirect": "/public/elsewhere"}}),
        _route("plain", _limited("plain")),
        _route("addend", _limited("addend", hits_addend={"number": ADDEND})),
        _route("addend-per-route", {"route": {"cluster": "upstream"}}, hits_addend={"number": ADDEND}),
        _route(
            "format-without-value",
            {"route": {"cluster": "upstream"}},
            hits_addend={"format": "%REQ(x-none)%"},
        ),
        _route("header", {"route": {"cluster": "upstream", "rate_limits": [{"actions": [_HEADER]}]}}),
    ]
    host["rate_limits"] = [{"actions": [_key("host")]}]


_HEADER = {"request_headers": {"header_name": "x-key", "descriptor_key": "header"}}


async def scenario(edge: Edge) -> None:
    await _count_everything(edge)
    for name in ("direct", "redirect", "no-such-route"):
        assert await _hits_of(edge, name) == 0, name
    assert await _hits_of(edge, "plain") == 1
    assert await _hits_of(edge, "addend") == 1
    assert await _hits_of(edge, "addend-per-route") == ADDEND
    assert await _hits_of(edge, "format-without-value") == 0

    answer = await ask(edge.url, "/public/header", headers=[("x-key", "second"), ("x-key", "first")])
    assert answer.headers["x-ratelimit-limit"].startswith(f"{LIMITS['second']},")


def _key(name: str) -> dict[str, Any]:
    return {"generic_key": {"descriptor_key": name, "descriptor_value": name}}


def _limited(name: str, **more: Any) -> dict[str, Any]:
    return {"route": {"cluster": "upstream", "rate_limits": [{"actions": [_key(name)], **more}]}}


def _route(name: str, action: dict[str, Any], **per_route: Any) -> dict[str, Any]:
    route = {"match": {"path": f"/public/{name}"}, **action}
    if per_route:
        limits = {"@type": PER_ROUTE, "rate_limits": [{"actions": [_key(name)], **per_route}]}
        route["typed_per_filter_config"] = {"envoy.filters.http.ratelimit": limits}
    return route


async def _count_everything(edge: Edge) -> None:
    file = edge.places.folder / "limits" / "edge.yaml"
    names = ("host", "plain", "addend", "addend-per-route", "format-without-value")
    descriptors = [_limit(name, name, 1000) for name in names]
    descriptors += [_limit("header", value, most) for value, most in LIMITS.items()]
    file.write_text(yaml.safe_dump({"domain": read(file).data["domain"], "descriptors": descriptors}))

    async def loaded() -> bool:
        return await _hits_of(edge, "plain") == 1

    await until(loaded, "the changed limits hold")


def _limit(key: str, value: str, requests: int) -> dict[str, Any]:
    return {"key": key, "value": value, "rate_limit": {"unit": "day", "requests_per_unit": requests}}


async def _hits_of(edge: Edge, name: str) -> float:
    """By how much one request to the route is charged, over all limits."""
    before = await edge.admin.metric("ratelimit_service_rate_limit_total_hits")
    assert (await ask(edge.url, f"/public/{name}")).status in {200, 301, 404}
    return await edge.admin.metric("ratelimit_service_rate_limit_total_hits") - before
