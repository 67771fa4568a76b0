"""HTTP/2 keeps blanks around a header value; an HTTP/1 upstream never sees them (RFC 9110 section 5.5).

So they must not give a client a separate bucket, or hide a secret from redaction. Envoy's own comparison
(`header_value_match`) is exact: docs/ratelimit.md says how to configure it.
"""

import asyncio
from pathlib import Path
from typing import Any

import yaml

from common.configfile import read
from sidecars.demo.ask import EdgeResponse
from sidecars.demo.configuration import http_manager
from sidecars.demo.demo import log_lines
from sidecars.demo.edge import Edge
from sidecars.demo.until import until
from tests.support.bare_envoy import send, send_http2

AROUND = (b"%s", b" %s", b"%s ", b"\t%s", b"%s\t", b" \t %s\t \t")
SECRET = b"hunter2-hunter2"
CREDENTIALS = (b"Bearer " + SECRET, b"Basic " + SECRET, b"token=" + SECRET, b"https://u:" + SECRET + b"@h/")
TOLERANT = "[ \t]*acme[ \t]*"


def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
    """Limits by the same header with each kind of action in Envoy, each on its own route."""
    manager = http_manager(configuration["static_resources"]["listeners"][0])
    [host] = manager["route_config"]["virtual_hosts"]
    actions: dict[str, dict[str, Any]] = {
        "header": {"request_headers": {"header_name": "x-tenant", "descriptor_key": "tenant"}},
        "query": {"query_parameters": {"query_parameter_name": "tenant", "descriptor_key": "tenant"}},
        "exact": _value_match("exact", {"exact": "acme"}),
        "regex": _value_match("regex", {"safe_regex": {"regex": TOLERANT}}),
    }
    host["routes"] = [
        {
            "match": {"path": f"/public/{name}"},
            "route": {"cluster": "upstream", "rate_limits": [{"actions": [action]}]},
        }
        for name, action in actions.items()
    ]
    host["rate_limits"] = []
    logger = manager["access_log"][0]["typed_config"]
    logger["additional_request_headers_to_log"] = ["x-note"]
    logger["common_config"]["custom_tags"].append({"tag": "note", "request_header": {"name": "x-note"}})


def _value_match(name: str, string: dict[str, Any]) -> dict[str, Any]:
    headers = [{"name": "x-tenant", "string_match": string}]
    return {"header_value_match": {"descriptor_value": name, "headers": headers}}


async def scenario(edge: Edge) -> None:
    await _load_limits(edge)
    await _limits(edge)
    await _matched_by_envoy(edge)
    await _secrets(edge)


async def _load_limits(edge: Edge) -> None:
    file = edge.places.folder / "limits" / "edge.yaml"
    descriptors = [
        _limit("tenant", "loaded", 0),
        _limit("tenant", "acme", 1),
        _limit("tenant", "team *", 1),
        _limit("tenant", "", 1),
        _limit("header_match", "exact", 0),
        _limit("header_match", "regex", 0),
    ]
    file.write_text(yaml.safe_dump({"domain": read(file).data["domain"], "descriptors": descriptors}))

    async def loaded() -> bool:
        return (await _ask(edge, "header", b"loaded")).status == 429

    await until(loaded, "the changed limits hold")


def _limit(key: str, value: str, requests: int) -> dict[str, Any]:
    limit = {"unit": "day", "requests_per_unit": requests, "algorithm": "fixed_window"}
    return {"key": key, "value": value, "rate_limit": limit}


async def _limits(edge: Edge) -> None:
    # A value in the file, a value of a wildcard, and a value with only a count.
    for value in (b"acme", b"team  x", b"other"):
        first = await _ask(edge, "header", b" " + value)
        assert (first.status, first.upstream_values("x-tenant")) == (200, [value.decode()])
        for around in AROUND:
            answer = await _ask(edge, "header", around % value)
            assert answer.status == 429, around % value
        again = await send(edge, "/public/header", [("x-tenant", b"\t" + value)], listener="edge")
        assert again.status == 429
    # Blanks within a value, and other characters, make a different value.
    for value in (b"ac me", b"a\tcme", b"team x", b"\xa0acme", b"\xff acme"):
        assert (await _ask(edge, "header", value)).status == 200, value
    # An escaped blank in a query does not help, either. Envoy does not read `+` as one.
    for spelled in ("acme", "%20acme", "+acme", "acme%09"):
        answer = await send_http2(edge, f"/public/query?tenant={spelled}".encode(), listener="edge")
        assert answer.status == (200 if spelled.startswith("+") else 429), spelled


async def _matched_by_envoy(edge: Edge) -> None:
    for around in AROUND:
        plain = around == b"%s"
        assert (await _ask(edge, "exact", around % b"acme")).status == (429 if plain else 200), around
        assert (await _ask(edge, "regex", around % b"acme")).status == 429, around


async def _secrets(edge: Edge) -> None:
    for credentials in CREDENTIALS:
        for around in AROUND:
            headers = [(b"x-note", around % credentials), (b"user-agent", around % credentials)]
            await send_http2(edge, b"/public/query", headers, listener="edge")
    sent = len(CREDENTIALS) * len(AROUND)

    def noted(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [line for line in lines if "note" in line.get("tags", {})]

    lines = noted(await log_lines(edge.places.access_log, lambda lines: len(noted(lines)) == sent))
    assert len(lines) == sent
    for line in lines:
        texts = (line["request_headers"]["x-note"], line["tags"]["note"], line["user_agent"])
        assert all("[redacted]" in text for text in texts), texts
    logged = await asyncio.to_thread(edge.places.access_log.read_bytes)
    assert SECRET not in logged


async def _ask(edge: Edge, route: str, value: bytes) -> EdgeResponse:
    return await send_http2(edge, f"/public/{route}".encode(), [(b"x-tenant", value)], listener="edge")
