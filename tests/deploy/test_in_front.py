"""Each configuration in docs/in-front.md shows authz and ratelimit the true client, not a forged one."""

import asyncio
import os
import re
import socket
import struct
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import Edge, serve_edge
from tests.support.manifests import ROOT

PAGE = (ROOT / "docs" / "in-front.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+)\n(?:(?!^## ).*\n)*?```yaml\n((?:.*\n)*?)```", PAGE, re.MULTILINE))
CLIENT, FORGED = "203.0.113.7", "198.51.100.66"
PEER = "127.0.0.9"
"""Not 127.0.0.1: for that peer Envoy appends an address of its own to x-forwarded-for."""

LIMITS = {
    "domain": "edge",
    "descriptors": [
        {"key": "remote_address", "value": address, "rate_limit": {"unit": "day", "requests_per_unit": count}}
        for address, count in ((CLIENT, 1), (PEER, 1), (FORGED, 1000))
    ],
}
V2 = b"\r\n\r\n\x00\r\nQUIT\n" + b"\x21\x11" + struct.pack(">H", 12)
"""Signature, version and command, TCP over IPv4, length of the addresses (HAProxy's PROXY protocol)."""

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(120)]


def proxy_header(block: str) -> bytes:
    """Return what the proxy sends before the request."""
    if "# PROXY v2" in block:
        return V2 + socket.inet_aton(CLIENT) + socket.inet_aton("10.0.0.5") + struct.pack(">HH", 50000, 443)
    return f"PROXY TCP4 {CLIENT} 10.0.0.5 50000 443\r\n".encode() if "# PROXY v1" in block else b""


def forwarded_for(block: str) -> str:
    [value] = re.findall(r"^# x-forwarded-for: ([\d., ]+?) +\(", block, re.MULTILINE)
    assert isinstance(value, str)
    return value


async def request(edge: Edge, before: bytes, xff: str) -> int:
    """Return the status; 0 if Envoy closes the connection without a response."""
    where = urlsplit(edge.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port, local_addr=(PEER, 0))
    lines = ["GET /public/a HTTP/1.1", "host: api.example", f"x-forwarded-for: {xff}", "connection: close"]
    writer.write(before + "\r\n".join([*lines, "", ""]).encode())
    try:
        async with asyncio.timeout(30):
            answer = await reader.read()
    except ConnectionError:
        answer = b""
    writer.close()
    return int(answer.split()[1]) if answer else 0


def only_the_client(policy: dict[str, Any], client: str) -> None:
    policy["rules"] = [{"name": "one", "paths": ["/public/{rest=**}"], "client": [client], "allow": "anyone"}]


def test_every_section_with_a_configuration_is_tried() -> None:
    assert len(SECTIONS) == len(re.findall(r"^```yaml$", PAGE, re.MULTILINE)) == 7


@pytest.mark.parametrize("section", SECTIONS)
async def test_authz_and_ratelimit_see_the_true_client(
    section: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    block = SECTIONS[section]
    parts = yaml.safe_load(block)
    before, xff = proxy_header(block), forwarded_for(block)
    direct = not before and parts["authz"]["trusted_hops"] == 0
    client = PEER if direct else CLIENT
    folder = tmp_path_factory.mktemp("f")
    limits = folder / "front-limits.yaml"
    limits.write_text(yaml.safe_dump(LIMITS))

    def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
        [listener] = [one for one in configuration["static_resources"]["listeners"] if one["name"] == "edge"]
        http_manager(listener).update(parts["manager"])
        listener.update(parts.get("listener", {}))

    def change_settings(settings: dict[str, Any]) -> None:
        settings["authz"].update(parts["authz"])
        settings["ratelimit"]["limits"] = [str(limits)]

    async with serve_edge(
        folder, os.environ, change_envoy=change_envoy, change_settings=change_settings
    ) as edge:
        await edge.change_policy(lambda policy: only_the_client(policy, f"{FORGED}/32"))
        assert await request(edge, before, xff) == 403, "authz believes a forged address"
        await edge.change_policy(lambda policy: only_the_client(policy, f"{client}/32"))
        assert await request(edge, before, xff) == 200, "authz does not see the client"
        assert await request(edge, before, xff) == 429, "ratelimit does not count the client"
        if before:
            assert await request(edge, b"", xff) == 0, "a connection without PROXY header is served"
