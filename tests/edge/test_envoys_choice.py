"""For random paths, the route that a real Envoy takes, the rule that authz applies and the intent agree."""

import asyncio
import random
import re
from pathlib import Path
from typing import Any

import pytest

from authz.request.path import split_path
from edge.intent.estate import EstateReader
from edge.intent.find import most_specific
from edge.intent.model import Estate
from tests.edge.estates import TODAY, service, texts_of
from tests.edge.served import Served, serve

HOST = "choice.example"
PLATFORM = f"""\
domain: edge
policy: {{credentials: {{issuers: [{{issuer: "https://a", audiences: [x], jwks: {{url: "https://a/keys"}}}}]}}}}
teams: {{one: {{owns: [{HOST}]}}}}
"""
TEMPLATES = (
    *("/", "/a", "/a/", "/a/b", "/a/{x}", "/a/{r=**}", "/{x}/b", "/{x}/{y}", "/{x}/{r=**}", "/{x}/"),
    *("/a b/{x}", "/a+b", "/caf\u00e9/{x}", "/a@b/{r=**}", "/(a)/x", "/x/{y}/z", "/x/{y}/{z}/{r=**}", "/$"),
)
POSTED = ("/a", "/{x}/{y}", "/a/{x}/c")
SEGMENTS = (
    *(
        "a",
        "b",
        "c",
        "x",
        "z",
        "A",
        "",
        "%61",
        "%62",
        "a.b",
        "~",
        "a%20b",
        "a+b",
        "a%2Bb",
        "a%2bb",
        "$",
        "%24",
    ),
    *(
        "caf%C3%A9",
        "caf%c3%a9",
        "caf%C3%a9",
        "a@b",
        "a%40b",
        "(a)",
        "%28a)",
        '"',
        "<",
        "[x]",
        "|",
        "^",
        "{x}",
    ),
    *("..", ".", "%2e%2e", "a;b", "a%3Bb", "%2F", "a%5Cb", "%25", "!", "*", "'"),
)
REQUESTS = 500
ENDS = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def intent() -> dict[str, str]:
    routes = [f"{{id: t{n}, paths: ['{path}'], who: {{allow: anyone}}}}" for n, path in enumerate(TEMPLATES)]
    routes += [
        f"{{id: p{n}, methods: [POST], paths: ['{path}'], who: {{allow: anyone}}}}"
        for n, path in enumerate(POSTED)
    ]
    return dict(texts_of(service(*routes, hosts=HOST), platform=PLATFORM))


def requests() -> list[tuple[str, str]]:
    chosen = random.Random(20261129)
    found = []
    for _ in range(REQUESTS):
        segments = [chosen.choice(SEGMENTS) for _ in range(chosen.choice([1, 1, 2, 2, 2, 3, 3, 4]))]
        query = chosen.choice(["", "", "?a=b/c", "?"])
        found.append((chosen.choice(["GET", "POST"]), "/" + "/".join(segments) + query))
    return found


async def send(served: Served, wanted: list[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Send the requests, and return each by its id; Envoy refuses some before it gives them one."""
    by_id = {}
    reader = writer = None
    for method, path in wanted:
        if writer is None or reader is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.envoy.ports["edge"])
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if length := ENDS.search(head):
            await reader.readexactly(int(length[1]))
        if identity := re.search(rb"x-request-id: (\S+)", head):
            by_id[identity[1].decode()] = method, path
        if b"connection: close" in head.lower():
            writer.close()
            writer = None
    if writer is not None:
        writer.close()
    return by_id


def expected(estate: Estate, method: str, path: str) -> str | None:
    [only] = estate.services
    found = most_specific(only.routes, method, split_path(path).segments)
    return found[0].name if found else None


@pytest.mark.envoy
async def test_envoy_authz_and_intent_agree_on_the_route(tmp_path_factory: pytest.TempPathFactory) -> None:
    estate = EstateReader(Path()).read(intent(), TODAY)
    async with serve(intent(), tmp_path_factory.mktemp("c")) as served:
        by_id = await send(served, requests())
        await served.record(list(by_id)[-1])
        records = [one for one in served.records() if one.get("request_id") in by_id]
    assert len(records) == len(by_id)
    compared = 0
    for record in records:
        # The path as Envoy has normalised it, which authz and the routes see.
        path, code = record["path"], record["code"]
        if code == 400:
            assert record.get("authz_reason", "path_").startswith(("path_", "host_")), record
            continue
        compared += 1
        assert outcome(record) == expected(estate, record["method"], path), record
    assert compared > REQUESTS // 4


def outcome(record: dict[str, Any]) -> str | None:
    """Return the route of a request that Envoy and authz agree about; None if Envoy has none for it."""
    if record["code"] == 404 and "route" not in record:
        assert "authz_rule" not in record
        return None
    assert record["authz_outcome"] == "allow", record
    assert record["route"] == record["authz_rule"], record
    route: str = record["route"]
    return route
