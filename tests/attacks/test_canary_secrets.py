"""Secrets in every part of a request: no file or page of the sidecars may show one.

The requests pass through a real Envoy that logs everything, with its hardening and without, to an upstream
whose responses contain secrets, too.
"""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from sidecars.demo.demo import log_lines
from sidecars.demo.edge import Edge
from sidecars.demo.until import until
from tests.support.attacks.edges import LISTENERS, PLAIN, rules, serve_both
from tests.support.bare_envoy import send

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(180)]

NAMES = (
    *(
        "access_token",
        "refresh_token",
        "id_token",
        "client_secret",
        "code",
        "state",
        "sig",
        "signature",
        "assertion",
    ),
    *(
        "X-Amz-Signature",
        "X-Amz-Security-Token",
        "X-Goog-Signature",
        "SAMLResponse",
        "jwt",
        "auth",
        "authorization",
    ),
    *("secret", "pwd", "passwd", "password", "ticket", "session", "sid", "otp", "token", "api_key", "apiKey"),
    *("user_token", "password2", "webhookSecret", "X-Gateway-Signature", "access_code"),
    *("resume", "my_session"),  # which the policy reads
)
HEADERS = (
    *("authorization", "cookie", "proxy-authorization", "x-api-key", "x-auth-token", "x-amz-security-token"),
    *("x-user-token", "x-client-secret"),
    *("x-partner-pass", "my_session"),  # which the policy reads
)

CREDENTIALS = {
    "sessions": {"store": "memory", "locations": [{"cookie": "my_session"}, {"query": "resume"}]},
    "api_keys": {
        "locations": [{"header": "x-partner-pass"}],
        "keys": [{"id": "a", "sha256": "0" * 64, "subject": "a"}],
    },
}
OPEN = """
- name: everything
  paths: ["/{rest=**}"]
  allow: anyone
  accept_in_path: [double_encoding, parameters, encoded_slash]
"""


class Canaries:
    """Makes unique secrets, some inconspicuous like words, some with the form of tokens."""

    def __init__(self, listener: str) -> None:
        self._listener = listener
        self._numbers = count()
        self.all: list[str] = []

    def word(self) -> str:
        return self._planted(f"Canary{self._listener}{next(self._numbers):04d}")

    def token(self) -> str:
        word = f"{self._listener}-{next(self._numbers)}"
        return self._planted(base64.urlsafe_b64encode(f"a\xff{word}\xfe{word}".encode("latin-1")).decode())

    def jwt(self) -> str:
        parts = [json.dumps({"alg": "none"}), json.dumps({"sub": next(self._numbers)})]
        return self._planted(
            ".".join(base64.urlsafe_b64encode(part.encode()).decode().strip("=") for part in parts) + "."
        )

    def _planted(self, secret: str) -> str:
        self.all.append(secret)
        return secret


def queries(plant: Canaries) -> Iterator[str]:
    """Return queries with a secret in each parameter."""
    for name in NAMES:
        yield f"a=1&{name}={plant.word()}&b=2"
    for name in ("token", "password", "code", "resume"):
        for spelled in (
            f"user[{name}]",
            f"user%5B{name}%5D",
            f"+{name}",
            f"%20{name}",
            f"user.{name}",
            name.upper(),
        ):
            yield f"a=1&{spelled}={plant.word()}&b=2"
        yield f"a=1;{name}={plant.word()}"
        yield f"%{ord(name[0]):02x}{name[1:]}={plant.word()}"
        yield f"%25{ord(name[0]):02x}{name[1:]}={plant.word()}"
        yield f"{name}%3D{plant.word()}"
        for within in (
            f"https://app.example/cb?{name}={plant.word()}&x=1",
            f"https://app.example/cb#{name}={plant.word()}",
            f"https://u:{plant.word()}@app.example/",
            json.dumps({"user": {name: plant.word()}}),
            json.dumps({name: [plant.word(), plant.word()]}),
            f"/reset/{plant.token()}",
            f"Bearer {plant.word()}",
        ):
            yield f"next={quote(within, safe='')}"
            yield f"next={quote(quote(within, safe=''), safe='')}&b=2"
    yield f"x={plant.jwt()}"
    # Unescaped, which RFC 3986 section 3.4 allows.
    yield f"next=https://app.example/reset/{plant.token()}/now"
    yield f"next=/reset/{plant.token()}"
    yield f"next=/a?b&code={plant.word()}"
    yield f"next=https://u:{plant.word()}@app.example/"
    yield "query=" + quote(f'{{login(user:"a",password:"{plant.word()}"){{id}}}}')
    yield f"x=Authorization:+Bearer+{plant.word()}"
    yield f"%u0074oken={plant.word()}"
    yield "&".join(["a=%20b"] * 300 + [f"%74oken={plant.word()}"])


def paths(plant: Canaries) -> Iterator[str]:
    """Return paths with a secret in each."""
    for name in ("token", "jsessionid", "resume"):
        yield f"/a;{name}={plant.word()}/b"
        yield f"/a/{name}={plant.word()}"
        yield f"/a/x%3B{name}%3D{plant.word()}"
    yield f"/reset/{plant.token()}"
    yield f"/reset/{plant.token()}/now"
    yield f"/reset/{plant.jwt()}"
    yield f"/go/https://u:{plant.word()}@app.example/x"
    yield f"/go/https%3A%2F%2Fu%3A{plant.word()}%40app.example"
    yield f"/go/x%253Ftoken%253D{plant.word()}"


def headers(plant: Canaries) -> Iterator[tuple[str, str]]:
    """Return header lines with a secret in each."""
    for name in HEADERS:
        yield name, f"Bearer {plant.word()}" if name.endswith("authorization") else plant.word()
    for value in (
        f"https://shop.example/cart?token={plant.word()}",
        f"https://shop.example/reset/{plant.token()}?x",
        f"https://u:{plant.word()}@shop.example/",
        f"https://shop.example/;jsessionid={plant.word()}?next={quote(f'/x?code={plant.word()}')}",
        f"https://shop.example/?next=%2Freset%2F{plant.token()}%3Fx",
        f"https://shop.example/?next=/reset/{plant.token()}",
        f"Bearer {plant.word()}",
    ):
        yield "referer", value
    yield "user-agent", f"agent (https://u:{plant.word()}@bot.example)"
    yield "x-forwarded-for", f"token={plant.word()}"
    yield "x-request-id", f"token={plant.word()}"
    for value in (
        f"Basic {plant.word()}",
        f"Authorization: Basic {plant.word()}",
        f"ApiKey {plant.word()}",
        json.dumps({"password": plant.word()}),
        f"token={plant.word()}",
        plant.jwt(),
        f"https://app.example/?sig={plant.word()}",
    ):
        yield "x-tag", value
    yield (
        "x-location",
        f"https://app.example/cb?code={plant.word()}&state={plant.word()}#id_token={plant.word()}",
    )
    yield "x-location", f"/reset/{plant.token()}"


def log_everything(manager: dict[str, Any]) -> None:
    """Make Envoy log headers in both directions, tags and metadata, and add limits by client data."""
    [log] = manager["access_log"]
    config = log["typed_config"]
    logged = [*HEADERS, "x-tag", "referer"]
    config["additional_request_headers_to_log"] = logged
    config["additional_response_headers_to_log"] = ["location", "set-cookie", "www-authenticate"]
    config["common_config"]["custom_tags"] = [
        {"tag": f"tag-{name}" if name == "x-tag" else name, "request_header": {"name": name}}
        for name in logged
    ]
    to_metadata = "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config"
    header_rules = [
        {
            "header": name,
            "on_header_present": {"metadata_namespace": "client", "key": name, "type": "STRING"},
            "remove": False,
        }
        for name in logged
    ]
    manager["http_filters"].insert(
        0,
        {
            "name": "envoy.filters.http.header_to_metadata",
            "typed_config": {"@type": to_metadata, "request_rules": header_rules},
        },
    )
    [host] = manager["route_config"]["virtual_hosts"]
    actions = [
        {"actions": [{"request_headers": {"header_name": name, "descriptor_key": name.strip(":")}}]}
        for name in (":path", "authorization", "x-tag")
    ]
    for route in host["routes"]:
        route["route"]["rate_limits"] = actions
    host["rate_limits"] = actions
    # The upstream's response contains data from the request.
    host["response_headers_to_add"] = [
        {"header": {"key": name, "value": f"%REQ({source})%"}}
        for name, source in (("location", "x-location"), ("set-cookie", "cookie"))
    ]


PAGES = ("/decisions?limit=1000", "/metrics", "/config", "/")


async def _pages(edge: Edge) -> dict[str, str]:
    """Return all pages of the admin port."""
    connector = aiohttp.UnixConnector(path=str(edge.places.admin_socket))
    async with aiohttp.ClientSession("http://sidecars", connector=connector) as client:
        shown = {}
        for page in PAGES:
            async with client.get(page, raise_for_status=True) as response:
                shown[page] = await response.text()
        return shown


@asynccontextmanager
async def _collector() -> AsyncIterator[tuple[str, list[str]]]:
    """Run an OpenTelemetry collector; yield its address and the data sent to it."""
    bodies: list[str] = []

    async def keep(request: web.Request) -> web.Response:
        bodies.append((await request.read()).decode("latin-1"))
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", keep)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces", bodies
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("listener", LISTENERS)
async def test_no_canary_sings(listener: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    plant = Canaries(listener)
    folder = tmp_path_factory.mktemp("e")
    decision_log = folder / "decisions.jsonl"
    async with AsyncExitStack() as running:
        endpoint, spans = await running.enter_async_context(_collector())

        def tell_all(settings: dict[str, Any]) -> None:
            settings["log"]["level"] = "debug"
            settings["authz"]["decisions"] = {"log": {"file": str(decision_log)}}
            settings["authz"]["tracing"] = {"endpoint": endpoint, "root_sample_rate": 1}

        edge = await running.enter_async_context(serve_both(folder, log_everything, settings=tell_all))

        def configure(policy: dict[str, Any]) -> None:
            policy["credentials"] = CREDENTIALS
            rules(OPEN)(policy)

        reloads = await edge.admin.metric("sidecars_config_reload_total")
        await edge.change_policy(configure)

        async def both_know() -> bool:
            return await edge.admin.metric("sidecars_config_reload_total") >= reloads + 2

        await until(both_know, "authz and accesslog know the changed policy")
        sent = 0
        for query in queries(plant):
            await send(edge, f"/public/q?{query}", listener=listener)
            sent += 1
        for path in paths(plant):
            await send(edge, path, listener=listener)
            sent += 1
        for header in headers(plant):
            await send(edge, "/public/h", [header], listener=listener)
            sent += 1
        await send(edge, "/public/host", listener=listener, host=f"u:{plant.word()}@edge.example")
        lines = await log_lines(edge.places.access_log, lambda lines: len(lines) >= sent)
        assert len(lines) >= sent
        assert len(plant.all) > 140
        decided = sum("authz_decision_id" in line for line in lines)

        async def told_everywhere() -> bool:
            return _all_logged(decision_log, decided) and _all_traced(spans, decided)

        await until(told_everywhere, "the decisions are logged and traced")
        result = {
            "the access log": edge.places.access_log.read_text(),
            "the decision log": decision_log.read_text(),
            "the process log": edge.places.settings_file.with_suffix(".log").read_text(),
            "the spans": "\n".join(spans),
            **await _pages(edge),
        }
        for where, text in result.items():
            shown = [line for line in text.splitlines() if any(secret in line for secret in plant.all)]
            assert shown == [], where
        # Text that is not secret stays readable.
        assert '"path":"/public/q"' in result["the access log"]
        assert "a=1&" in result["the access log"]
        assert '"path":"/public/q"' in result["the decision log"]
        if listener == PLAIN:
            assert "[redacted]" in result["/decisions?limit=1000"]
            assert "[redacted]" in result["the decision log"]


def _all_logged(file: Path, number: int) -> bool:
    return file.exists() and file.read_text().count("\n") >= number


def _all_traced(spans: list[str], number: int) -> bool:
    return sum(body.count("authz.decision_id") for body in spans) >= number
