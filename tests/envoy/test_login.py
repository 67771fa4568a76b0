"""The sample login application through a real Envoy: sign in at the provider, be allowed, sign out."""

import importlib.util
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from sidecars.client.sessions import SessionsClient
from sidecars.demo.edge import Edge, serve_edge
from sidecars.demo.idp import ISSUER
from sidecars.demo.login import CLIENT_ID, MODULES, can_run
from sidecars.demo.redis import find_redis, serve_redis
from sidecars.demo.until import until

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.redis,
    pytest.mark.skipif(not can_run(), reason=f"needs the extra login ({', '.join(MODULES)})"),
    pytest.mark.asyncio(loop_scope="module"),
]

NAVIGATION = {"accept": "text/html", "sec-fetch-mode": "navigate"}


@dataclass
class Page:
    """An answer to a browser."""

    url: str
    status: int
    headers: Any
    text: str

    @property
    def location(self) -> str:
        return str(URL(self.url).join(URL(self.headers["location"], encoded=True)))

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.location).query).items()}


@dataclass
class Browser:
    """Cookies of one origin (the edge), and requests one redirect at a time."""

    origin: str
    cookies: dict[str, str] = field(default_factory=dict)
    set_cookies: list[str] = field(default_factory=list)
    """The Set-Cookie lines of the last answer."""

    async def get(self, url: str) -> Page:
        return await self._ask("GET", url, NAVIGATION)

    async def post(
        self, url: str, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Page:
        return await self._ask("POST", url, {**NAVIGATION, **(headers or {})}, form or {})

    async def sign_out(self) -> Page:
        return await self.post("/auth/logout", headers={"origin": self.origin})

    async def _ask(self, method: str, url: str, headers: dict[str, str], form: Any = None) -> Page:
        whole = url if "://" in url else self.origin + url
        if whole.startswith(self.origin) and self.cookies:
            headers = {
                **headers,
                "cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            }
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
            client.request(
                method, URL(whole, encoded=True), headers=headers, data=form, allow_redirects=False
            ) as answer,
        ):
            if whole.startswith(self.origin):
                self.set_cookies = answer.headers.getall("set-cookie", [])
                self._keep(self.set_cookies)
            return Page(whole, answer.status, answer.headers, await answer.text())

    def _keep(self, lines: list[str]) -> None:
        for line in lines:
            for name, morsel in SimpleCookie(line).items():
                if morsel["max-age"] == "0" or "1970" in morsel["expires"] or not morsel.value:
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value

    async def sign_in(self, path: str = "/orders", subject: str = "alice") -> Page:
        """Open a page that needs a session, sign in, and return the answer of the callback."""
        to_login = await self.get(path)
        assert to_login.status == 302
        to_provider = await self.get(to_login.location)
        assert to_provider.status == 302, to_provider.text
        form = await self.get(to_provider.location)
        assert form.status == 200
        back = await self.post(to_provider.location, {"subject": subject})
        assert back.status == 303
        return await self.get(back.location)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge() -> AsyncIterator[Edge]:
    """An edge with two authz sidecars that share a Redis, and the login application."""
    redis = find_redis(os.environ)
    assert redis is not None
    with tempfile.TemporaryDirectory(prefix="login-") as name:
        folder = Path(name)
        async with (
            serve_redis(redis, folder) as url,
            serve_edge(folder, os.environ, redis_url=url, login=True) as running,
        ):
            yield running


@pytest.fixture
def browser(edge: Edge) -> Browser:
    return Browser(edge.url)


async def status(edge_url: str, cookie: str) -> int:
    """The status of /orders for a program with this session."""
    headers = {"cookie": f"__Host-session={cookie}"}
    async with aiohttp.ClientSession() as client, client.get(f"{edge_url}/orders", headers=headers) as answer:
        return answer.status


class TestSignIn:
    async def test_from_no_session_to_a_page_and_out_again(self, edge: Edge, browser: Browser) -> None:
        returned = await browser.sign_in("/orders?page=2")
        assert (returned.status, returned.location) == (303, f"{edge.url}/orders?page=2")
        page = await browser.get(returned.location)
        assert page.status == 200
        session = browser.cookies["__Host-session"]
        assert [await status(url, session) for url in (edge.url, edge.other_url)] == [200, 200]
        assert "You are alice." in (await browser.get("/auth/me")).text

        out = await browser.sign_out()
        assert (out.status, "__Host-session" in browser.cookies) == (200, False)
        assert await status(edge.url, session) == 401

        async def is_denied_by_the_other() -> bool:
            return await status(edge.other_url, session) == 401

        await until(is_denied_by_the_other, "the second authz denies the session")
        assert (await browser.get("/orders")).status == 302

    async def test_the_upstream_sees_the_user_and_no_session_cookie(
        self, edge: Edge, browser: Browser
    ) -> None:
        await browser.sign_in(subject="Dörte")
        edge.echo.received.clear()
        await browser.get("/orders")
        headers = dict(edge.echo.received[-1]["headers"])
        assert (headers["x-auth-credential"], headers["x-auth-scopes"]) == ("session", "orders:read")
        assert browser.cookies["__Host-session"] not in str(headers)

    async def test_the_cookie_is_bound_to_the_host_and_out_of_reach_of_scripts(
        self, browser: Browser
    ) -> None:
        await browser.sign_in()
        [line] = [line for line in browser.set_cookies if line.startswith("__Host-session=")]
        flags = {part.strip().lower() for part in line.split(";")[1:]}
        assert flags == {"secure", "httponly", "samesite=lax", "path=/"}

    async def test_the_request_for_a_code_has_pkce_state_and_nonce(self, browser: Browser) -> None:
        first, second = [(await browser.get("/auth/login")).query for _ in range(2)]
        assert (first["response_type"], first["code_challenge_method"], first["scope"]) == (
            "code",
            "S256",
            "openid",
        )
        for name in ("state", "nonce", "code_challenge"):
            assert len(first[name]) >= 20
            assert first[name] != second[name]
        [line] = browser.set_cookies
        assert line.startswith("__Host-login=")
        assert {"secure", "httponly", "path=/", "samesite=lax"} <= {
            part.strip().lower() for part in line.split(";")
        }

    async def test_the_session_keeps_what_a_logout_of_the_provider_names(
        self, edge: Edge, browser: Browser
    ) -> None:
        await browser.sign_in()
        shown = SessionsClient(f"unix:{edge.places.sessions_socket}", edge.places.sessions_token).show(
            browser.cookies["__Host-session"]
        )
        assert shown is not None
        assert (shown.claims["iss"], shown.claims["sub"]) == (ISSUER, "alice")
        assert shown.claims["sid"]

    async def test_a_logout_at_the_provider_ends_the_session_at_every_sidecar(
        self, edge: Edge, browser: Browser
    ) -> None:
        """OpenID Connect Back-Channel Logout 1.0: authz receives it, and the session has the `sid`."""

        def accept_logouts(policy: dict[str, Any]) -> None:
            policy["credentials"]["issuers"][0]["logout"] = {"audiences": [CLIENT_ID]}

        await edge.change_policy(accept_logouts)
        await browser.sign_in()
        session = browser.cookies["__Host-session"]
        content = SessionsClient(f"unix:{edge.places.sessions_socket}", edge.places.sessions_token).show(
            session
        )
        assert content is not None
        assert [await status(url, session) for url in (edge.url, edge.other_url)] == [200, 200]
        events: dict[str, Any] = {"http://schemas.openid.net/event/backchannel-logout": {}}
        token = edge.provider.token(
            "alice", aud=CLIENT_ID, jti="l1", sid=content.claims["sid"], events=events
        )
        assert await edge.admin.log_out(token) == 200

        async def is_denied_everywhere() -> bool:
            return [await status(url, session) for url in (edge.url, edge.other_url)] == [401, 401]

        await until(is_denied_everywhere, "both authz sidecars deny the session")

    async def test_of_two_tabs_the_last_one_signs_in_and_the_other_offers_it_again(
        self, browser: Browser
    ) -> None:
        tabs = [await browser.get("/auth/login?return_to=/orders") for _ in range(2)]
        backs = [await browser.post(tab.location, {"subject": "alice"}) for tab in tabs]
        cookies = dict(browser.cookies)
        first = await browser.get(backs[0].location)
        assert (first.status, "/auth/login?return_to=%2Forders" in first.text) == (400, True)
        browser.cookies = cookies
        assert (await browser.get(backs[1].location)).status == 303


class TestAttacks:
    async def test_a_session_that_the_browser_had_before_is_ended(self, edge: Edge, browser: Browser) -> None:
        """Session fixation: an attacker signs in, plants the cookie, and waits for the victim to sign in."""
        planted = Browser(edge.url)
        await planted.sign_in(subject="mallory")
        fixed = browser.cookies["__Host-session"] = planted.cookies["__Host-session"]
        to_provider = await browser.get("/auth/login")
        back = await browser.post(to_provider.location, {"subject": "alice"})
        await browser.get(back.location)
        assert browser.cookies["__Host-session"] != fixed
        assert await status(edge.url, fixed) == 401

    async def test_a_callback_of_another_browser_signs_no_one_in(self, edge: Edge, browser: Browser) -> None:
        """Login CSRF (RFC 6749 section 10.12): the victim is led to the callback of an attacker's login."""
        attacker = Browser(edge.url)
        to_provider = await attacker.get("/auth/login")
        back = await attacker.post(to_provider.location, {"subject": "mallory"})
        for foreign in ("", "bm90IG91cnM=.x.y"):
            browser.cookies = {"__Host-login": foreign}
            refused = await browser.get(back.location)
            assert (refused.status, "__Host-session" in browser.cookies) == (400, False)

    async def test_a_callback_is_good_for_one_login(self, browser: Browser) -> None:
        to_provider = await browser.get("/auth/login")
        pending = dict(browser.cookies)
        back = await browser.post(to_provider.location, {"subject": "alice"})
        assert (await browser.get(back.location)).status == 303
        browser.cookies = pending  # the same cookie and URL again
        assert (await browser.get(back.location)).status == 400

    @pytest.mark.parametrize(
        "target",
        [
            "https://evil.example/",
            "//evil.example/",
            "/\\evil.example",
            "/\t/evil.example",
            "javascript:alert(1)",
            "",
        ],
    )
    async def test_the_way_back_stays_on_this_host(self, edge: Edge, browser: Browser, target: str) -> None:
        to_provider = await browser.get(f"/auth/login?{urlencode({'return_to': target})}")
        back = await browser.post(to_provider.location, {"subject": "alice"})
        assert (await browser.get(back.location)).location == f"{edge.url}/"

    @pytest.mark.parametrize(
        "headers",
        [{}, {"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}],
    )
    async def test_another_site_cannot_sign_a_user_out(
        self, edge: Edge, browser: Browser, headers: dict[str, str]
    ) -> None:
        await browser.sign_in()
        assert (await browser.post("/auth/logout", headers=headers)).status == 403
        assert await status(edge.url, browser.cookies["__Host-session"]) == 200

    async def test_the_provider_redirects_to_registered_addresses_only(self, browser: Browser) -> None:
        asked = URL((await browser.get("/auth/login")).location)
        for change in ({"redirect_uri": "https://evil.example/"}, {"client_id": "other"}):
            refused = await browser.get(str(asked.update_query(change)))
            assert (refused.status, "location" in refused.headers) == (400, False)

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"response_type": "token"}, "unsupported_response_type"),
            ({"scope": "profile"}, "invalid_scope"),
            ({"code_challenge_method": "plain"}, "invalid_request"),
        ],
    )
    async def test_an_unsuitable_request_comes_back_as_an_error_and_no_session(
        self, browser: Browser, change: dict[str, str], error: str
    ) -> None:
        asked = URL((await browser.get("/auth/login")).location)
        back = await browser.get(str(asked.update_query(change)))
        assert back.query["error"] == error
        refused = await browser.get(back.location)
        assert (refused.status, "__Host-session" in browser.cookies) == (400, False)
        assert error not in refused.text

    async def test_a_name_with_markup_is_shown_as_text(self, browser: Browser) -> None:
        await browser.sign_in(subject="<b>alice</b>")
        assert "&lt;b&gt;alice" in (await browser.get("/auth/me")).text


class TestOutage:
    async def test_without_the_sessions_api_no_one_is_signed_in_and_no_one_seems_signed_out(
        self, edge: Edge, browser: Browser
    ) -> None:
        await browser.sign_in()
        token = edge.places.sessions_token.read_text()
        try:
            other = Browser(edge.url)
            edge.places.sessions_token.unlink()  # neither side can read it
            assert (await other.sign_in()).status == 503
            out = await browser.sign_out()
            assert (out.status, "You are still signed in" in out.text) == (503, True)
            assert "__Host-session" in browser.cookies
        finally:
            edge.places.sessions_token.write_text(token)
        assert (await browser.sign_out()).status == 200


@pytest.fixture(scope="module")
def application() -> ModuleType:
    file = Path(__file__).parents[2] / "examples" / "login" / "app.py"
    spec = importlib.util.spec_from_file_location("login_application", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", ["/", "/orders?page=2#x", "/a//b", "/%2F/evil.example"])
async def test_paths_of_this_host_are_ways_back(application: ModuleType, path: str) -> None:
    assert application.way_back(path) == path


@pytest.mark.parametrize("path", ["", "orders", "//e", "/\\e", "/a\nb", "/é", "/" + "a" * 1000, "https:/e"])
async def test_everything_else_leads_to_the_root(application: ModuleType, path: str) -> None:
    assert application.way_back(path) == "/"
