"""OpenID Connect Discovery: where the keys are, by the issuer's word, and how far that word goes."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from authz.credentials.jwt.config import IssuerConfig, KeySetConfig
from authz.credentials.jwt.discovery import DiscoveryError, discovery_url, key_set_url
from authz.request.identity import Identity, RefusalReason
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.signing import ISSUER, bearer, jwk, key_set, private_key, token
from tests.support.webserver import WebServer

Serve = Callable[[], Awaitable[WebServer]]
AT = "https://idp.example.com/.well-known/openid-configuration"


def document(**changes: Any) -> bytes:
    return json.dumps({"issuer": ISSUER, "jwks_uri": "https://idp.example.com/keys"} | changes).encode()


def config(**changes: Any) -> KeySetConfig:
    return KeySetConfig.model_validate({"discovery": True} | changes)


def test_the_document_names_the_url_of_the_keys() -> None:
    assert key_set_url(document(), AT, ISSUER, config()) == "https://idp.example.com/keys"


@pytest.mark.parametrize("issuer", ["https://idp.example.com/realm", "https://idp.example.com/realm/"])
def test_it_is_a_key_of_the_issuer(issuer: str) -> None:
    """Section 4.1: a slash at the end of the issuer is left out."""
    expected = "https://idp.example.com/realm/.well-known/openid-configuration"
    assert discovery_url(config(), issuer) == expected


@pytest.mark.parametrize("issuer", ["https://evil.example", ISSUER + "/", None, 7])
def test_a_document_of_another_issuer_is_refused(issuer: Any) -> None:
    """Section 4.3: the issuer in the document must be the very one that was asked about."""
    with pytest.raises(DiscoveryError, match="of issuer"):
        key_set_url(document(issuer=issuer), AT, ISSUER, config())


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"null"])
def test_garbage_is_refused(content: bytes) -> None:
    with pytest.raises(DiscoveryError):
        key_set_url(content, AT, ISSUER, config())


@pytest.mark.parametrize(
    "url",
    [None, 7, "", "ftp://idp.example.com/k", "http://idp.example.com/k", "https://u:p@idp.example.com/k"],
)
def test_a_place_that_no_key_set_is_fetched_from_is_refused(url: Any) -> None:
    with pytest.raises(DiscoveryError):
        key_set_url(document(jwks_uri=url), AT, ISSUER, config())


def test_a_host_that_is_not_listed_is_refused() -> None:
    with pytest.raises(DiscoveryError, match=r"keys\.example\.net"):
        key_set_url(document(jwks_uri="https://keys.example.net/k"), AT, ISSUER, config())


def test_a_host_that_is_listed_is_taken() -> None:
    url = "https://keys.example.net/k"
    found = key_set_url(document(jwks_uri=url), AT, ISSUER, config(allow_hosts=["keys.example.net"]))
    assert found == url


def test_discovery_needs_an_issuer_that_is_a_url() -> None:
    block = {"issuer": "idp", "audiences": ["x"], "jwks": {"discovery": True}}
    with pytest.raises(ValueError, match="issuer that is a URL"):
        IssuerConfig.model_validate(block)


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"url": "https://a.example/", "discovery": True},
        {"url": "https://a.example/", "allow_hosts": ["b"]},
    ],
)
def test_a_key_set_comes_from_one_place(block: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"exactly one|needs discovery"):
        KeySetConfig.model_validate(block)


async def test_keys_are_found_over_two_real_fetches(
    harness: CredentialsHarness, started: Any, serve: Serve
) -> None:
    server = await serve()
    server.bodies["/.well-known/openid-configuration"] = json.dumps(
        {"issuer": server.url, "jwks_uri": f"{server.url}/keys"}
    ).encode()
    server.bodies["/keys"] = key_set(jwk(private_key("ES256")))
    harness.real_fetch = True
    jwks = {"discovery": True, "allow_http": True, "allow_addresses": ["127.0.0.0/8"]}
    block = {"issuers": [{"issuer": server.url, "audiences": ["edge"], "jwks": jwks}]}
    credentials = await started(harness.credentials(block))
    assert isinstance(harness.outcome(credentials, bearer(token(iss=server.url))), Identity)
    assert server.asked == ["/.well-known/openid-configuration", "/keys"]


async def test_a_private_address_behind_jwks_uri_is_not_connected_to(
    harness: CredentialsHarness, started: Any, serve: Serve
) -> None:
    """The publisher of the document must not make the sidecar connect to private addresses."""
    server = await serve()
    server.bodies["/conf"] = json.dumps({"issuer": ISSUER, "jwks_uri": "http://169.254.169.254/k"}).encode()
    harness.real_fetch = True
    jwks = {
        "discovery": f"{server.url}/conf",
        "allow_http": True,
        "allow_addresses": ["127.0.0.0/8"],
        "allow_hosts": ["169.254.169.254"],
    }
    block = {"issuers": [{"issuer": ISSUER, "audiences": ["edge"], "jwks": jwks}]}
    credentials = await started(harness.credentials(block))
    assert reason_of(harness.outcome(credentials, bearer(token()))) == RefusalReason.KEYS_UNAVAILABLE
    assert "not a public address" in credentials.describe()["issuers"][0]["key_set"]["problem"]
