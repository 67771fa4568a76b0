"""The descriptors that Envoy sends to ratelimit, and how often a request counts (docs/ratelimit.md)."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from common.configfile import read
from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import Edge
from sidecars.demo.until import until

PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"
DUAL_STACK, BEHIND_PROXY = "dual-stack", "behind-proxy"
"""Add a listener for IPv6 and IPv4, and one that takes the client address from x-forwarded-for."""

MASKED = {
    ("edge", ""): ("127.0.0.0/16", 500),
    (DUAL_STACK, ""): ("127.0.0.0/16", 500),
    (BEHIND_PROXY, "192.0.2.7"): ("192.0.0.0/16", 600),
    (BEHIND_PROXY, "2001:db8:1:2:3::4"): ("2001:db8:1:2::/64", 700),
    (BEHIND_PROXY, "::ffff:192.0.2.7"): ("::/64", 800),
    (BEHIND_PROXY, "::ffff:198.51.100.7"): ("::/64", 800),
}
"""By listener and x-forwarded-for: the value that Envoy sends, and the limit that matches it."""

ADDEND = 5
NEGATIVE = {"number": 1, "is_negative_hits": True}
HITS = "ratelimit_service_rate_limit_total_hits"
CALLS = "ratelimit_service_total_requests"
LIMITS = {"first": 1000, "second": 2000, "first,second": 3000, "second,first": 4000}
"""Results by the value of the header."""


def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
    """Routes of every kind, each with its own limit."""
    edge = configuration["static_resources"]["listeners"][0]
    [host] = http_manager(edge)["route_config"]["virtual_hosts"]
    host["routes"] = [
        _route("direct", {"direct_response": {"status": 200}}),
        _route("redirect", {"redirect": {"path_redirect": "/public/elsewhere"}}),
        _route("plain", _limited("plain")),
        _route("addend", _limited("addend", hits_addend={"number": ADDEND})),
        _route("addend-per-route", {"route": {"cluster": "upstream"}}, hits_addend={"number": ADDEND}),
        _route("negative", _limited("negative", hits_addend=NEGATIVE)),
        _route("negative-per-route", {"route": {"cluster": "upstream"}}, hits_addend=NEGATIVE),
        _route(
            "format-without-value",
            {"route": {"cluster": "upstream"}},
            hits_addend={"format": "%REQ(x-none)%"},
        ),
        _route("done", _ended_by(429)),
        _route("done-and-served", _ended_by(200)),
        _route("skipped", {"route": {"cluster": "upstream", "rate_limits": [{"actions": [_SKIPPED]}]}}),
        _route("masked", {"route": {"cluster": "upstream", "rate_limits": [{"actions": [_MASKED]}]}}),
        _route("header", {"route": {"cluster": "upstream", "rate_limits": [{"actions": [_HEADER]}]}}),
    ]
    host["rate_limits"] = [{"actions": [_key("host")]}]
    listeners = configuration["static_resources"]["listeners"]
    dual, behind_proxy = deepcopy(edge), deepcopy(edge)
    dual["name"], behind_proxy["name"] = DUAL_STACK, BEHIND_PROXY
    dual["address"]["socket_address"].update(address="::ffff:127.0.0.1", ipv4_compat=True)
    http_manager(behind_proxy)["use_remote_address"] = False
    listeners += [dual, behind_proxy]


_SKIPPED = {"request_headers": {"header_name": "x-none", "descriptor_key": "none", "skip_if_absent": True}}
_MASKED = {"masked_remote_address": {"v4_prefix_mask_len": 16, "v6_prefix_mask_len": 64}}
_HEADER = {"request_headers": {"header_name": "x-key", "descriptor_key": "header"}}


async def scenario(edge: Edge) -> None:
    await _count_everything(edge)
    for name in ("direct", "redirect", "no-such-route"):
        assert await _hits_of(edge, name) == 0, name
    assert await _hits_of(edge, "plain") == 1
    assert await _hits_of(edge, "addend") == 1
    assert await _hits_of(edge, "addend-per-route") == ADDEND
    assert await _hits_of(edge, "negative") == 1
    assert await _hits_of(edge, "negative-per-route") == 0
    assert await _hits_of(edge, "format-without-value") == 0

    await _charged_at_the_end(edge)
    await _asked_without_entries(edge)
    for (listener, forwarded), (_, most) in MASKED.items():
        headers = {"x-forwarded-for": forwarded} if forwarded else {}
        origin = f"http://127.0.0.1:{edge.envoy.ports[listener]}"
        answer = await ask(origin, "/public/masked", headers=headers)
        assert answer.headers["x-ratelimit-limit"].startswith(f"{most},"), (listener, forwarded)

    answer = await ask(edge.url, "/public/header", headers=[("x-key", "second"), ("x-key", "first")])
    assert answer.headers["x-ratelimit-limit"].startswith(f"{LIMITS['second']},")


async def _charged_at_the_end(edge: Edge) -> None:
    """`apply_on_stream_done` also counts a refused request."""
    for name, status in (("done", 429), ("done-and-served", 200)):
        before = await edge.admin.metric(HITS)
        assert (await ask(edge.url, f"/public/{name}")).status == status

        async def charged(before: float = before) -> bool:
            return await edge.admin.metric(HITS) == before + 2

        await until(charged, f"{name} is charged twice: before the route, and when it ends")


async def _asked_without_entries(edge: Edge) -> None:
    """Routes whose only action yields no descriptor; Envoy makes no call for a direct response."""
    for name, calls in (("skipped", 1), ("direct", 0)):
        before = await edge.admin.metric(CALLS)
        assert await _hits_of(edge, name) == 0, name
        assert await edge.admin.metric(CALLS) == before + calls, name


def _ended_by(status: int) -> dict[str, Any]:
    limits = [
        {"actions": [_key(f"before-{status}")]},
        {"actions": [_key("done")], "apply_on_stream_done": True},
    ]
    return {"route": {"cluster": "upstream", "rate_limits": limits}}


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
    names = ("host", "plain", "addend", "addend-per-route", "negative", "negative-per-route", "done")
    descriptors = [_limit(name, name, 1000) for name in (*names, "format-without-value")]
    descriptors += [_limit("before-429", "before-429", 0), _limit("before-200", "before-200", 1000)]
    descriptors += [_limit("masked_remote_address", value, most) for value, most in set(MASKED.values())]
    descriptors += [_limit("header", value, most) for value, most in LIMITS.items()]
    file.write_text(yaml.safe_dump({"domain": read(file).data["domain"], "descriptors": descriptors}))

    async def loaded() -> bool:
        return await _hits_of(edge, "plain") == 1

    await until(loaded, "the changed limits hold")


def _limit(key: str, value: str, requests: int) -> dict[str, Any]:
    return {"key": key, "value": value, "rate_limit": {"unit": "day", "requests_per_unit": requests}}


async def _hits_of(edge: Edge, name: str) -> float:
    """Return the hits that one request to the route adds, over all limits."""
    before = await edge.admin.metric(HITS)
    assert (await ask(edge.url, f"/public/{name}")).status in {200, 301, 404}
    return await edge.admin.metric(HITS) - before
