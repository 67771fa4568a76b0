"""docs/migrating-oauth2-proxy.md: a real oauth2-proxy answers the requests of the page as the page says.

Needs `oauth2-proxy` on the PATH, a build of github.com/oauth2-proxy/oauth2-proxy.
"""

import asyncio
import json
import re
import shutil
import subprocess
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web

from sidecars.demo.ask import EdgeResponse, ask
from sidecars.demo.upstream import Echo, serve_application, serve_upstream
from tests.support.free_ports import free_port
from tests.support.oauth2_proxy_examples import HOST, PAGE, Asked, block, requests, signed
from tests.support.signing import jwk, key_set, private_key

START_TRIES = 300
LOGIN = "https://idp.example.com/authorize"


def program() -> str:
    """Return oauth2-proxy; the test is skipped if it is not installed."""
    found = shutil.which("oauth2-proxy")
    if found is None:
        pytest.skip("oauth2-proxy is not on the PATH: the page's answers of oauth2-proxy were not compared")
    return found


async def keys(_request: web.Request) -> web.Response:
    return web.json_response(body=key_set(jwk(private_key("ES256"))))


async def redeem(request: web.Request) -> web.Response:
    """Answer as a token endpoint. The code says who the user is, so that a test needs no sign-in page."""
    said = json.loads(urlsafe_b64decode(str((await request.post())["code"])))
    id_token = signed(said, time.time())
    return web.json_response(
        {"access_token": "a", "token_type": "bearer", "expires_in": 600, "id_token": id_token}
    )


@asynccontextmanager
async def oauth2_proxy(folder: Path) -> AsyncIterator[str]:
    """Run oauth2-proxy with the configuration of the page; yield its URL."""
    path = program()
    provider = web.Application()
    provider.add_routes([web.get("/keys", keys), web.post("/token", redeem)])
    async with serve_application(provider, "127.0.0.1", 0) as idp, serve_upstream(Echo()) as upstream:
        address = f"127.0.0.1:{free_port()}"
        own = {
            "http_address": address,
            "skip_oidc_discovery": True,
            "login_url": LOGIN,
            "redeem_url": f"http://127.0.0.1:{idp}/token",
            "oidc_jwks_url": f"http://127.0.0.1:{idp}/keys",
            "oidc_enabled_signing_algs": ["ES256"],
            "client_secret": "secret",
            "cookie_secret": "0123456789abcdef0123456789abcdef",
            "cookie_secure": False,
            "redirect_url": f"http://{HOST}/oauth2/callback",
            "trusted_proxy_ips": ["127.0.0.1"],
            "upstreams": [f"http://127.0.0.1:{upstream}/"],
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in own.items()]
        file = folder / "oauth2-proxy.cfg"
        file.write_text(block("ini") + "\n".join(lines) + "\n")
        process = await asyncio.create_subprocess_exec(path, f"--config={file}")
        try:
            await until_ready(process, f"http://{address}")
            yield f"http://{address}"
        finally:
            process.terminate()
            await process.wait()


async def until_ready(process: asyncio.subprocess.Process, url: str) -> None:
    for _ in range(START_TRIES):
        assert process.returncode is None, "oauth2-proxy ended: its output is above"
        try:
            if (await ask(url, "/ping")).status == 200:
                return
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)
    pytest.fail("oauth2-proxy does not listen")


def cookies_of(response: EdgeResponse) -> str:
    """Return the cookies that the response sets, as a client sends them back."""
    return "; ".join(line.partition(";")[0] for line in response.headers.getall("set-cookie", []))


async def sign_in(url: str, said: dict[str, Any]) -> EdgeResponse:
    """Sign in by the authorization code flow, and return what the callback answers."""
    host = {"host": HOST}
    begun = await ask(url, "/oauth2/start", headers=host)
    place = begun.headers["location"]
    assert place.startswith(LOGIN)
    [state] = parse_qs(urlsplit(place).query)["state"]
    code = urlsafe_b64encode(json.dumps(said).encode()).decode()
    path = f"/oauth2/callback?code={code}&state={state}"
    return await ask(url, path, headers=host | {"cookie": cookies_of(begun)})


async def answer(url: str, asked: Asked) -> EdgeResponse:
    """Return the response to the request of the page; a login that is refused is the response, too."""
    headers = {"host": HOST, "x-real-ip": asked.client, **asked.headers}
    if asked.session is not None:
        signed_in = await sign_in(url, dict(asked.session))
        if signed_in.status != 302:
            return signed_in
        headers["cookie"] = cookies_of(signed_in)
    if asked.bearer is not None:
        headers["authorization"] = f"Bearer {signed(asked.bearer, time.time())}"
    return await ask(url, asked.path, method=asked.method, headers=headers)


def facts_of(response: EdgeResponse, asked: Asked) -> dict[str, str]:
    """Return the facts that the page names. `-`: the upstream gets no such header."""
    names = [name for name in asked.theirs if name != "status"]
    found = {name: response.upstream_values(name.removeprefix("upstream.")) for name in names}
    return {"status": str(response.status)} | {
        name: values[0] if values else "-" for name, values in found.items()
    }


async def test_oauth2_proxy_answers_as_the_page_says(tmp_path: Path) -> None:
    async with oauth2_proxy(tmp_path) as url:
        found = {asked.line: facts_of(await answer(url, asked), asked) for asked in requests()}
    assert found == {asked.line: asked.theirs for asked in requests()}


def test_the_page_has_every_flag() -> None:
    done = subprocess.run(
        [program(), "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    listed = set(re.findall(r"^ *(--[a-z0-9-]+)", done.stdout, re.MULTILINE))
    table = PAGE.partition("\n## Flags\n")[2]
    rows = re.findall(r"^\| (`--.*?) \| ", table, re.MULTILINE)
    shown = [flag for row in rows for flag in re.findall(r"`(--[a-z0-9-]+)`", row)]
    assert sorted(shown) == sorted(listed)
