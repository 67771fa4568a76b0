"""A browser whose cookie cannot be used gets the login, and goes there without the cookies that led to it."""

from typing import Any

import pytest

from authz.engine.login import MAX_CLEARED
from authz.request.identity import CredentialKind, Refusal, RefusalReason
from protos.authz_pb2 import DeniedHttpResponse
from tests.support.answers import Answers

POLICY = """
login: {url: "https://login.example.com/"}
credentials:
  sessions: {locations: [{cookie: session}, {cookie: __Secure-s}]}
rules: [{name: app, allow: authenticated}]
"""
TWICE = {"accept": "text/html", "cookie": "session=a; theme=dark; theme=light; session=b"}


def asked(host: str = "a.example.com", path: str = "/app/page", **asked: Any) -> DeniedHttpResponse:
    refused = Refusal(RefusalReason.CREDENTIALS_AMBIGUOUS, kind=CredentialKind.SESSION)
    return Answers(POLICY, refused)(host=host, path=path, **({"headers": TWICE} | asked)).denied_response


def cookies(response: DeniedHttpResponse) -> list[str]:
    return [option.header.value for option in response.headers if option.header.key == "set-cookie"]


def test_oauth2_proxy_2606_a_browser_with_two_sessions_gets_the_login() -> None:
    response = asked()
    assert response.status.code == 302
    assert response.headers[0].header.value == "https://login.example.com/?return_to=/app/page"


def test_both_cookies_are_ended_wherever_they_came_from() -> None:
    ended = {line.removesuffix("; Max-Age=0") for line in cookies(asked())}
    assert ended == {
        f"session=; Path={path}{domain}"
        for path in ("/", "/app", "/app/", "/app/page")
        for domain in ("", "; Domain=a.example.com", "; Domain=example.com")
    }


def test_two_cookies_that_both_hold_a_credential_can_be_cleared() -> None:
    """Two kinds of credential in one request: neither the browser nor its user can remove one of them."""
    headers = {"accept": "text/html", "cookie": "session=a; __Secure-s=b; theme=dark"}
    response = asked(headers=headers, host="localhost", path="/")
    assert response.status.code == 302
    assert cookies(response) == [
        "session=; Path=/; Max-Age=0",
        "__Secure-s=; Path=/; Max-Age=0; Secure",
    ]


def test_no_line_is_one_that_envoy_leaves_out() -> None:
    """Seen on Envoy 1.40: it drops headers of a denial that are to be appended to what is not there."""
    assert not any(option.append.value for option in asked().headers)


def test_a_cookie_with_a_prefix_is_ended_as_its_prefix_asks() -> None:
    """RFC 6265bis section 4.1.3.1."""
    headers = {"accept": "text/html", "cookie": "__Secure-s=a; __Secure-s=b"}
    assert all(line.endswith("; Max-Age=0; Secure") for line in cookies(asked(headers=headers)))


@pytest.mark.parametrize("host", ["[2001:db8::1]", "192.0.2.1", "localhost"])
def test_an_address_and_a_name_without_a_dot_have_no_domain(host: str) -> None:
    assert cookies(asked(host=host, path="/")) == ["session=; Path=/; Max-Age=0"]


def test_lines_are_bounded() -> None:
    assert len(cookies(asked(host=".".join("abcdefgh"), path="/a" * 100))) == MAX_CLEARED


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "POST"},
        {"headers": TWICE | {"accept": "application/json"}},
        {"headers": TWICE | {"sec-fetch-mode": "cors"}},
        {"headers": {"accept": "text/html", "cookie": "session=a", "authorization": "Bearer b"}},
        {"headers": {"accept": "text/html", "cookie": 'session=a; session=""; session='}},
    ],
)
def test_a_client_other_than_a_browser_gets_400_for_two_cookies(changes: dict[str, Any]) -> None:
    response = asked(**changes)
    assert response.status.code == 400
    assert not cookies(response)
